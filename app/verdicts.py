"""The verdicts of the chosen systems against the baseline, kept until a judgement changes them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from gcl_toolkit.app.answers import TOP
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.data.judgements import MACHINE
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.agreement import alpha, kappas
from gcl_toolkit.measure.metrics import parse
from gcl_toolkit.measure.ppi import random_order
from gcl_toolkit.measure.statistics import holm
from gcl_toolkit.measure.unjudged import pooled
from gcl_toolkit.measure.verdict import Lists, Verdict, corrected, tied, verdict


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


def by_models(service: Service, state: State) -> dict[str, Verdict | str]:
    """Language model that judged here -> the verdict of A against B by its grades, corrected by those of people; or why
    there is none."""
    names = service.judgements.last()["judge"].unique() if service.judgements else ()
    chosen = tuple(service.systems_of(state)), *_queries(state)
    return {
        name: _corrected(service, service.revision, chosen, name, state.a, state.b, state.metric)
        for name in names
        if name.startswith(MACHINE) and state.a != state.b
    }


def groups(service: Service, state: State) -> list[tuple[str, ...]]:
    """The chosen systems, best first, in groups that can't be separated."""
    lists = _lists(service, service.revision, tuple(service.systems_of(state)), *_queries(state))
    return _groups(lists, state.metric)


def pending(service: Service, state: State) -> tuple[int, int, str | None]:
    """Of the products without a judgement within the first `TOP` of the chosen systems: the number for this query and
    for all chosen queries, and the query to grade next, None if none is left.

    Queries come in a random order, so that those graded are a sample that can correct a language model's grades.
    """
    lists = _lists(service, service.revision, tuple(service.systems_of(state)), *_queries(state))
    counts = np.bincount(_pooled(lists)[0], minlength=len(lists.query_ids))
    names = {service.bundle.queries["query_id"].iat[row]: label for label, row in service.labels[state.split].items()}
    asked = [names[query_id] for query_id in lists.query_ids]
    here = int(counts[asked.index(state.query)]) if state.query in asked else 0
    order = [asked[row] for row in random_order(lists.query_ids) if counts[row]]
    if service.judgements is None and here:  # what was graded is known to the browser only: go on
        order = order[order.index(state.query) + 1 :] + order
    return here, int(counts.sum()), next(iter(order), None)


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
    """A system in words, without the method that a control is derived from."""
    system = service.system(name)
    kinds = {"run": "a ranking from a file", "baseline": "a baseline without training"}
    words = system.about or kinds.get(system.kind, "a model trained by this study")
    words = re.sub(r"^[^:]* - [^:]*: ", "", words)
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
def _corrected(
    service: Service, revision: int, chosen: tuple, judge: str, a: str, b: str, metric: str
) -> Verdict | str:
    systems, *queries = chosen
    try:
        by_judge = service.lists(queries[0], systems, *queries[1:], judge=judge)
        return corrected(_lists(service, revision, *chosen), by_judge, a, b, parse(metric))
    except UserError as error:
        return str(error)


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
