"""What a study found: averages with intervals, and gains, each over a named control with a paired interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd

from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.evaluate import METRICS
from gcl_toolkit.metrics import AP, NDCG, Metric
from gcl_toolkit.ranked_data import SPLITS, RankedData
from gcl_toolkit.statistics import Difference, Interval, interval, paired
from gcl_toolkit.study import CONTROLS, TRAINED, data_set

MACRO = "macro"
"""The mean over the four splits."""


def averages(table: pd.DataFrame, metric: Metric | str = NDCG @ 10, *, division: str = "test") -> pd.DataFrame:
    """Methods x splits (and "macro"): the `Interval` of a metric's mean over queries, seeds and worlds."""
    rows = {}
    for method in table["method"].unique():
        cells = {split: _queries_by_seed(table, method, metric, split, division) for split in _splits(table, division)}
        rows[method] = {split: _interval(worlds) for split, worlds in cells.items()}
        rows[method][MACRO] = _interval(_macro(table, method, metric, division))
    return pd.DataFrame.from_dict(rows, orient="index")


def gain(
    table: pd.DataFrame,
    method: str,
    control: str,
    *,
    split: str = MACRO,
    metric: Metric | str = NDCG @ 10,
    division: str = "test",
) -> Difference:
    """The paired difference of a method from its control in one split, or the mean of the four, over all queries,
    seeds and worlds of the study."""
    for name in (method, control):
        if name not in table["method"].unique():
            raise UserError(f"the study has no method {name!r}; it has {', '.join(table['method'].unique())}")
    if split not in (*_splits(table, division), MACRO):
        raise UserError(
            f"no {division} query in split {split!r}; there are some in {', '.join(_splits(table, division))}"
        )
    cells = _macro if split == MACRO else _queries_by_seed
    arguments = (metric, division) if split == MACRO else (metric, split, division)
    a, b = (cells(table, name, *arguments) for name in (method, control))
    found = paired(a, b, shared_seeds=split == MACRO, samples=2000)
    return replace(found, metric=str(metric), worlds=table["world"].nunique())


def strongest_control(table: pd.DataFrame, metric: Metric | str = NDCG @ 10, controls: Sequence[str] = CONTROLS) -> str:
    """The control with the best mean over the four splits on the *dev* queries: the one a gain should be told over."""
    there = [name for name in controls if name in table["method"].unique()]
    if not there:
        raise UserError(f"no control in the study; add one of {', '.join(controls)}, a gain needs one to be told over")
    dev = table[(table["division"] == "dev") & table["method"].isin(there)]
    if dev.empty:
        raise UserError(f"no dev query to choose the control on; name it (--control), one of {', '.join(there)}")
    return dev.groupby(["method", "split"])[str(metric)].mean().groupby("method").mean().idxmax()


def check_control(methods: Sequence[str], data: Sequence[RankedData], control: str | None) -> None:
    """Before a study is trained: whether its gains can be told."""
    there = [name for name in CONTROLS if name in methods]
    if control and control not in methods:
        raise unknown("control", control, there)
    if not (control or there):
        raise UserError(
            f"no control among the methods; add one of {', '.join(CONTROLS)}, a gain needs one to be told over"
        )
    if not control and not any("dev" in split.queries["division"].to_pylist() for split in data):
        raise UserError(f"no dev query to choose the control on; name it (--control), one of {', '.join(there)}")


def _of_division(table: pd.DataFrame, division: str) -> pd.DataFrame:
    return table if division == "all" else table[table["division"] == division]


def _splits(table: pd.DataFrame, division: str) -> list[str]:
    """The splits with queries of the division, in their order."""
    there = set(_of_division(table, division)["split"])
    return [split for split in SPLITS if split in there]


def _queries_by_seed(table, method, metric, split, division) -> list[pd.DataFrame]:
    """A data set each: query_id x seed. A query that stands in several folds counts once, with its mean."""
    rows = _of_division(table[(table["method"] == method) & (table["split"] == split)], division)
    return [
        rows_of_one.pivot_table(index="query_id", columns="seed", values=str(metric))
        for _, rows_of_one in rows.groupby(rows["world"].map(data_set), sort=False)
    ]


def _macro(table, method, metric, division) -> list[pd.DataFrame]:
    """As `_queries_by_seed`; two entries a world, the training queries and the held-out ones, since the same queries
    stand in two splits each: their means over these splits."""
    known, novel = (("in_domain", "novel_document"), ("novel_query", "zero_shot"))
    worlds = []
    for pair in (known, novel):
        by_split = [
            _queries_by_seed(table, method, metric, split, division)
            for split in pair
            if split in _splits(table, division)
        ]
        for tables in zip(*by_split, strict=True):
            # each query's mean, so weighted that the mean over queries is the mean of the splits' means
            weighted = [t * (1 / len(t)) for t in tables]
            total = weighted[0].add(weighted[1], fill_value=0) if len(weighted) > 1 else weighted[0]
            worlds.append(total * len(total) / len(tables))
    return worlds


def _interval(worlds: list[pd.DataFrame]) -> Interval:
    """Of the mean over worlds; where there are several, or several seeds, from the paired bootstrap against zero."""
    if len(worlds) == 1 and worlds[0].shape[1] == 1:
        return interval(worlds[0])
    mean = paired(worlds, [world * 0 for world in worlds], shared_seeds=True, samples=2000)
    return Interval(mean.difference, mean.low, mean.high)


def results(table: pd.DataFrame, *, control: str | None = None, division: str = "test") -> dict:
    """The summary of a study, ready for JSON: averages, and every gain with its control.

    Gains told: the default against each control, published GCL against plain CLIP (the paper's comparison), and every
    other trained method against `control`, the one of the headline, by default the strongest.
    """
    methods = list(table["method"].unique())
    if control and control not in methods:
        raise unknown("control", control, [name for name in CONTROLS if name in methods])
    strongest = control is None
    control = control or strongest_control(table)
    default = [("gcl-matrix", name) for name in CONTROLS]
    published = [(method, "clip") for method in ("gcl-linear", "gcl-reciprocal")]
    others = [(method, control) for method in TRAINED if method not in CONTROLS]
    told = [
        (method, name, metric)
        for method, name in dict.fromkeys([*default, *published, *others])
        for metric in (METRICS if (method, name) == ("gcl-matrix", control) else (NDCG @ 10, AP))
        if {method, name} <= set(methods)
    ]
    return {
        "division": division,
        "control": control,
        "strongest": strongest,
        "queries": {
            split: len({(data_set(world), query) for world, query in zip(rows["world"], rows["query_id"], strict=True)})
            for split, rows in _of_division(table, division).groupby("split", sort=False)
        },
        "seeds": int(table["seed"].nunique()),
        "worlds": list(table["world"].unique()),
        "averages": {
            str(metric): averages(table, metric, division=division).to_dict(orient="index") for metric in METRICS
        },
        "gains": [
            {
                "method": method,
                "control": name,
                "split": split,
                **asdict(gain(table, method, name, split=split, metric=metric, division=division)),
            }
            for method, name, metric in told
            for split in (*_splits(table, division), MACRO)
        ],
    }
