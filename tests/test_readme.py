"""What the README shows works in a fresh clone: its code, its commands, its map; and it stays short."""

import re
import subprocess
from pathlib import Path

import pytest

import gcl_toolkit

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_it_is_read_in_two_minutes():
    assert len(README.split()) <= 900
    tables = re.findall(r"(?:^\|.*\n)+", README, re.M)
    assert len(tables) == 1
    assert tables[0].count("\n") <= 2 + 6


def test_the_code_runs_line_by_line(monkeypatch, capsys):
    """As it is printed, on a smaller shop and with fewer steps."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith(("from", "import"))]) <= 10
    assert '("shop", seed=0)' in code
    small = '("shop", seed=0, products=300, queries=80, per_query=10, size=16)'
    exec(code.replace('("shop", seed=0)', small).replace("steps=400", "steps=2, batch=16"), {})
    assert "NDCG@10 " in capsys.readouterr().out.splitlines()[-1]


def shell_lines():
    for block in re.findall(r"```\n((?:make|gcl|pip).*?)```", README, re.S):
        for line in block.splitlines():
            yield line.split("#")[0].strip()
    yield from re.findall(r"`((?:make|gcl) [^`]+)`", README.replace("\n", " "))


@pytest.mark.parametrize("line", sorted(set(shell_lines())))
def test_every_command_shown_exists(line, capsys):
    """`make` plans it; `gcl` knows the command and its options. That it works to its end is what other tests run."""
    if line.startswith("make "):
        planned = subprocess.run(["make", "--dry-run", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True)
        assert planned.returncode == 0, planned.stderr
        return
    from gcl_toolkit import cli

    with pytest.raises(SystemExit) as stop:
        cli.main([line.split()[1], "--help"])
    assert not stop.value.code
    usage = capsys.readouterr().out
    assert all(option in usage for option in re.findall(r"--[\w-]+", line))


def test_nothing_needs_a_folder_outside_the_clone():
    assert "../" not in README


def test_the_map_names_every_folder_and_none_that_is_gone():
    mapped = README.split("## Map")[1].split("```")[1]
    named = set(re.findall(r"\b(\w+)/", mapped))
    folders = {path.name for path in (ROOT / "gcl_toolkit").iterdir() if path.is_dir() and path.name[0] != "_"}
    top = {"app", "notebooks", "benchmarks", "tests", "docs"}
    assert named == folders | top | {"gcl_toolkit", "fast"}
    assert all((ROOT / name).is_dir() for name in top)
    for path in re.findall(r"`([\w/]+\.py)`", README):
        assert (ROOT / "gcl_toolkit" / path).is_file() or (ROOT / path).is_file(), path


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_version_is_the_same_everywhere():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == gcl_toolkit.__version__
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
