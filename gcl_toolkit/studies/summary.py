"""The summary of a study: averages with intervals, and gains, each over a named control with a paired interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from gcl_toolkit.data.ranked_data import SPLITS, RankedData
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.measure.evaluate import METRICS
from gcl_toolkit.measure.metrics import AP, NDCG, Metric
from gcl_toolkit.measure.statistics import Difference, Interval, interval, mean_of, paired
from gcl_toolkit.methods import CONTROLS, DEFAULT, METHODS, PAPER, Method, name_of
from gcl_toolkit.studies.results import MACRO, Gain, Results
from gcl_toolkit.studies.study import KEYS


def averages(table: pd.DataFrame | Cells, metric: Metric | str = NDCG @ 10, *, division: str = "test") -> pd.DataFrame:
    """Methods x splits (and "macro"): the `Interval` of a metric's mean over queries, seeds and worlds."""
    cells = Cells.of(table, division)
    columns = (*cells.splits, MACRO)
    rows = {name: {split: _interval(cells.get(name, split, metric)) for split in columns} for name in cells.methods}
    return pd.DataFrame.from_dict(rows, orient="index")


def gain(
    table: pd.DataFrame | Cells,
    method: Method | str,
    over: Method | str,
    *,
    split: str = MACRO,
    metric: Metric | str = NDCG @ 10,
    division: str = "test",
) -> Difference:
    """The paired difference of a method from its control (`over`) in one split, or in the mean of the four, over all
    queries, seeds and worlds of the study."""
    cells = Cells.of(table, division)
    names = [name if isinstance(name, str) else name_of(name) for name in (method, over)]
    for name in names:
        if name not in cells.methods:
            raise unknown("method of the study", name, cells.methods)
    if split not in (*cells.splits, MACRO):
        raise UserError(f"split {split!r} has no {division} query; {', '.join(cells.splits)} have some")
    a, b = (cells.get(name, split, metric) for name in names)
    difference = paired(a, b, shared_seeds=split == MACRO, samples=2000)
    return replace(difference, metric=str(metric), worlds=cells.worlds)


def strongest_control(table: pd.DataFrame, metric: Metric | str = NDCG @ 10) -> str:
    """The control with the best mean over the four splits on the *dev* queries: the one to report gains over."""
    present = _controls(table["method"].unique())
    dev = table[(table["division"] == "dev") & table["method"].isin(present)]
    if dev.empty:
        raise _no_dev_query(present)
    return dev.groupby(["method", "split"])[str(metric)].mean().groupby("method").mean().idxmax()


def check_control(methods: Sequence[str], data: Sequence[RankedData], control: str | None) -> None:
    """Raise, before a study is trained, if its gains could not be reported."""
    if control:
        if control not in methods:
            raise unknown("control", control, methods)
        return
    present = _controls(methods)
    if not any("dev" in split.queries["division"].to_pylist() for split in data):
        raise _no_dev_query(present)


def _controls(methods: Sequence[str]) -> list[str]:
    present = [name for name in CONTROLS if name in methods]
    if not present:
        raise UserError(f"the study has no control to report gains over; add one of {', '.join(CONTROLS)}")
    return present


def _no_dev_query(controls: Sequence[str]) -> UserError:
    return UserError(f"there is no dev query to choose the control on; name it with --control: {', '.join(controls)}")


class Cells:
    """The values of a study's table by method, split and metric, pivoted once."""

    def __init__(self, table: pd.DataFrame, division: str):
        self.rows = table if division == "all" else table[table["division"] == division]
        self.methods, self.worlds = list(table["method"].unique()), table["data_set"].nunique()
        present = set(self.rows["split"])
        self.splits = [split for split in SPLITS if split in present]
        self.tables = _pivoted(self.rows)

    @classmethod
    def of(cls, table: pd.DataFrame | Cells, division: str) -> Cells:
        return table if isinstance(table, cls) else cls(table, division)

    def get(self, method: str, split: str, metric: Metric | str) -> list[pd.DataFrame]:
        """One table a data set: query_id x seed. A query that is in several folds counts once, with its mean.

        Of `MACRO` two tables a data set, the training queries and the held-out ones: each of these queries is in two
        splits, and counts with its mean over both.
        """
        key = method, split, str(metric)
        if key not in self.tables and split == MACRO:
            pairs = (("in_domain", "novel_document"), ("novel_query", "zero_shot"))
            self.tables[key] = [table for pair in pairs for table in self._mean_of(method, pair, metric)]
        return self.tables[key]

    def _mean_of(self, method: str, pair: Sequence[str], metric: Metric | str) -> list[pd.DataFrame]:
        worlds = []
        by_split = [self.get(method, split, metric) for split in pair if split in self.splits]
        for tables in zip(*by_split, strict=True):
            # each query's mean, weighted so that the mean over queries is the mean of the splits' means
            weighted = [t * (1 / len(t)) for t in tables]
            total = weighted[0].add(weighted[1], fill_value=0) if len(weighted) > 1 else weighted[0]
            worlds.append(total * len(total) / len(tables))
        return worlds


