"""Query by query: how the gains spread, the largest wins and losses, and three queries with their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit import figures
from gcl_toolkit.errors import DataError
from gcl_toolkit.evaluate import measure_ranking
from gcl_toolkit.glossary import METRIC, OURS, SPLIT_NAMES
from gcl_toolkit.metrics import NDCG
from gcl_toolkit.ranked_data import RankedData
from gcl_toolkit.report import page
from gcl_toolkit.report.gallery import LEGEND, Gallery
from gcl_toolkit.study import World

LISTED = 5
"""Wins, and losses."""
SHOWN = 8
"""Products a row."""


def query_by_query(summary: dict, table: pd.DataFrame, worlds: Sequence[World]) -> list[str]:
    """The sections of a study's page about single queries; the one with pictures only where `worlds` has the first
    world of the study. Cases are those of seed 0 in its zero-shot split, where it has one."""
    control, name = summary["control"], summary["worlds"][0]
    differences = _differences(table, summary["division"], control)
    splits = differences.loc[name].index.unique("split")
    split = "zero_shot" if "zero_shot" in splits else splits[-1]
    rows = table[(table["world"] == name) & (table["split"] == split) & (table["seed"] == 0)]
    cases = _differences(rows, summary["division"], control).loc[(name, split)].sort_values("difference")
    where = f"{SPLIT_NAMES[split]}, seed 0, {escape(name)}"
    gallery = next((Gallery(world.evaluated()[split]) for world in worlds if world.name == name), None)
    if gallery is None:
        return [_wins(differences["difference"], control, where, _list(cases, control, str, {}))]
    _check_same(gallery.data, rows[rows["method"] == OURS].set_index("query_id"))
    chosen: dict[str, str] = {}
    for kind, place in (("win", -1), ("median", len(cases) // 2), ("loss", 0)):
        chosen.setdefault(cases.index[place], kind)
    return [
        _wins(differences["difference"], control, where, _list(cases, control, gallery.text, chosen), gallery),
        _three(gallery, chosen, cases, rows, control, where),
    ]


def _differences(table: pd.DataFrame, division: str, control: str) -> pd.DataFrame:
    """Ours, control and "difference" by world, split and query: means over seeds."""
    rows = table[table["method"].isin((OURS, control)) & ((table["division"] == division) | (division == "all"))]
    means = rows.groupby(["world", "split", "query_id", "method"], sort=False)[METRIC].mean().unstack("method")
    return means.assign(difference=means[OURS] - means[control])


def _check_same(data: RankedData, ours: pd.DataFrame) -> None:
    """Texts and badges are true only on the data that the study was measured on."""
    cure = "give the data of the study, with --complete where it was run so"
    row_of = {product: row for row, product in enumerate(data.product_ids)}
    query_rows = pc.index_in(pa.array(ours.index), value_set=data.queries["query_id"].combine_chunks())
    unknown = [query for query, row in zip(ours.index, query_rows.to_pylist(), strict=True) if row is None]
    unknown += [product for product in ours["top"].explode().unique() if product not in row_of]
    if unknown:
        raise DataError(f"{data.name} has no {unknown[0]!r}, which the study has ({len(unknown):,} such ids); {cure}")
    top = pd.DataFrame(ours["top"].map(lambda products: [row_of[product] for product in products]).tolist())
    part = data.take_queries(query_rows.to_numpy())
    found = measure_ranking(top.fillna(-1).to_numpy(int), part, (NDCG @ 10,))[METRIC]
    wrong = ours.index[(found - ours[METRIC]).abs().to_numpy() > 1e-6]
    if len(wrong):
        seen, here = ours[METRIC][wrong[0]], found[wrong[0]]
        raise DataError(
            f"{data.name}: query {wrong[0]!r} of {OURS} has {METRIC} {here:.3f} on these scores and {seen:.3f} in the "
            f"study ({len(wrong):,} such queries); {cure}"
        )


def _wins(difference: pd.Series, control: str, where: str, listed: str, gallery: Gallery | None = None) -> str:
    wins, losses = (int((sign * difference >= figures.TIE).sum()) for sign in (1, -1))
    without = "" if gallery else " This report was made without the data: queries are told by their ids, no pictures."
    return page.section(
        "wins",
        "Query by query",
        f"{METRIC} of {OURS} minus that of {escape(control)}, a query in a split each, the mean of its seeds: "
        f"{wins:,} wins, {losses:,} losses, {len(difference) - wins - losses:,} ties.",
        f"{page.figure(figures.differences(difference.to_numpy(), METRIC))}<h3>The largest wins and losses</h3>"
        f"<p class=note>{METRIC} of single queries: {where}.{without}</p>{listed}",
    )


def _list(cases: pd.DataFrame, control: str, text: Callable[[str], str], chosen: Mapping[str, str]) -> str:
    """A table; `text`: query_id -> words, `chosen`: the queries that have pictures to link to."""
    rows = []
    for kind, found in (
        ("wins", cases[cases["difference"] > 0][::-1][:LISTED]),
        ("losses", cases[cases["difference"] < 0][:LISTED]),
    ):
        rows.append(page.group_row(f"Largest {kind}" if len(found) else f"No {kind}", 4))
        for query, ours, other, change in found[[OURS, control, "difference"]].itertuples():
            words = escape(text(query))
            words = f"<a href='#case-{chosen[query]}'>{words}</a>" if query in chosen else words
            numbers = f"<td><b>{page.number(change, '+.3f')}</b></td><td>{ours:.3f}</td><td>{other:.3f}</td>"
            rows.append(f"<tr><th scope=row>{words}</th>{numbers}</tr>")
    return page.table(("query", "difference", OURS, control), rows)


def _three(
    gallery: Gallery, chosen: Mapping[str, str], cases: pd.DataFrame, rows: pd.DataFrame, control: str, where: str
) -> str:
    cards = ""
    for query, kind in chosen.items():
        change = cases["difference"][query]
        label = {"win": "The largest win", "median": "The median", "loss": "The largest loss"}[kind]
        if (kind == "win" and change <= 0) or (kind == "loss" and change >= 0):
            label = "The best case" if kind == "win" else "The worst case"
        here = rows[rows["query_id"] == query].set_index("method")
        cards += (
            f"<article class=query id=case-{kind}><h3>“{escape(gallery.text(query))}”</h3>"
            f"<p class=note>{label}: {METRIC} {page.number(change, '+.3f')} over {escape(control)}</p>"
            f"{_strips(gallery, query, here, control)}</article>"
        )
    return page.section(
        "queries",
        "Three queries",
        f"The first {SHOWN} products of each method: {where}. The badge is the product's score for this query, darker "
        "for better; <em>not listed</em>: no score is known, which counts as zero. Point at a product for its title.",
        f"{gallery.style()}{LEGEND}{cards}",
    )


def _strips(gallery: Gallery, query: str, here: pd.DataFrame, control: str) -> str:
    """`here`: the query's row of each method."""
    first = [method for method in ("oracle", OURS, control) if method in here.index]
    others = [method for method in here.index if method not in first]

    def strips(methods: Iterable[str]) -> str:
        return "".join(
            gallery.strip(method, f"{METRIC} {here[METRIC][method]:.3f}", query, list(here["top"][method])[:SHOWN])
            for method in methods
        )

    more = f"<details><summary>{len(others)} more methods</summary>{strips(others)}</details>" if others else ""
    return f"<div class=scroll tabindex=0>{strips(first)}{more}</div>"
