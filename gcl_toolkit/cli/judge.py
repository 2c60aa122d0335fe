"""gcl judge."""

from __future__ import annotations

import math
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gcl_toolkit.cli.common import app, console, print_notes, progress
from gcl_toolkit.curate.settings import KEYS, PER_REQUEST, ModelConfig, check_model
from gcl_toolkit.data.judgements import Judgements
from gcl_toolkit.data.runs import read_systems
from gcl_toolkit.errors import DataError, UserError, counted
from gcl_toolkit.files import writable_folder

if TYPE_CHECKING:  # openai and httpx2 may not be installed
    from gcl_toolkit.curate.filling import Open


@app.command(name="judge")
def judge_command(
    runs: tyro.conf.Positional[tuple[str, ...]],
    qrels: Path,
    products: Path,
    queries: Path | None = None,
    judgements: Path = Path("judgements.jsonl"),
    depth: int = 10,
    for_human: int = 0,
    config: Annotated[ModelConfig, tyro.conf.arg(name="")] = ModelConfig(),  # noqa: B008 - frozen
) -> None:
    """Let a language model grade the unjudged products that two to five systems show.

    The grades are appended to a file of judgements; gcl compare-runs --judge corrects them by those of people.

    Args:
        runs: files of rankings, or NAME=file, as for gcl compare-runs.
        qrels: the judgements that exist.
        products: a table with product_id and title.
        queries: a table with query_id and query, the text; not needed where the ids are the texts.
        judgements: the file to append to; the answers are kept beside it, so that the same command continues.
        depth: ranks of each system that are graded.
        for_human: only write a table of the first N queries, in random order, for people to grade; needs no model.
    """
    if depth < 1 or for_human < 0:
        raise UserError(f"--depth is {depth} and --for-human {for_human}; at least 1 and 0 are expected")
    check_model(config, used=not for_human)
    from gcl_toolkit.curate.filling import open_pairs

    with console.status("reading"):
        graded = judgements if for_human and judgements.is_file() else None
        data, rankings = read_systems(runs, qrels, products, queries, graded)
        found = open_pairs(data, rankings, depth)
    print_notes(data)
    if for_human:
        _write_for_people(found[:for_human], judgements.with_suffix(".people.csv"))
    else:
        _fill(found, judgements, config)


def _write_for_people(found: list[Open], path: Path) -> None:
    from gcl_toolkit.curate.filling import write_open

    writable_folder(path.parent)
    write_open(found, path)
    size = f"{counted(sum(len(one.products) for one in found), 'product')} of {counted(len(found), 'query')}"
    console.print(f"{path}: {size} to grade from 0 to 4, in the app or here, to import in the app")


def _fill(found: list[Open], path: Path, config: ModelConfig) -> None:
    from gcl_toolkit.curate.filling import fill, judge_name
    from gcl_toolkit.curate.language import Language
    from gcl_toolkit.curate.ledger import Ledger

    key, name = os.environ.get(KEYS["model_url"], ""), judge_name(config.model)
    requests = sum(math.ceil(len(one.products) / PER_REQUEST) for one in found)
    pairs = sum(len(one.products) for one in found)
    caps = f"caps: {config.max_requests:,} requests, cost {config.max_cost:g}"
    size = f"{counted(pairs, 'unjudged product')} of {counted(len(found), 'query')}"
    console.print(f"{size}; {counted(requests, 'request')}, if every answer is usable; {caps}")
    file, ledger_path = Judgements(path), path.with_suffix(".ledger.sqlite")
    writable_folder(ledger_path.parent)
    try:
        with closing(Ledger(ledger_path, config, [key])) as ledger, closing(Language(config, ledger, key)) as language:
            with progress() as bar:
                task = bar.add_task("judge", total=requests)
                count = fill(found, file, name, language, lambda: bar.advance(task))
            spent = ledger.spent().get("judge", {"requests": 0, "cost": 0.0})
    except sqlite3.Error as error:
        raise DataError(f"{ledger_path}: can't be read or written ({error}); free disk space, or move it") from None
    about = f"{spent['requests']:,} requests, cost {spent['cost']:g} over all restarts"
    console.print(f"{path}: {count:,} new grades by {name}; {about}")
    following = f"let people grade some queries (--for-human 100), then gcl compare-runs ... --judge {name}"
    console.print(f"next: {following}")
