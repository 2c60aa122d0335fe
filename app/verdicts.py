"""The verdicts of the chosen systems against the baseline, kept until a judgement changes them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from gcl_toolkit.app.answers import TOP
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.measure.agreement import alpha, kappas
from gcl_toolkit.measure.metrics import parse
from gcl_toolkit.measure.statistics import holm
from gcl_toolkit.measure.unjudged import pooled
from gcl_toolkit.measure.verdict import Lists, Verdict, tied, verdict


class Against(NamedTuple):
    """A system's verdict against the baseline; p_value: Holm-corrected for the number of systems."""

    mark: str
    found: Verdict
    p_value: float


def against(service: Service, state: State) -> list[Against]:
    """A first; empty where nothing can be compared: one system, fewer than two queries, no judgement."""
    others = {mark: name for mark, name in letters(service, state).items() if name != state.b}
    lists = _lists(service, service.revision, tuple(service.systems_of(state)), *_queries(state))
    if not others or len(lists.query_ids) < 2 or not len(lists.qrel_grade):
        return []
    found = [
        _verdict(service, service.revision, lists if mark == "A" else _unsliced(lists), name, state.b, state.metric)
        for mark, name in others.items()
    ]
    p_values = holm([each.difference.p_value for each in found])
    return [Against(*each) for each in zip(others, found, p_values.tolist(), strict=True)]


def groups(service: Service, state: State) -> list[tuple[str, ...]]:
    """The chosen systems, best first, in groups that can't be separated."""
    lists = _lists(service, service.revision, tuple(service.systems_of(state)), *_queries(state))
    return _groups(lists, state.metric)


def pending(service: Service, state: State) -> tuple[int, int, str | None]:
    """Of the products without a judgement within the first `TOP` of the chosen systems: the number for this query and
    for all chosen queries, and the next query that has one, None if none has."""
    lists = _lists(service, service.revision, tuple(service.systems_of(state)), *_queries(state))
    query, _ = _pooled(lists)
    counts, labels = np.bincount(query, minlength=len(lists.query_ids)), service.labels[state.split]
    names = {service.bundle.queries["query_id"].iat[row]: label for label, row in labels.items()}
    asked = [names[query_id] for query_id in lists.query_ids]
    here = asked.index(state.query) if state.query in asked else -1
    following = [*range(here + 1, len(asked)), *range(here + 1)]
    return (
        (int(counts[here]) if here >= 0 else 0),
        int(counts.sum()),
        next((asked[n] for n in following if counts[n]), None),
    )


def judges(service: Service) -> list[tuple[str, float, int]]:
    """How far judges agree: for each two, quadratic-weighted kappa and the pairs that both graded; then Krippendorff's
    alpha of all. Empty for fewer than two judges."""
    table = service.judgements.last() if service.judgements else pd.DataFrame(columns=["judge"])
    if table["judge"].nunique() < 2:
        return []
    table = table.assign(item=table["query_id"] + "\t" + table["product_id"])
    pairs = [
        (f"{a} and {b}: weighted kappa", value, items) for a, b, items, value in kappas(table).itertuples(index=False)
    ]
    shared = int((table.groupby("item")["judge"].nunique() > 1).sum())
    return [*pairs, ("All: Krippendorff’s alpha", alpha(table), shared)]


def judged(service: Service) -> dict[tuple[str, str], dict[str, int]]:
    """(query_id, product_id) -> the grade of each judge."""
    return _judged(service, service.revision)


# -- the systems in words ----------------------------------------------------------------------------------------------


def letters(service: Service, state: State) -> dict[str, str]:
    """Letter -> chosen system: A, B (the baseline), then the others."""
    first, *also = [name for name in service.systems_of(state) if name != state.b] or [state.b]
    return dict(zip("ABCDE", [first, state.b, *also] if first != state.b else [first], strict=False))


def about(service: Service, name: str) -> str:
    """A system in words; of a control, first the method that it is derived from."""
    system = service.system(name)
    kinds = {"run": "a ranking from a file", "baseline": "a baseline without training"}
    words = system.about or kinds.get(system.kind, "a model trained by this study")
    if " - " in words.partition(":")[0]:
        words = words.replace(" - ", " without ", 1)
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


# -- helpers -----------------------------------------------------------------------------------------------------------


def _queries(state: State) -> tuple[str, str, str]:
    return state.split, state.division, state.slice


@lru_cache(maxsize=16)
def _lists(service: Service, revision: int, systems: tuple[str, ...], split: str, division: str, slice: str) -> Lists:
    return service.lists(split, systems, division, slice)


@lru_cache(maxsize=64)
def _verdict(service: Service, revision: int, lists: Lists, a: str, b: str, metric: str) -> Verdict:
    return verdict(lists, a, b, parse(metric))


@lru_cache(maxsize=16)
def _unsliced(lists: Lists) -> Lists:
    """Only A's slices are shown."""
    return replace(lists, labels=None)


@lru_cache(maxsize=16)
def _groups(lists: Lists, metric: str) -> list[tuple[str, ...]]:
    return tied(lists, parse(metric))


@lru_cache(maxsize=16)
def _pooled(lists: Lists) -> tuple[np.ndarray, np.ndarray]:
    return pooled(lists.qrels, [*lists.rankings.values()], TOP)


@lru_cache(maxsize=2)
def _judged(service: Service, revision: int) -> dict[tuple[str, str], dict[str, int]]:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in service.judgements.last().to_dict("records") if service.judgements else ():
        found.setdefault((row["query_id"], row["product_id"]), {})[row["judge"]] = row["grade"]
    return found
