"""What the commands share: the console, the tree of commands, and how data is opened."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from gcl_toolkit.errors import DataError, UserError

if TYPE_CHECKING:  # `gcl --help` imports none of them
    from gcl_toolkit.data.fields import Fields
    from gcl_toolkit.data.ranked_data import RankedData
    from gcl_toolkit.studies.worlds import World

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and newline: a terminal takes them for commands."""
_INTERVAL = re.compile(r" (\[[^]]*, [^]]*\])")


class Terminal(Console):
    """Prints texts as they are: no markup, emoji names, highlighting, line breaks; control characters become spaces."""

    def __init__(self, **options):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects, **options) -> None:  # type: ignore[override]
        super().print(*objects, **{"soft_wrap": all(isinstance(each, str) for each in objects)} | options)

    def render_str(self, text: str, **options) -> Text:  # type: ignore[override]
        return super().render_str(_CONTROL.sub(" ", text), **options)

    def status(self, status, **options) -> Status:  # type: ignore[override]
        return super().status(Text(_CONTROL.sub(" ", status)), **options)


console = Terminal(quiet=os.environ.get("RANK", "0") != "0")


class Commands(tyro.extras.SubcommandApp):
    """A tree of commands that `cli` only parses: it returns what is to be called."""

    def command(self, func=None, **options):  # type: ignore[override]
        if isinstance(func, Commands):
            return super().command(func, **options)
        register = super().command

        def add(function: Callable) -> Callable:
            later = wraps(function)(lambda *arguments, **named: partial(function, *arguments, **named))
            register(later, **options)
            return function

        return add if func is None else add(func)


app = Commands()


def parsed(words: Sequence[str], name: str) -> Callable[[], None]:
    """What was typed, ready to be called. name: of the command, or "". A value that a setting refuses is a UserError;
    what can't be parsed is printed, and exits with status 2."""
    errors, about = io.StringIO(), "Train and measure retrieval models on ranking scores."
    try:
        with redirect_stderr(errors):
            return app.cli(args=words, prog="gcl", description=about)
    except SystemExit as stop:
        refused = stop.__context__ and stop.__context__.__context__
        if isinstance(refused, UserError):
            raise refused from None
        footer = re.compile(rf"gcl( --help(?:\x1b\[[\d;]*m)*) {{{len(name) + 1}}}")  # of all commands, not of this one
        print(footer.sub(rf"gcl {name}\1", errors.getvalue()) if name else errors.getvalue(), end="", file=sys.stderr)
        raise


@dataclass(frozen=True)
class Source:
    """What is trained on what: the settings that gcl train, compare and lab share."""

    data: str = "shop"
    """"shop", "marqo_gs", or a file or folder: MarqoGS (hub parquet or tar), your own table, saved splits. Options
    follow a colon: marqo_gs:queries=2000,fields=title or my.csv:quarantine=bad.csv."""
    left: str = "query=1"
    """Fields of the queries with weights."""
    right: str = ""
    """Fields of the products with weights; by default image=0.5,title=0.5, or the one of them that the data has."""
    encoder: str = "small"
    """small, vectors (adapters, docs/ADAPTERS.md), lite, an open_clip name, hf-hub:org/name, text:org/name."""
    pretrained: str | None = None
    """open_clip's tag or a checkpoint file."""
    evaluate_every: int = 0
    """Also measure the dev queries of every split every N steps and after the last; gcl report draws it."""

    def right_of(self, data: RankedData) -> Fields:
        """The fields of the products that were named, or else those that they have."""
        from gcl_toolkit.data.fields import Fields

        if self.right:
            return Fields.parse(self.right)
        columns = {name.removesuffix("_vector") for name in data.corpus.column_names}
        if len(usual := columns & {"image", "title"}) != 1:
            return Fields(image=0.5, title=0.5)
        console.print(f"note: the products are embedded by their {min(usual)}; --right names other fields")
        return Fields(**{min(usual): 1.0})

    def __post_init__(self):
        """Paths become absolute, since the settings are stored, and read from other folders."""
        from gcl_toolkit.data.sources import absolute
        from gcl_toolkit.models.encoders import absolute_name

        object.__setattr__(self, "data", absolute(self.data))
        object.__setattr__(self, "encoder", absolute_name(self.encoder))
        if self.pretrained and Path(self.pretrained).is_file():
            object.__setattr__(self, "pretrained", str(Path(self.pretrained).absolute()))


