"""Query by query: how the gains spread, the largest wins and losses, and three queries with their pictures."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import DataError
from gcl_toolkit.measure.evaluate import measure_ranking
from gcl_toolkit.measure.metrics import NDCG
from gcl_toolkit.methods import DEFAULT
from gcl_toolkit.studies.glossary import METRIC, SPLIT_NAMES
from gcl_toolkit.studies.results import Results
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.views import figures
from gcl_toolkit.views.report.gallery import Gallery

LISTED, SHOWN = 5, 8
"""Wins or losses in the list; products in a row."""


def query_by_query(results: Results, table: pd.DataFrame, worlds: Sequence[World]) -> dict[str, Any]:
    """The values of the sections about single queries; pictures only if `worlds` has the first world of the study.
    Single queries are those of seed 0 in the zero-shot split, or in the last one if there is no such split."""
    control, name = results.control, table["world"].iloc[0]
    gains = _per_query(table, results.division, control)
    splits = _per_query(table[table["world"] == name], results.division, control).index.unique("split")
    split = "zero_shot" if "zero_shot" in splits else splits[-1]
    rows = table[(table["world"] == name) & (table["split"] == split) & (table["seed"] == 0)]
    cases = _per_query(rows, results.division, control).droplevel([0, 1]).sort_values("gain")
    gallery = next((Gallery(world.evaluated()[split]) for world in worlds if world.name == name), None)
    places: dict[str, str] = {}
    if gallery:
        _check_same(gallery.data, rows[rows["method"] == DEFAULT].set_index("query_id"))
        for place, row in (("win", -1), ("median", len(cases) // 2), ("loss", 0)):
            places.setdefault(cases.index[row], place)
    counts = [int((sign * gains["gain"] >= figures.TIE).sum()) for sign in (1, -1)]
    wins, losses = cases[cases["gain"] > 0][::-1][:LISTED], cases[cases["gain"] < 0][:LISTED]
    listed = {*wins.index, *losses.index, *places}
    return {
        "spread": figures.differences(gains["gain"].to_numpy(), METRIC),
        "counts": (*counts, len(gains) - sum(counts)),
        "where": f"{SPLIT_NAMES[split]}, seed 0, {name}",
        "largest": {"wins": [*wins.itertuples()], "losses": [*losses.itertuples()]},
        "texts": {query: gallery.text(query) if gallery else query for query in listed},
        "places": places,
        "shown": SHOWN,
        "strips": {query: (cases["gain"][query], _strips(gallery, query, rows)) for query in places} if gallery else {},
        "pictures": gallery.pictures if gallery else {},
    }


def _per_query(table: pd.DataFrame, division: str, control: str) -> pd.DataFrame:
    """The default's ("ours") and the control's values and the gain by data set, split and query: means over seeds and
    folds."""
    rows = table[table["method"].isin((DEFAULT, control)) & ((table["division"] == division) | (division == "all"))]
    means = rows.groupby(["data_set", "split", "query_id", "method"], sort=False)[METRIC].mean().unstack("method")
    return pd.DataFrame({"ours": means[DEFAULT], "control": means[control], "gain": means[DEFAULT] - means[control]})


def _strips(gallery: Gallery, query: str, rows: pd.DataFrame) -> dict[str, tuple[float, list[dict]]]:
    """Method -> the metric and the first products."""
    of_query = rows[rows["query_id"] == query]
    return {
        method: (value, gallery.cards(query, list(top)[:SHOWN]))
        for method, value, top in of_query[["method", METRIC, "top"]].itertuples(index=False)
    }


def _check_same(data: RankedData, ours: pd.DataFrame) -> None:
    """Raise unless this is the data that the study was measured on."""
    cure = "give the data of the study with --data (and --complete, if the study used it)"
    products, top = pd.Index(data.product_ids), ours["top"]
    query_rows = pd.Index(data.queries["query_id"].to_pylist()).get_indexer(ours.index)
    unknown = [*ours.index[query_rows < 0], *pd.Index(top.explode().dropna()).difference(products)]
    if unknown:
        raise DataError(f"{data.name} has no {unknown[0]!r}, which the study has ({len(unknown):,} such ids); {cure}")
    rows = pd.DataFrame(top.map(products.get_indexer).tolist()).fillna(-1).to_numpy(int)
    values = measure_ranking(rows, data.take_queries(query_rows), (NDCG @ 10,))[METRIC]
    wrong = ours.index[(values - ours[METRIC]).abs().to_numpy() > 1e-6]
    if len(wrong):
        stored, measured = ours[METRIC][wrong[0]], values[wrong[0]]
        raise DataError(
            f"{data.name}: query {wrong[0]!r} of {DEFAULT} has {METRIC} {measured:.3f} on these scores and "
            f"{stored:.3f} in the study ({len(wrong):,} such queries); {cure}"
        )
