"""gcl clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro
from rich.table import Table

from gcl_toolkit.cli.common import app, command, console, print_notes
from gcl_toolkit.cli.data import print_splits
from gcl_toolkit.data.sources.clicks import ClickConfig, agreement, read_judgements
from gcl_toolkit.files import writable_folder, write_json


@app.command(name="clicks")
def clicks_command(
    log: tyro.conf.Positional[Path],
    out: Path = Path("runs/clicks"),
    products: Path | None = None,
    judgements: Path | None = None,
    columns: dict[str, str] = {},  # noqa: B006 - read only
    seed: int = 0,
    config: Annotated[ClickConfig, tyro.conf.arg(name="")] = ClickConfig(),  # noqa: B008 - frozen
) -> None:
    """Turn an interaction log into scored pairs, corrected for position bias.

    Args:
        log: CSV, TSV, parquet or JSONL; a row is a product shown at a position, with clicks, carts or purchases.
        out: the folder to write: scores.parquet, report.json and, with products, the four splits.
        products: the catalogue, a table with product_id and fields (title, image).
        judgements: a table (query, product_id, score) to compare the scores with.
        columns: our name and theirs, in pairs: --columns query search_term clicks clicked.
        seed: of the split.
    """
    from gcl_toolkit.data.sources import clicks, table

    writable_folder(out)
    with console.status(f"reading {log}"):
        scored = clicks.read_clicks(log, columns, config)
    report = scored.report()
    if judgements:
        report["Kendall's tau with the judgements"] = _taus(scored.table, judgements)
    scored.table.to_parquet(out / "scores.parquet")
    write_json(out / "report.json", {"command": command(), **report})
    _print_clicks(report)
    if not products:
        console.print(f"{out}/scores.parquet is written; --products also writes the four splits to train on")
        return
    with console.status(f"reading {products}"):
        splits = clicks.as_splits(scored, products, seed)
        table.write(splits, out)
    print_notes(splits["in_domain"])
    print_splits(splits, f"gcl data check {out}", f"gcl compare --data {out}")


def _taus(table: pd.DataFrame, judgements: Path) -> dict[str, float]:
    judged, columns = read_judgements(judgements), {"scores": "relevance", "interactions per impression": "rate"}
    return {name: agreement(table, judged, column) for name, column in columns.items()}


def _print_clicks(report: dict) -> None:
    counts = ", ".join(f"{count:,} {what}" for what, count in (report["rows"] | report["pairs left out"]).items())
    console.print(f"rows and pairs: {counts}")
    spread = report["pairs per query"]
    console.print(
        f"{report['queries']:,} queries, {report['pairs']:,} scored pairs ({spread['0%']:.0f} to {spread['100%']:.0f} "
        f"a query, median {spread['50%']:g}), {report['share of pairs with an interaction']:.0%} with an interaction",
    )
    shown = Table("position", "propensity", "95% interval", title="how likely a position is looked at")
    for row in report["propensities"]:
        shown.add_row(str(row["position"]), f"{row['value']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}")
    console.print(shown)
    above = [str(row["position"]) for row in report["propensities"] if row["value"] > 1]
    if above:
        console.print(
            f"note: positions {', '.join(above)} have a propensity above 1: products got more clicks there than "
            "at position 1; check the log if that is not expected",
            soft_wrap=True,
        )
    for name, tau in report.get("Kendall's tau with the judgements", {}).items():
        console.print(f"Kendall's tau of {name} with the judgements: {tau:.3f}")