def splits_of(data: str, names: Sequence[str]) -> dict[str, RankedData]:
    """Some splits of a source."""
    from gcl_toolkit.data.sources import load

    with reading(data):
        splits = load(data)
    for name in names:
        if name not in splits:
            raise DataError(f"{data} has no split {name!r}; it has {', '.join(splits)}")
    print_notes(splits[names[0]])
    return {name: splits[name] for name in names}


def reading(data: str) -> AbstractContextManager:
    """A spinner while data is read; none for a source that shows its own progress."""
    return nullcontext() if data.startswith("marqo_gs") else console.status(f"reading {data}")


def print_notes(data: RankedData) -> None:
    """What a source left out or changed while it read."""
    for note in data.card.get("notes", []):
        console.print(f"note: {note}")


def print_table(
    header: Sequence[object], rows: Iterable[Sequence], *, numeric: bool = False, bold: Collection[str] = (), **options
) -> None:
    """numeric: all columns but the first hold numbers. bold: the first cells of the rows that stand out.

    In a terminal that is too narrow, intervals get lines of their own, or else are left out.
    """
    cells = [[*map(str, row)] for row in rows]
    wide, narrow = options, {**options, "box": box.SIMPLE, "padding": (0, 1, 0, 0)}
    for between, layout in ((" ", wide), ("\n", narrow), ("", narrow)):
        table = _table(header, [[_respaced(cell, between) for cell in row] for row in cells], numeric, bold, layout)
        if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
            break
    console.print(table)
    if not between and any(_INTERVAL.search(cell) for row in cells for cell in row):
        console.print(f"intervals are left out: {console.width} columns are too few for them")


def _respaced(cell: str, between: str) -> str:
    """A cell with `between` between a number and its interval; with "", without the interval."""
    return _INTERVAL.sub(f"{between}\\1" if between else "", cell)


def _table(header: Sequence[object], cells: list[list[str]], numeric: bool, bold: Collection[str], layout) -> Table:
    justify: Literal["left", "right"] = "right" if numeric else "left"
    columns = [Column(str(name), justify=justify, overflow="fold") for name in header]
    columns[0].justify, columns[0].no_wrap = "left", all(len(row[0]) <= 24 for row in cells)  # names stay whole
    table = Table(*columns, **layout)
    for row in cells:
        table.add_row(*row, style="bold" if row[0] in bold else "")
    return table


def warn_of_few(queries: Mapping[str, int]) -> None:
    """queries: split -> their number."""
    from gcl_toolkit.measure.statistics import FEW

    if few := [split for split, count in queries.items() if count < FEW]:
        console.print(f"fewer than {FEW} queries in {', '.join(few)}: these intervals are unreliable", style="yellow")


def study_worlds(folder: Path, data: str | None, complete: str | None, most: int | None = None) -> list[World]:
    """The data of a study, or of its first worlds: what its study.json names, or `data` as its first world."""
    from gcl_toolkit.studies.study import open_study, read_study
    from gcl_toolkit.studies.worlds import specs_of

    if data:
        name = str(read_study(folder)["world"].iloc[0])
        specs = [replace(spec, name=name) for spec in specs_of(data, complete=complete.split(",") if complete else ())]
    else:
        specs = list(open_study(folder).worlds)
    if not specs:
        raise UserError(f"{folder} doesn't say what data it was made of; give it with --data")
    with console.status(f"reading {data or 'the data of the study'}"):
        return [spec.open() for spec in specs[:most]]


def model_folder(run: Path) -> Path:
    """The folder of a run or a model as it is; of a study, that of its model with the default method."""
    from gcl_toolkit.methods import DEFAULT

    return next(iter(sorted(run.glob(f"runs/*/{DEFAULT}/seed_0"))), run) if (run / "study.json").is_file() else run


def data_of(run: Path | None, data: str | None) -> str:
    """`data` if it is given, else what a run of gcl train or a study was made of."""
    from gcl_toolkit.training.runs import read_config

    if data:
        return data
    if run is None:
        raise UserError("there is no run that says what data to use; give some with --data")
    study = run / "study.json"
    if study.is_file() and (worlds := json.loads(study.read_text()).get("worlds")):
        return worlds[0]["source"]
    arguments = read_config(run).get("arguments", {}) if (run / "config.json").is_file() else {}
    if "data" not in arguments:
        raise UserError(f"{run} doesn't say what data it was trained on; give some with --data")
    return arguments["data"]


def progress() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def command() -> str:
    """The command as it was typed, for the record, without passwords and tokens."""
    typed = shlex.join(["gcl", *sys.argv[1:]])
    return re.sub(r"(--token[= ])('[^']*'|\S+)|(?<=://)[^\s/@]+(?=@)", lambda match: f"{match[1] or ''}***", typed)