def _pivoted(rows: pd.DataFrame) -> dict[tuple[str, str, str], list[pd.DataFrame]]:
    """(method, split, metric) -> one table a data set: query_id x seed, the mean over its rows."""
    metrics = [name for name in rows.columns if name not in (*KEYS, "top")]
    means = rows.groupby(["method", "split", "data_set", "query_id", "seed"], sort=False)[metrics].mean()
    tables: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    for (method, split, _), part in means.dropna(how="all").groupby(level=[0, 1, 2], sort=False):
        query, queries = pd.factorize(part.index.get_level_values("query_id"), sort=True)
        seed, seeds = pd.factorize(part.index.get_level_values("seed"), sort=True)
        values_MxQxS = np.full((len(metrics), len(queries), len(seeds)), np.nan)
        values_MxQxS[:, query, seed] = part.to_numpy().T
        for name, values_QxS in zip(metrics, values_MxQxS, strict=True):
            tables.setdefault((method, split, name), []).append(pd.DataFrame(values_QxS, queries, seeds))
    return tables


def _interval(worlds: list[pd.DataFrame]) -> Interval:
    """Of the mean over data sets; with several of them, or several seeds, from the paired bootstrap against zero."""
    if len(worlds) == 1 and worlds[0].shape[1] == 1:
        return interval(worlds[0])
    mean, low, high = mean_of(worlds, shared_seeds=True, samples=2000)
    return Interval(mean, max(0.0, low), min(1.0, high))  # as far as a metric goes


def summarise(table: pd.DataFrame, *, control: str | None = None, division: str = "test") -> Results:
    """The averages and gains of a study's table. control: that of the headline, by default the strongest on dev."""
    methods = list(table["method"].unique())
    if control and control not in methods:
        raise unknown("control", control, methods)
    strongest, control = control is None, control or strongest_control(table)
    cells = Cells(table, division)
    queries = cells.rows.drop_duplicates(["split", "data_set", "query_id"]).groupby("split", sort=False).size()
    averaged = {str(metric): averages(cells, metric).to_dict(orient="index") for metric in METRICS}
    gains = [
        Gain(method, name, split, gain(cells, method, name, split=split, metric=metric))
        for method, name, metric in _reported(methods, control)
        for split in (*cells.splits, MACRO)
    ]
    return Results(
        division=division,
        control=control,
        strongest=strongest,
        queries=queries.to_dict(),
        seeds=int(table["seed"].nunique()),
        worlds=list(table["data_set"].unique()),
        folds=int(table.groupby("data_set")["world"].nunique().max()),
        averages=averaged,
        gains=gains,
    )


def _reported(methods: Sequence[str], control: str) -> list[tuple[str, str, Metric]]:
    """Which gains are reported: the default over each control, the paper's loss over plain CLIP (its comparison), and
    every other method over the control of the headline."""
    default = [(DEFAULT, name) for name in CONTROLS]
    paper = [(method, "clip") for method in PAPER]
    trained = [method for method in methods if method.split(":")[0] in METHODS]
    others = [(method, control) for method in trained if method not in CONTROLS]
    return [
        (method, name, metric)
        for method, name in dict.fromkeys([*default, *paper, *others])
        for metric in (METRICS if (method, name) == (DEFAULT, control) else (NDCG @ 10, AP))
        if {method, name} <= set(methods) and method != name
    ]
