"""gcl clicks."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

from gcl_toolkit.cli.common import app, command, console, print_notes, print_table
from gcl_toolkit.cli.data import print_splits
from gcl_toolkit.data.formats import write_trec_qrels
from gcl_toolkit.data.sources import clicks, table
from gcl_toolkit.data.sources.clicks import ClickConfig, Clicks
from gcl_toolkit.data.tabular import read_file
from gcl_toolkit.errors import DataError, UserError, counted
from gcl_toolkit.files import writable_folder, write_json


@app.command(name="clicks")
def clicks_command(
    log: tyro.conf.Positional[Path | None] = None,
    ubi: tuple[Path, ...] = (),
    out: Path = Path("runs/clicks"),
    products: Path | None = None,
    judgements: Path | None = None,
    qrels: Path | None = None,
    queries: Path | None = None,
    columns: dict[str, str] = {},  # noqa: B006 - read only
    actions: dict[str, str] = {},  # noqa: B006 - read only
    seed: int = 0,
    config: Annotated[ClickConfig, tyro.conf.arg(name="")] = ClickConfig(),  # noqa: B008 - frozen
) -> None:
    """Turn an interaction log into scored pairs, corrected for position bias.

    Args:
        log: CSV, TSV, parquet or JSONL; a row is a product shown at a position, with clicks, carts or purchases.
        ubi: instead of log, the queries and events of User Behavior Insights: JSONL, parquet, exports of OpenSearch.
        out: the folder to write: scores.parquet, report.json and, with products, the four splits.
        products: the catalogue, a table with product_id and fields (title, image).
        judgements: a table (query, product_id, score) to compare the scores with.
        qrels: also write grades 0 to 4, to a .csv file or else in the TREC form.
        queries: a table (query_id, query): the ids of the queries in qrels; by default, their texts.
        columns: our name and theirs, in pairs: --columns query search_term clicks clicked.
        actions: action_name of UBI and what it counts as (impressions, clicks, carts, purchases), in pairs.
        seed: of the split.
    """
    if (log is None) == (not ubi):
        raise UserError("give a log or --ubi FILES: one of the two is expected")
    writable_folder(out)
    with console.status(f"reading {log or 'ubi'}"):
        scored = clicks.read_clicks(log or clicks.Ubi(ubi, actions), columns, config)
    report = scored.report() | _taus(scored.table, judgements)
    scored.table.to_parquet(out / "scores.parquet")
    write_json(out / "report.json", {"command": command(), **report})
    _print_clicks(report)
    if qrels:
        _write_qrels(scored, qrels, queries)
    _write_splits(scored, products, seed, out)


def _write_splits(scored: Clicks, products: Path | None, seed: int, out: Path) -> None:
    if not products:
        return console.print(f"{out}/scores.parquet is written; --products also writes the four splits to train on")
    with console.status(f"reading {products}"):
        splits = clicks.as_splits(scored, products, seed)
        table.write(splits, out)
    print_notes(splits["in_domain"])
    print_splits(splits, f"gcl data check {out}", f"gcl compare --data {out}")


def _write_qrels(scored: Clicks, path: Path, queries: Path | None) -> None:
    ids = None
    if queries:
        known = read_file(queries)
        if missing := [name for name in ("query_id", "query") if name not in known.column_names]:
            raise DataError(f"{queries}: column {missing[0]!r} is missing; it has {', '.join(known.column_names)}")
        ids = dict(zip(known["query"].to_pylist(), known["query_id"].to_pylist(), strict=True))
    graded = clicks.grades(scored, ids)
    if not graded:
        raise DataError(f"{queries}: no query of the log, such as {scored.table['query'][0]!r}, is among its queries")
    if path.suffix == ".csv":
        rows = [(query, product, int(grade)) for query, each in graded.items() for product, grade in each.items()]
        pd.DataFrame(rows, columns=["query_id", "product_id", "grade"]).to_csv(path, index=False)
    elif ids is None and any(" " in query for query in graded):
        raise UserError(f"{path}: TREC ids can't contain spaces; give --queries with ids, or a .csv file")
    else:
        write_trec_qrels(graded, path)
    unknown = scored.table["query"].nunique() - len(graded)
    lacking = f"; {unknown:,} have no id" if unknown else ""
    console.print(f"{path}: grades of {counted(len(graded), 'query')}{lacking}")


def _taus(table: pd.DataFrame, judgements: Path | None) -> dict[str, dict[str, float]]:
    if not judgements:
        return {}
    judged, columns = clicks.read_judgements(judgements), {"scores": "relevance", "interactions per impression": "rate"}
    taus = {name: clicks.agreement(table, judged, column) for name, column in columns.items()}
    return {"Kendall's tau with the judgements": taus}


def _print_clicks(report: dict) -> None:
    counts = ", ".join(f"{count:,} {what}" for what, count in (report["rows"] | report["pairs left out"]).items())
    console.print(f"rows and pairs: {counts}")
    spread = report["pairs per query"]
    console.print(
        f"{counted(report['queries'], 'query')}, {counted(report['pairs'], 'scored pair')} "
        f"({spread['0%']:.0f} to {spread['100%']:.0f} "
        f"a query, median {spread['50%']:g}), {report['share of pairs with an interaction']:.0%} with an interaction",
    )
    rows = [
        (row["position"], f"{row['value']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}")
        for row in report["propensities"]
    ]
    print_table(("position", "propensity", "95% interval"), rows, title="how likely a position is looked at")
    if above := [str(row["position"]) for row in report["propensities"] if row["value"] > 1]:
        console.print(
            f"note: positions {', '.join(above)} have a propensity above 1: products got more clicks there than "
            "at position 1; check the log if that is not expected"
        )
    for name, tau in report.get("Kendall's tau with the judgements", {}).items():
        console.print(f"Kendall's tau of {name} with the judgements: {tau:.3f}")
