"""The documents: their commands, options, imports and links exist; and the site that `make docs` builds."""

import ast
import importlib
import inspect
import re
import shlex
from functools import cache

import pytest
import tyro

from docs import build
from gcl_toolkit.cli import COMMANDS, app
from gcl_toolkit.methods import METHODS, WEIGHTINGS

PAGES = [page for page in build.documents() if page.name not in ("LOG.md", "CHANGELOG.md")]
OTHER_TOOLS = {"--small", "--repo-type"}
"""Options that documents mention alone but that belong to the benchmarks or to other programs."""


@cache
def parsers(commands=app, prefix=()):
    """("data", "check") -> the argument parser of that command."""
    result = {}
    for module, _ in COMMANDS.values():
        importlib.import_module(f"gcl_toolkit.cli.{module}")
    for name, spec in commands._subcommands.items():
        if isinstance(spec.target, tyro.extras.SubcommandApp):
            result |= parsers(spec.target, (*prefix, name))
        else:
            result[*prefix, name] = tyro.extras.get_parser(spec.target)
    return result


def options_of(parser):
    return {option for option in parser._option_string_actions if option.startswith("--")}


def name_of(words):
    """The command that the words begin with; None for a group of commands ("gcl data") and placeholders in capitals."""
    name = next((name for name in parsers() if tuple(words[: len(name)]) == name), None)
    groups = {name[:1] for name in parsers() if len(name) > 1}
    assert name or not words or words[0].isupper() or tuple(words) in groups, f"there is no command gcl {words[0]}"
    return name


def shell_commands(text):
    """The lines of `gcl` in code blocks, without comments; continued lines are joined."""
    for block in re.findall(r"(?ms)^```(?:sh|bash|console)?\n(.*?)^```", text):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if started := re.match(r"(?:\$ )?(?:\.venv/bin/)?gcl |.* -m gcl_toolkit\.cli ", line):
                for part in line[started.end() :].split("; gcl "):
                    yield shlex.split(part, comments=True)


def inline_code(text):
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def each_page(function):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(build.ROOT)))(function)


@each_page
def test_commands_exist_and_take_these_arguments(page, capsys):
    for words in shell_commands(page.read_text()):
        name = name_of(words)
        if name and "..." not in words:
            parse(name, words[len(name) :], capsys)


def parse(name, arguments, capsys):
    """Parse the arguments without running the command; --help is accepted."""
    try:
        parsers()[name].parse_args(arguments)
    except SystemExit as stopped:
        if stopped.code:
            pytest.fail(f"gcl {shlex.join([*name, *arguments])}: {capsys.readouterr().err}")


@each_page
def test_options_in_prose_exist(page):
    all_options = set().union(*map(options_of, parsers().values())) | OTHER_TOOLS
    for code in inline_code(page.read_text()):
        options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
        if code.startswith("gcl "):
            name = name_of(code.split()[1:])
            assert not name or options <= options_of(parsers()[name]), code
        elif code.startswith("--"):
            assert options <= all_options, code


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_has_the_first_line_of_their_help(name):
    module, line = COMMANDS[name]
    importlib.import_module(f"gcl_toolkit.cli.{module}")
    spec = app._subcommands[name]
    assert getattr(spec.target, "__name__", None) != "<lambda>"  # the module registers the command
    assert " ".join((spec.help or inspect.getdoc(spec.target).split("\n\n")[0]).split()) == line


def test_every_method_and_weighting_is_documented():
    text = (build.ROOT / "docs" / "FINE_TUNE.md").read_text()
    assert [name for name in (*METHODS, *WEIGHTINGS) if f"`{name}`" not in text] == []


@each_page
def test_code_blocks_import_what_exists(page):
    for block in re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text()):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("gcl_toolkit"):
                module = importlib.import_module(node.module)
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module


@each_page
def test_make_targets_exist(page):
    targets = re.findall(r"(?m)^(\w+):", (build.ROOT / "Makefile").read_text())
    text = page.read_text()
    used = [
        *re.findall(r"(?m)^make (\w+)", text),
        *(code[5:] for code in inline_code(text) if code.startswith("make ")),
    ]
    assert set(used) <= set(targets)


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@each_page
def test_relative_links_and_anchors_resolve(page):
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        target = (page.parent / link).resolve() if link else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            headings = re.findall(r"(?m)^#+ (.*)$", target.read_text())
            assert anchor in map(slug, headings), f"{link}#{anchor}"


@pytest.mark.parametrize(
    "written", ["```\ngcl nothing --data x\n```", "```\ngcl train --loss gcl\n```", "```\ngcl demo x\n```"]
)
def test_a_wrong_command_is_found(tmp_path, capsys, written):
    page = tmp_path / "page.md"
    page.write_text(written)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_commands_exist_and_take_these_arguments(page, capsys)


def test_the_site_reports_broken_links(tmp_path):
    (tmp_path / "other.html").write_text('<a href="gone.html#x">a</a> <a href="https://example.org">b</a>')
    (tmp_path / "index.html").write_text('<a href="other.html#part">a</a> <img src="img/none.png">')
    assert build.broken_links(tmp_path) == ["index.html: img/none.png", "other.html: gone.html"]


def test_the_site_links_to_pages_and_copies_files(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SITE", tmp_path)
    links = '<a href="../notebooks/README.md#a"> <a href="LOG.md"> <a href="../LICENSE">'
    build.write(build.ROOT / "docs" / "x.md", links)
    page = (tmp_path / "docs" / "x.html").read_text()
    assert page == '<a href="../notebooks/index.html#a"> <a href="LOG.html"> <a href="../LICENSE">'
    assert (tmp_path / "LICENSE").is_file()


def test_the_documents_of_the_site_have_no_broken_links(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SITE", tmp_path)
    for notebook in (build.ROOT / "notebooks").glob("*.ipynb"):
        build.write(notebook, "")
    build.write(build.ROOT / "api" / "gcl_toolkit.md", "")
    for name in build.PRINTED:
        build.printed(name)
    for source in build.documents():
        build.write(source, build.document(source))
    assert build.broken_links(tmp_path) == []
