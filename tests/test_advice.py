"""Commands that messages advise exist, with their options; what is printed from data is never taken for markup."""

import ast
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from test_docs import OTHER_TOOLS, name_of, options_of, parsers

import gcl_toolkit
from gcl_toolkit.cli import common
from gcl_toolkit.cli.common import Terminal, print_table
from gcl_toolkit.measure.statistics import Interval
from gcl_toolkit.studies.markdown import escaped
from gcl_toolkit.views import figures

ROOT = Path(gcl_toolkit.__file__).parents[1]
SOURCES = sorted(file for folder in ("gcl_toolkit", "app") for file in (ROOT / folder).rglob("*.py"))


def texts(source):
    """(line, text) of every string of Python code; X stands for what an f-string fills in."""
    inside = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node)} - {id(node)}
            parts = (str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def advised(source):
    """(line, words) of every command "gcl ..." in the strings; words end where prose goes on."""
    for line, text in texts(source):
        for match in re.finditer(r"(?<![\w./-])gcl ((?:[a-z]+ ?)[^;`<\n()]*)", text):
            yield line, re.findall(r"[^\s,'\"]+", match[1])


def faults(source):
    """Commands in the strings that don't exist, and options that theirs doesn't have."""
    for line, words in advised(source):
        try:
            name = name_of([word.rstrip(".:") for word in words])
        except AssertionError as error:
            yield f"line {line}: {error}"
            continue
        known = options_of(parsers()[name]) if name else set()
        options = {found for word in words if (found := re.sub(r"=.*|\.$", "", word)).startswith("--")}
        yield from (f"line {line}: gcl {shlex.join(words)}: {option}" for option in sorted(options - known))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_advised_commands_exist(file):
    assert [*faults(file.read_text("utf-8"))] == []


def test_options_in_messages_exist():
    others = {"--nproc-per-node", "--metric-only"}  # of torchrun and of the official script
    known = set().union(*map(options_of, parsers().values())) | OTHER_TOOLS | others
    used = {
        (option, str(file.relative_to(ROOT)))
        for file in SOURCES
        if file.parent.name != "tabs" and file.name != "export.py"  # CSS
        for _, text in texts(file.read_text("utf-8"))
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", text)
    }
    assert {(option, file) for option, file in used if option not in known} == set()


@pytest.mark.parametrize(
    "code", ['"run gcl nothing"', 'f"gcl train --resum {x}"', '"gcl data make X --shards 2; gcl report X --no"']
)
def test_a_wrong_advice_is_found(code):
    assert [*faults(code)]


HOSTILE = [
    "Mug [red] 300 ml",
    "Bowl [/clearance]",
    "[bold]x",
    "<b>x</b>",
    "<a href='x'>y</a>",
    ":dog:",
    "a|b",
    "%{x}",
    "&lt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_the_terminal_prints_texts_as_they_are(text):
    table = Table(text, title=text)
    table.add_row(text)
    terminal = Terminal(width=200, file=io.StringIO(), record=True)
    with terminal.status(text):
        terminal.print(table)
        terminal.print(text)
    assert terminal.export_text().count(text) == 4


def test_control_characters_do_not_reach_the_terminal(capsys):
    Terminal(width=80).print("red \x1b[31m mug\x9b1m \x07")
    assert not set(capsys.readouterr().out) & {"\x1b", "\x9b", "\x07"}


@pytest.mark.parametrize(("splits", "width"), [(4, 120), (4, 80), (5, 80)])
def test_tables_break_neither_names_nor_numbers(splits, width, monkeypatch):
    terminal = Terminal(width=width, file=io.StringIO(), record=True)
    monkeypatch.setattr(common, "console", terminal)
    names = ["in_domain", "novel_query", "novel_document", "zero_shot", "macro"][:splits]
    cells = [Interval(k / 10 + 0.011, k / 10, k / 10 + 0.022) for k in range(splits)]
    print_table(["method", *names], [("graded-noscores", *cells), ("one", *cells)], numeric=True)
    shown = terminal.export_text()
    for name in (*names, "graded-noscores"):
        assert name in shown
    for cell in cells:
        assert shown.count(f"{cell}".split(" ", 1)[0]) >= 2
        assert (f"{cell}".split(" ", 1)[1] in shown) is (splits == 4)
    assert ("intervals are left out" in shown) is (splits > 4)


@pytest.mark.parametrize("text", HOSTILE)
def test_figures_show_names_as_they_are(text):
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    scores = figures.scores({text: {text: (0.5, 0.4, 0.7)}}, text)
    assert (scores.data[0].name, scores.layout.yaxis.ticktext, scores.layout.xaxis.title.text) == (
        shown,
        (shown,),
        shown,
    )
    panels = figures.clouds({text: (np.zeros((2, 2)), [0, 0])}, [text])
    assert (panels.data[0].name, panels.layout.annotations[0].text) == (shown, shown)


def test_markdown_cells_stay_one_cell():
    assert escaped("a|b\nc") == "a\\|b c"
    assert escaped("<img src=x>") == "&lt;img src=x>"
