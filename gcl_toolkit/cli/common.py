"""What the commands share: the console, the tree of commands, and how data is opened."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gcl_toolkit import recipes
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.ranked_data import RankedData
from gcl_toolkit.sources import load, spelt
from gcl_toolkit.study import World, read_study

console = Console(quiet=os.environ.get("RANK", "0") != "0")
app = tyro.extras.SubcommandApp()
data_app = tyro.extras.SubcommandApp()
app.command(data_app, name="data", help="Look at data, make data.")


def splits_of(data: str, names: Sequence[str]) -> dict[str, RankedData]:
    splits = load(data)
    for name in names:
        if name not in splits:
            raise DataError(f"{data} has no split {name!r}; it has {', '.join(splits)}")
    return {name: splits[name] for name in names}


def split_of(data: str, name: str) -> RankedData:
    return splits_of(data, [name])[name]


def judged(splits: dict[str, RankedData], data: str, complete: str | None) -> dict[str, RankedData]:
    from gcl_toolkit.sources.hierarchy import complete_grades

    return complete_grades(splits, spelt(data)[0], tuple(complete.split(","))) if complete else {}


def first_world(folder: Path, data: str, complete: str | None) -> World:
    """The data of a study's first world, the one whose queries are shown; shop2 and sparse2 are made with seed 2."""
    name = str(read_study(folder)["world"].iloc[0])
    seed = re.search(r"\d*$", name)
    with console.status(f"reading {data}"):
        splits = load(data, **({"seed": int(seed[0])} if data == "shop" and seed and seed[0] else {}))
        return World(name, splits, judged(splits, data, complete))


def worlds_of(folder: Path, data: str | None, complete: str | None) -> Sequence[World]:
    """The worlds that a study was made of: those of a recipe, or the first, of other data."""
    if data is None:
        path = folder / "results.json"
        words = shlex.split(json.loads(path.read_text())["command"]) if path.is_file() else []
        if words[1:2] != ["demo"]:
            raise UserError(f"{path} names no recipe; say with --data what the study was made of")
        data = words[words.index("--recipe") + 1] if "--recipe" in words else "shop"
    if data in recipes.RECIPES and data != "shop":  # which is a source too
        return recipes.RECIPES[data].worlds()
    return [first_world(folder, data, complete)]


def progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def command() -> str:
    """As it was typed, to stand beside results; without passwords and tokens."""
    typed = shlex.join(["gcl", *sys.argv[1:]])
    return re.sub(r"(--token[= ])('[^']*'|\S+)|(?<=://)[^\s/@]+(?=@)", lambda found: f"{found[1] or ''}***", typed)


def model_folder(run: Path) -> Path:
    """The folder of a run or a model as it is; of a study that of its gcl-matrix model."""
    return next(iter(sorted(run.glob("runs/*/gcl-matrix/seed_0"))), run) if (run / "study.json").is_file() else run
