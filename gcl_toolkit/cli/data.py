"""Data: gcl data check, import, make."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from gcl_toolkit.cli.common import console, data_app
from gcl_toolkit.runs import writable_folder, write_json


@data_app.command(name="check")
def check(path: tyro.conf.Positional[Path], images: int = 1000) -> None:
    """What a table or folder holds and what is wrong with it; exit status 1 when something is.

    Args:
        path: a file or a folder.
        images: how many pictures of a corpus to decode, drawn at random; -1: all.
    """
    from gcl_toolkit.sources.check import check as examine

    facts, problems = examine(path, None if images < 0 else images)
    for fact in facts:
        console.print(f"  {fact}", highlight=False, markup=False)
    for problem in problems:
        console.print(f"problem: {problem}", highlight=False, markup=False, style="red")
    console.print(f"problems: {len(problems)}" if problems else "no problem found")
    sys.exit(1 if problems else 0)


@data_app.command(name="import")
def import_(
    table: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    columns: dict[str, str] = {},  # noqa: B006 - read only
    score: dict[str, float] = {},  # noqa: B006
    seed: int = 0,
) -> None:
    """Read an own table (or queries, corpus and qrels), split it four ways and save it as parquet.

    Args:
        table: CSV, TSV, parquet or JSONL, or a folder of three.
        out: the folder to write.
        columns: our name and theirs, in pairs: --columns query search_term title name.
        score: score columns and their weights, summed: --score clicks 1 carts 4.
        seed: of the split.
    """
    from gcl_toolkit.sources import table as tables

    writable_folder(out)
    with console.status(f"reading {table}"):
        splits = tables.load(table, seed=seed, columns=columns, score=score or None)
        tables.write(splits, out)
    for split in splits.values():
        console.print(f"  {split}", highlight=False)
    console.print(f"next: gcl data check {out}; gcl compare --data {out}")


@data_app.command(name="make")
def make(out: tyro.conf.Positional[Path], seed: int = 0, sparse: bool = False, sheet: bool = True) -> None:
    """Write the generated shop as parquet, with its data card and a contact sheet.

    Args:
        out: the folder.
        seed: the shop is a function of it.
        sparse: 2 training pairs a product, as in MarqoGS-10M.
        sheet: also draw contact_sheet.png.
    """
    from gcl_toolkit.sources import shop, table

    writable_folder(out)
    with console.status("generating the shop"):
        splits = shop.load(seed=seed, sparse=sparse)
        table.write(splits, out)
        write_json(out / "card.json", splits["in_domain"].card)
        if sheet:
            shop.contact_sheet(out / "contact_sheet.png")
    for split in splits.values():
        console.print(f"  {split}", highlight=False)
    console.print(f"next: gcl data check {out}; gcl compare --data {out}")
