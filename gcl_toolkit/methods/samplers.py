"""What a step draws: known pairs, or products with all queries that know them (the score matrix).

A batch is a function of (seed, step) alone, so that a run can continue from any step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.weighting import are_grades, is_top, to_weights
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.losses import same_id_cells
from gcl_toolkit.losses.fast import DENSE_CELLS


@dataclass(frozen=True)
class Batch:
    """What one step sees, as row numbers. Of pairs, row i of `queries` belongs to row i of `products`, and `weights`
    is N. Of a score matrix, `weights` is queries x products, sparse (COO) where that is large, and on a GPU."""

    queries: np.ndarray
    products: np.ndarray
    weights: Tensor
    excluded: Tensor | None = None
    """Cells to leave out of the negatives, 2 x K, or None."""
    grades: bool = False
    """Whether the scores are grades (`weighting.are_grades`)."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed."""
        excluded = None if self.excluded is None else change(self.excluded)
        return replace(self, weights=change(self.weights), excluded=excluded)


def training_weights(data: RankedData, weighting: str, top_only: bool) -> np.ndarray:
    """The weight of every pair of `data`, 0 for pairs that are not trained on: a score of 0 says "irrelevant"."""
    scores = data.pairs.score
    weights = to_weights(scores, weighting) * (scores > 0)
    if top_only:
        weights *= is_top(scores)
    if not (weights > 0).any():
        raise UserError(f"{data.name}: no pair has a weight > 0 under the weighting {weighting!r}; nothing to train on")
    return weights


class PairSampler:
    """N known pairs, uniformly, without repetition within an epoch.

    exclude_known: other rows with the same query or product, and other known pairs, are excluded from the negatives.
    """

    def __init__(self, data: RankedData, weights: np.ndarray, *, size: int, seed: int, exclude_known: bool = False):
        self.kept = np.flatnonzero(weights > 0)
        self.pairs, self.weights, self.size, self.seed = data.pairs, weights, size, seed
        query, product, score = (column[data.pairs.score > 0] for column in data.pairs)
        self.known = _Groups(query, product, score, data.queries.num_rows) if exclude_known else None

    def __call__(self, step: int) -> Batch:
        chosen = self.kept[_epoch_slice(len(self.kept), self.size, step, self.seed)]
        queries, products = self.pairs.query[chosen], self.pairs.product[chosen]
        weights = torch.from_numpy(self.weights[chosen]).float()
        return Batch(queries, products, weights, self._known_cells(queries, products) if self.known else None)

    def _known_cells(self, queries: np.ndarray, products: np.ndarray) -> Tensor:
        """The cells (i, j) with the same query, the same product or a known pair with a score > 0, 2 x K."""
        assert self.known is not None
        row, product, _ = self.known.members(queries)
        order = np.argsort(products, kind="stable")
        first, last = (np.searchsorted(products[order], product, side) for side in ("left", "right"))
        position, index = _ranges(first, last - first)
        known = torch.from_numpy(np.stack([row[position], order[index]]))
        return torch.cat([known, *(same_id_cells(torch.from_numpy(ids)) for ids in (queries, products))], 1)


class MatrixSampler:
    """M products with all queries that know them, and further queries up to `queries`.

    Half of the products are drawn query-balanced from the best scores (a query uniformly, one of its best products
    uniformly), half uniformly, since coverage of the corpus matters too.
    """

    def __init__(self, data: RankedData, weights: np.ndarray, *, size: int, queries: int, seed: int):
        if size < 2:
            raise UserError(f"batch is {size}; it must be an integer >= 2")
        query, product, score = data.pairs
        kept = weights > 0
        self.size, self.seed, self.count, self.grades = size, seed, queries, are_grades(score)
        self.by_product = _Groups(product[kept], query[kept], weights[kept], data.corpus.num_rows)
        best = kept & is_top(score)
        self.best_of_query = _Groups(query[best], product[best], weights[best], data.queries.num_rows)
        self.has_best = np.flatnonzero(self.best_of_query.counts)
        if not len(self.has_best):
            raise DataError(f"{data.name}: no pair with one of the best scores has a weight > 0; at least one must")
        self.products, self.queries = np.unique(product[kept]), np.unique(query[kept])

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        best = self.best_of_query.draw(rng, rng.choice(self.has_best, self.size - self.size // 2))
        uniform = self.products[_epoch_slice(len(self.products), self.size // 2, step, self.seed)]
        products = _filled(rng, np.unique(np.concatenate([best, uniform])), self.products, self.size)
        column, query, weight = self.by_product.members(products)
        queries = _filled(rng, np.unique(query), self.queries, self.count)
        cells = torch.from_numpy(np.stack([np.searchsorted(queries, query), column]))
        size, values = (len(queries), len(products)), torch.from_numpy(weight).float()
        weights_NxM = torch.sparse_coo_tensor(cells, values, size, check_invariants=True)
        dense = len(queries) * len(products) <= DENSE_CELLS
        weights_NxM = weights_NxM.to_dense() if dense else weights_NxM.coalesce()
        return Batch(queries, products, weights_NxM, grades=self.grades)


def _filled(rng: np.random.Generator, chosen: np.ndarray, all_rows: np.ndarray, size: int) -> np.ndarray:
    """Sorted unique rows, filled up to `size` from all rows at random: batches of equal size are faster."""
    if len(chosen) >= min(size, len(all_rows)):
        return chosen
    others = rng.permutation(np.setdiff1d(all_rows, chosen))
    return np.sort(np.concatenate([chosen, others[: size - len(chosen)]]))


class _Groups:
    """Members and their weights by group, as one sorted array with offsets."""

    def __init__(self, group: np.ndarray, member: np.ndarray, weight: np.ndarray, groups: int):
        order = np.argsort(group, kind="stable")
        self.member, self.weight = member[order], weight[order]
        self.counts = np.bincount(group, minlength=groups)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    def draw(self, rng: np.random.Generator, groups: np.ndarray) -> np.ndarray:
        """One member of each group, uniformly."""
        return self.member[self.starts[groups] + (rng.random(len(groups)) * self.counts[groups]).astype(np.int64)]

    def members(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(position in `groups`, member, weight) of all members of the groups."""
        position, index = _ranges(self.starts[groups], self.counts[groups])
        return position, self.member[index], self.weight[index]


def _ranges(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which range, index) of every index in the ranges start, start + 1, ... of the given counts."""
    position = np.repeat(np.arange(len(counts)), counts)
    return position, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + starts[position]


def _epoch_slice(count: int, size: int, step: int, seed: int) -> np.ndarray:
    """`size` of `count` rows: every row once an epoch, in an order that is a function of (seed, epoch)."""
    position, parts = step * size, []
    while size > 0:
        epoch, start = divmod(position, count)
        part = _epoch_order(count, seed, epoch)[start : start + size]
        parts.append(part)
        position, size = position + len(part), size - len(part)
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 1)).permutation(count)
