"""What the README shows works: its example runs, its map names files that exist, its commands are commands."""

import functools
import re
from pathlib import Path

import pytest

import gcl_toolkit
from gcl_toolkit import TrainConfig, load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs(monkeypatch, capsys):
    small = functools.partial(load, products=300, queries=80, per_query=10, size=16)
    monkeypatch.setattr(gcl_toolkit, "load", lambda name, seed: small(name, seed=seed))
    monkeypatch.setattr(gcl_toolkit, "TrainConfig", functools.partial(TrainConfig, steps=2, batch=16))
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    namespace: dict = {}
    exec(code, namespace)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    assert namespace["ids"].shape == (1, 10)
    assert "NDCG@10 " in capsys.readouterr().out


def test_the_map_names_every_module_and_none_that_is_gone():
    mapped = README.split("## Map")[1].split("```")[1]
    named = set(re.findall(r"\b(\w+)(?:\.py|/)", mapped))
    there = {path.stem for path in (ROOT / "gcl_toolkit").iterdir() if path.suffix == ".py" or path.is_dir()}
    there -= {"__init__", "__pycache__"}
    assert there <= named, there - named
    folders = {path.name for path in ROOT.iterdir()} | {path.stem for path in (ROOT / "gcl_toolkit").rglob("*")}
    assert not {name for name in named if name not in folders and name != "test_architecture"} - {"references"}


def test_every_command_shown_exists(capsys):
    from gcl_toolkit import cli

    for command in sorted(set(re.findall(r"^gcl (\w+)", README, re.M))):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert not stop.value.code, command
        assert "usage: gcl" in capsys.readouterr().out
