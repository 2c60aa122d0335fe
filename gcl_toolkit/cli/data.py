"""gcl data check, import, fetch, list, make."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.progress import Progress, TaskID
from rich.table import Table

from gcl_toolkit.cli.common import Commands, app, console, print_table, progress
from gcl_toolkit.data.fields import is_missing
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import UserError
from gcl_toolkit.files import writable_folder, write_json
from gcl_toolkit.options import join_options

data_app = Commands()
app.command(data_app, name="data", help="Check data, import data, generate data.")


@data_app.command(name="list")
def list_() -> None:
    """List the sources and public data sets, with sizes, licences and what their scores mean."""
    from gcl_toolkit.data.sources.sets import CARDS

    rows = [(name, card.about, card.size, card.licence, card.scores) for name, card in CARDS.items()]
    if console.is_terminal:
        print_table(("source", "what", "size", "licence", "scores"), rows, show_lines=True)
    else:
        print(*("\t".join(row) for row in rows), sep="\n")


@data_app.command(name="check")
def check(source: tyro.conf.Positional[str], images: int = 1000, quarantine: Path | None = None) -> None:
    """Report what a table or folder holds and what is wrong with it; exit status 1 if there are problems.

    Args:
        source: a file or folder, with options as in --data of other commands: my.csv:fields=title.
        images: how many images of a corpus to decode, drawn at random; -1: all.
        quarantine: also write the rows that can't be trained on, with their reasons, to this CSV file.
    """
    from gcl_toolkit.data.sources import spelt
    from gcl_toolkit.data.sources.check import check as examine

    facts, problems = examine(source, None if images < 0 else images, quarantine=quarantine)
    if quarantine and facts:
        path, options = spelt(source)
        data = shlex.quote(join_options(path, {**options, "quarantine": quarantine}))
        facts.append(f"to leave them out: gcl train --data {data}")
    _print_findings(facts, problems)
    sys.exit(1 if problems else 0)


@data_app.command(name="import")
def import_(
    source: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    columns: dict[str, str] = {},  # noqa: B006 - read only
    score: dict[str, float] = {},  # noqa: B006
    quarantine: Path | None = None,
    seed: int = 0,
) -> None:
    """Read a table or a folder of pictures, report its problems, show a few rows and save it in four splits.

    Args:
        source: CSV, TSV, parquet or JSONL; a folder of queries, corpus and qrels; or a folder of pictures in
            sub-folders that say what they show.
        out: the folder to write.
        columns: our name and theirs, in pairs: --columns query search_term title name.
        score: score columns and their weights, summed: --score clicks 1 carts 4.
        quarantine: write the rows that can't be trained on, with their reasons, to this CSV file, and leave them out.
        seed: of the split.
    """
    from gcl_toolkit.data.sources import load as load_source
    from gcl_toolkit.data.sources import table
    from gcl_toolkit.data.sources.check import check as examine

    options: dict[str, Any] = {name: value for name, value in (("columns", columns), ("score", score)) if value}
    writable_folder(out)
    with console.status(f"checking {source}"):
        facts, problems = examine(source, seed=seed, quarantine=quarantine, **options)
    _print_findings(facts, problems if facts else [])
    with console.status(f"reading {source}"):
        splits = load_source(source, seed=seed, **options, **({"quarantine": quarantine} if quarantine else {}))
        table.write(splits, out)
    _preview(next(iter(splits.values())))
    print_splits(splits, f"gcl compare --data {out}")


@data_app.command(name="fetch")
def fetch(
    source: tyro.conf.Positional[str],
    subset: Literal["wfash", "fashion", "full"] | None = None,
    queries: int | None = None,
    titles_only: bool = False,
    out: Path = Path("data/downloads"),
    seed: int = 0,
    base: str = "",
) -> None:
    """Download a public set. A call that was interrupted continues where it stopped.

    Args:
        source: a name of `gcl data list`, such as marqo_gs.
        subset: MarqoGS from its authors' tars, which are read from start to end: women's fashion, fashion, or all.
        queries: the lists of that many queries; of a subset, the pictures of their products.
        titles_only: no pictures.
        out: where a subset is unpacked; everything else is in the cache of huggingface_hub.
        seed: of the choice of queries.
        base: another address of the folder with the tars.
    """
    options: dict[str, Any] = {"queries": queries, "seed": seed} if queries else {}
    options |= {"fields": "title"} if titles_only else {}
    if subset is None:
        from gcl_toolkit.data.sources import load as load_source
        from gcl_toolkit.data.sources import spelt

        name, own = spelt(source)
        print_splits(load_source(name, **own, **options), f"gcl train --data {join_options(name, own | options)}")
        return
    if source != "marqo_gs":
        raise UserError(f"{source} has no subsets; only marqo_gs has")
    from gcl_toolkit.data.sources.marqo_gs import fetch as tars

    with progress() as bars:
        show = partial(_show, bars, bars.add_task(subset, total=None))
        folder, note = tars.fetch(subset, writable_folder(out), show, queries, seed, titles_only, base or tars.BASE)
    right = " --right title=1" if titles_only else ""
    console.print(f"{note}; next: gcl train --data {join_options(str(folder), options)}{right}")


def _show(bars: Progress, bar: TaskID, name: str, at: int, size: int) -> None:
    bars.update(bar, completed=at >> 20, total=size >> 20, description=f"{name}, MB")


def print_splits(splits: dict[str, RankedData], *commands: str) -> None:
    for split in splits.values():
        console.print(f"  {split}")
    console.print(f"next: {'; '.join(commands)}")


def _print_findings(facts: list[str], problems: list[str]) -> None:
    for fact in facts:
        console.print(f"  {fact}")
    for problem in problems:
        console.print(f"problem: {problem}", style="red")
    if facts or problems:
        console.print(f"problems: {len(problems)}" if problems else "no problem found")


def _preview(data: RankedData, queries: int = 3) -> None:
    """The two best products and the worst one of some queries, to notice scores that are upside down."""
    names = data.corpus_fields[:4]
    shown = Table("query", "score", "product_id", *names, title=f"{data.name}: the best two and the worst of a query")
    query, product, score = data.pairs
    for row in range(min(queries, data.queries.num_rows)):
        of_query = np.flatnonzero(query == row)
        ranked = of_query[np.argsort(-score[of_query], kind="stable")]
        for at in dict.fromkeys([*ranked[:2], ranked[-1]]):
            values = (data.corpus[name][int(product[at])].as_py() for name in names)
            text = data.queries[data.query_fields[0]][row].as_py()
            cells = (text, f"{score[at]:g}", data.product_ids[product[at]], *values)
            shown.add_row(*map(_shortened, cells), end_section=at == ranked[-1])
    console.print(shown)


def _shortened(value: object) -> str:
    """A field in at most 40 characters; an image as its file name or size."""
    if is_missing(value):
        return "-"
    if isinstance(value, dict):
        return Path(value["path"]).name if value["path"] else f"{len(value['bytes']):,} bytes"
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:39]}…"


@data_app.command(name="make")
def make(out: tyro.conf.Positional[Path], seed: int = 0, sparse: bool = False, sheet: bool = True) -> None:
    """Write the generated shop as parquet, with its data card and a contact sheet.

    Args:
        out: the folder.
        seed: the shop is a function of it.
        sparse: 2 training pairs a product, as in MarqoGS-10M.
        sheet: also draw contact_sheet.png.
    """
    from gcl_toolkit.data.sources import shop, table

    writable_folder(out)
    with console.status("generating the shop"):
        splits = shop.load(seed=seed, sparse=sparse)
        table.write(splits, out)
        write_json(out / "card.json", splits["in_domain"].card)
        if sheet:
            shop.contact_sheet(out / "contact_sheet.png")
    print_splits(splits, f"gcl data check {out}", f"gcl compare --data {out}")
