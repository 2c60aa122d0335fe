"""What the map shows: points, colours, edges, and the selection of a lasso. Pure numpy; `limits` checks inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gcl_toolkit.app import limits
from gcl_toolkit.app.answers import LEVELS
from gcl_toolkit.app.rankings import Ask
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.measure.metrics import NDCG

GROUPS = 18
"""Categories with their own colour; the others share one."""
QUERY, HIDDEN = 31, 255
"""Colours of queries of the split, and of queries of other splits."""
STEPS = (0.01, 0.1, 0.3)
"""Differences in NDCG@10 at which a query's colour gets stronger; for products, ratios of ranks (FACTORS)."""
FACTORS = (1.5, 3.0, 10.0)


@dataclass(frozen=True)
class Selection:
    """The selection of a lasso: product rows, and rows of the split's queries."""

    products: np.ndarray
    queries: np.ndarray


def points(service: Service, model: str) -> np.ndarray:
    """Positions of all products, then of all queries: M x 2 float32."""
    return service.vectors(model).map_Mx2


def inside(points_Nx2: np.ndarray, corners_Cx2: np.ndarray) -> np.ndarray:
    """Which points are inside a polygon, N bools, by the even-odd rule."""
    low, high = corners_Cx2.min(0), corners_Cx2.max(0)
    inside_N = ((points_Nx2 >= low) & (points_Nx2 <= high)).all(1)
    x, y = points_Nx2[inside_N].T.astype(np.float64)
    odd = np.zeros(len(x), bool)
    for (x1, y1), (x2, y2) in zip(corners_Cx2, np.roll(corners_Cx2, -1, axis=0), strict=True):
        if y1 != y2:
            odd ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    inside_N[inside_N] = odd
    return inside_N


def select(service: Service, state: State) -> Selection | None:
    """The selection of the state's lasso, on the map that it was drawn on."""
    lasso = limits.polygon(state.lasso)
    if lasso is None:
        return None
    panel, corners_Cx2 = lasso
    inside_M = inside(points(service, state.a if panel == "a" else state.b), corners_Cx2)
    items, rows = len(service.bundle.items), service.bundle.queries_of(state.split)
    return Selection(np.flatnonzero(inside_M[:items]), rows.start + np.flatnonzero(inside_M[items:][rows]))


def selected(service: Service, state: State) -> pd.DataFrame:
    """One row per selected product: product_id, texts, the score for the query, the ranks by A and by B."""
    selection = select(service, state)
    rows = np.zeros(0, int) if selection is None else selection.products
    table = service.bundle.items.iloc[rows].drop(columns=["thumbnail_start", "thumbnail_size"])
    items, scores = service.judged(state.split, Ask(state.query))
    table["score"] = pd.Series(scores, items).reindex(rows).to_numpy()
    span = service.bundle.items_of(state.split)
    for letter, model in (("A", state.a), ("B", state.b)):
        ranks = pd.Series(service.ranks(state.split, state.query, model), range(span.start, span.stop))
        table[f"rank by {letter}"] = ranks.reindex(rows).astype("Int64").to_numpy()
    return table


def categories(service: Service) -> tuple[str, list[str]] | None:
    """The first text column with few values, and its most frequent values; None without such a column."""
    items, title = service.bundle.items, service.bundle.manifest["title"]
    for name in items.columns.difference(["product_id", title, "thumbnail_start", "thumbnail_size"], sort=False):
        counts = items[name].value_counts()
        if 2 <= len(counts) <= 200:
            return name, sorted(counts.index, key=lambda value: (-counts[value], value))[:GROUPS]
    return None


def corpora(service: Service) -> dict[str, slice]:
    """The splits' corpora, by the names of the splits that share them."""
    splits: dict[tuple, list[str]] = {}
    for split in service.bundle.splits:
        span = service.bundle.items_of(split)
        splits.setdefault((span.start, span.stop), []).append(split)
    return {", ".join(names): slice(*span) for span, names in splits.items()}


def colours(service: Service, state: State) -> np.ndarray:
    """Colour of every point: uint8, 0 for none, 1 and up as in `legend`, `QUERY`, `HIDDEN`."""
    items, rows = len(service.bundle.items), service.bundle.queries_of(state.split)
    colour_M = np.zeros(items + len(service.bundle.queries), np.uint8)
    colour_M[items:] = HIDDEN
    colour_M[items:][rows] = QUERY
    span = service.bundle.items_of(state.split)
    if state.colour == "category" and (column := categories(service)):
        place = {name: number for number, name in enumerate(column[1], start=1)}
        colour_M[:items] = service.bundle.items[column[0]].map(place).fillna(GROUPS + 1).to_numpy()
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
        values = [service.metrics(model)[metric].to_numpy()[rows] for model in (state.a, state.b)]
        colour_M[items:][rows] = _two_sided(values[0] - values[1], np.array(STEPS))
    return colour_M


def legend(service: Service, state: State) -> list[tuple[int, str]]:
    """(colour, meaning) for the products."""
    if state.colour == "category":
        column = categories(service)
        return [*enumerate(column[1], start=1), (GROUPS + 1, "other")] if column else [(0, "no category is known")]
    if state.colour == "score":
        return [(0, "not listed"), *((n, f"≥ {service.bounds[n - 1]:g}") for n in range(1, LEVELS + 1))]
    if state.colour == "split":
        return [*enumerate(corpora(service), start=1)]
    names = [f"ranked higher by {state.b}: 10 ×", "3 ×", "1.5 ×", "equal", "1.5 ×", "3 ×", f"10 ×: by {state.a}"]
    return [*enumerate(names, start=1)]


def over(state: State) -> list[int]:
    """The colours that lie over the others, in this order: of listed products, and of those that the systems rank
    differently."""
    return {"score": [*range(1, LEVELS + 1)], "difference": [3, 5, 2, 6, 1, 7]}.get(state.colour, [])


def edges(service: Service, state: State) -> tuple[int | None, Sequence[tuple[int, int]]]:
    """The query's row (None for a typed text) and (product row, level) of its products, best first."""
    items, scores = service.judged(state.split, Ask(state.query))
    best = zip(items[: limits.MAX_K].tolist(), scores[: limits.MAX_K].tolist(), strict=True)
    return service.labels[state.split].get(state.query), [(item, service.level(score)) for item, score in best]


def _two_sided(values: np.ndarray, steps: Sequence[float]) -> np.ndarray:
    """1..7: 4 for about 0, larger where A is better."""
    return (4 + np.sign(values) * np.searchsorted(steps, np.abs(values), side="right")).astype(np.uint8)
