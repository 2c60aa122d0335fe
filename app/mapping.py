"""What the map shows: points, colours, edges, and what a lasso holds. Pure numpy; the limits are `limits`'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from app import limits
from app.answers import LEVELS
from app.rankings import Ask
from app.service import Service
from app.state import State
from gcl_toolkit.metrics import NDCG

GROUPS = 18
"""Categories with a colour of their own; the others share one."""
QUERY, HIDDEN = 31, 255
"""Colours of a query without one of its own, and of the queries of other splits."""
STEPS = (0.01, 0.1, 0.3)
"""Differences in NDCG@10 at which a query's colour gets stronger; a product's are ranks, by factors of 1.5, 3, 10."""
FACTORS = (1.5, 3.0, 10.0)


@dataclass(frozen=True)
class Selection:
    """What a lasso holds: product rows, and rows of the split's queries."""

    products: np.ndarray
    queries: np.ndarray


def points(service: Service, model: str) -> np.ndarray:
    """Places of all products, then of all queries: M x 2 float32."""
    return service.ranker(model).map_Mx2


def inside(points_Nx2: np.ndarray, corners_Cx2: np.ndarray) -> np.ndarray:
    """Which points a polygon holds, N bools, by the even-odd rule."""
    low, high = corners_Cx2.min(0), corners_Cx2.max(0)
    found_N = ((points_Nx2 >= low) & (points_Nx2 <= high)).all(1)
    x, y = points_Nx2[found_N].T.astype(np.float64)
    odd = np.zeros(len(x), bool)
    for (x1, y1), (x2, y2) in zip(corners_Cx2, np.roll(corners_Cx2, -1, axis=0), strict=True):
        if y1 != y2:
            odd ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    found_N[found_N] = odd
    return found_N


def select(service: Service, state: State) -> Selection | None:
    """What the state's lasso holds, on the map that it was drawn on."""
    lasso = limits.polygon(state.lasso)
    if lasso is None:
        return None
    panel, corners_Cx2 = lasso
    found_M = inside(points(service, state.a if panel == "a" else state.b), corners_Cx2)
    items, rows = len(service.bundle.items), service.bundle.queries_of(state.split)
    return Selection(np.flatnonzero(found_M[:items]), rows.start + np.flatnonzero(found_M[items:][rows]))


def selected(service: Service, state: State) -> pd.DataFrame:
    """A row a product of the selection: product_id, texts, the score for the query, the ranks by A and by B."""
    found = select(service, state)
    rows = np.zeros(0, int) if found is None else found.products
    table = service.bundle.items.iloc[rows].drop(columns=["thumbnail_start", "thumbnail_size"])
    items, scores = service.judged(state.split, Ask(state.query))
    table["score"] = pd.Series(scores, items).reindex(rows).to_numpy()
    span = service.bundle.items_of(state.split)
    for letter, model in (("A", state.a), ("B", state.b)):
        ranks = pd.Series(service.ranks(state.split, state.query, model), range(span.start, span.stop))
        table[f"rank by {letter}"] = ranks.reindex(rows).astype("Int64").to_numpy()
    return table


def categories(service: Service) -> tuple[str, list[str]] | None:
    """The first text column with few values, and its most frequent ones; None where there is no such column."""
    items, title = service.bundle.items, service.bundle.manifest["title"]
    for name in items.columns.difference(["product_id", title, "thumbnail_start", "thumbnail_size"], sort=False):
        counts = items[name].value_counts()
        if 2 <= len(counts) <= 200:
            return name, sorted(counts.index, key=lambda value: (-counts[value], value))[:GROUPS]
    return None


def corpora(service: Service) -> dict[str, slice]:
    """The splits' corpora, by the names of the splits that share one."""
    found: dict[tuple, list[str]] = {}
    for split in service.bundle.splits:
        span = service.bundle.items_of(split)
        found.setdefault((span.start, span.stop), []).append(split)
    return {", ".join(names): slice(*span) for span, names in found.items()}


def colours(service: Service, state: State) -> np.ndarray:
    """Colour of every point: uint8, 0 for none, 1.. as in `legend`, `QUERY`, `HIDDEN`."""
    items, rows = len(service.bundle.items), service.bundle.queries_of(state.split)
    colour_M = np.zeros(items + len(service.bundle.queries), np.uint8)
    colour_M[items:] = HIDDEN
    colour_M[items:][rows] = QUERY
    span = service.bundle.items_of(state.split)
    if state.colour == "category" and (found := categories(service)):
        place = {name: number for number, name in enumerate(found[1], start=1)}
        colour_M[:items] = service.bundle.items[found[0]].map(place).fillna(GROUPS + 1).to_numpy()
    elif state.colour == "score":
        known, scores = service.judged(state.split, Ask(state.query))
        colour_M[known] = [service.level(score) for score in scores]
    elif state.colour == "split":
        for number, part in enumerate(corpora(service).values(), start=1):
            colour_M[part] = number
    elif state.colour == "difference":
        a, b = (service.ranks(state.split, state.query, model) for model in (state.a, state.b))
        colour_M[span] = _two_sided(np.log(b / a), np.log(FACTORS))
        metric = str(NDCG @ 10)
        values = [service.ranker(model).metrics[metric].to_numpy()[rows] for model in (state.a, state.b)]
        colour_M[items:][rows] = _two_sided(values[0] - values[1], np.array(STEPS))
    return colour_M


def legend(service: Service, state: State) -> list[tuple[int, str]]:
    """(colour, what it means) of the products."""
    if state.colour == "category":
        found = categories(service)
        return [*enumerate(found[1], start=1), (GROUPS + 1, "other")] if found else [(0, "no category is known")]
    if state.colour == "score":
        return [(0, "not listed"), *((n, f"≥ {service.bounds[n - 1]:g}") for n in range(1, LEVELS + 1))]
    if state.colour == "split":
        return [*enumerate(corpora(service), start=1)]
    told = [f"{state.b} ranks it higher: 10 ×", "3 ×", "1.5 ×", "alike", "1.5 ×", "3 ×", f"10 ×: {state.a} does"]
    return [*enumerate(told, start=1)]


def edges(service: Service, state: State) -> tuple[int | None, Sequence[tuple[int, int]]]:
    """The query's row (None for a text of one's own) and (product row, level) of its products, best first."""
    items, scores = service.judged(state.split, Ask(state.query))
    best = zip(items[: limits.MAX_K].tolist(), scores[: limits.MAX_K].tolist(), strict=True)
    return service.labels[state.split].get(state.query), [(item, service.level(score)) for item, score in best]


def _two_sided(values: np.ndarray, steps: Sequence[float]) -> np.ndarray:
    """1..7: 4 for about 0, above it where A is better."""
    return (4 + np.sign(values) * np.searchsorted(steps, np.abs(values), side="right")).astype(np.uint8)
