"""Which rows a step sees: known pairs, different queries, or products with all their queries (the score matrix).

A batch is a function of (seed, step) alone, so that a run can go on from any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gcl_toolkit import losses
from gcl_toolkit.errors import DataError
from gcl_toolkit.losses.tiled import same_id_cells
from gcl_toolkit.ranked_data import RankedData


@dataclass(frozen=True)
class Batch:
    """What one step sees, as row numbers. For pairs, row i of `queries` goes with row i of `products`. For the score
    matrix, `weights` is queries x products, sparse where that is large."""

    queries: np.ndarray
    products: np.ndarray
    weights: Tensor


class PairSampler:
    """N known pairs, uniformly, without repetition within an epoch."""

    def __init__(self, data: RankedData, weights: np.ndarray, *, size: int, seed: int):
        self.kept = np.flatnonzero(weights > 0)
        self.pairs, self.weights, self.size, self.seed = data.pairs, weights, size, seed

    def __call__(self, step: int) -> Batch:
        chosen = self.kept[_epoch_slice(len(self.kept), self.size, step, self.seed)]
        weights = torch.from_numpy(self.weights[chosen]).float()
        return Batch(self.pairs.query[chosen], self.pairs.product[chosen], weights)


class QuerySampler:
    """N different queries (every one once an epoch), each with one of its known products, drawn uniformly."""

    def __init__(self, data: RankedData, weights: np.ndarray, *, size: int, seed: int):
        kept = np.flatnonzero(weights > 0)
        self.pairs, self.weights, self.seed = data.pairs, weights, seed
        self.of_query = _Groups(data.pairs.query[kept], kept, weights[kept], data.queries.num_rows)
        self.queries = np.unique(data.pairs.query[kept])
        self.size = min(size, len(self.queries))

    def __call__(self, step: int) -> Batch:
        queries = np.unique(self.queries[_epoch_slice(len(self.queries), self.size, step, self.seed)])
        chosen = self.of_query.draw(np.random.default_rng((self.seed, step)), queries)
        return Batch(queries, self.pairs.product[chosen], torch.from_numpy(self.weights[chosen]).float())


class MatrixSampler:
    """M products with all known queries of theirs, and further queries up to `queries`.

    Half of the products are drawn query-balanced from the best grades (a query uniformly, one of its best products
    uniformly), half uniformly, since coverage of the corpus matters too. With `hard` (a list of products for each
    query), half of the latter are hard negatives of the queries that were drawn.
    """

    def __init__(
        self,
        data: RankedData,
        weights: np.ndarray,
        top: np.ndarray,
        *,
        size: int,
        queries: int,
        seed: int,
        hard: Sequence[np.ndarray] | None = None,
    ):
        query, product, _ = data.pairs
        kept = weights > 0
        self.size, self.seed, self.count = size, seed, queries
        self.by_product = _Groups(product[kept], query[kept], weights[kept], data.corpus.num_rows)
        best = kept & top
        self.best_of_query = _Groups(query[best], product[best], weights[best], data.queries.num_rows)
        self.has_best = np.flatnonzero(self.best_of_query.counts)
        if not len(self.has_best):
            raise DataError(
                f"{data.name}: no pair of the best grade has a weight > 0; some are expected, to train towards"
            )
        self.products, self.queries = np.unique(product[kept]), np.unique(query[kept])
        self.hard = _unknown(hard, data) if hard else None

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        drawn = rng.choice(self.has_best, self.size - self.size // 2)
        parts, rest = [self.best_of_query.draw(rng, drawn)], self.size // 2
        if self.hard:
            parts.append(self.hard.draw(rng, drawn[self.hard.counts[drawn] > 0][: rest // 2]))
            rest -= len(parts[-1])
        parts.append(self.products[_epoch_slice(len(self.products), rest, step, self.seed)])
        products = np.unique(np.concatenate(parts))
        if len(products) < min(self.size, len(self.products)):  # some drawn twice; equal batches are faster
            others = rng.permutation(np.setdiff1d(self.products, products))
            products = np.sort(np.concatenate([products, others[: self.size - len(products)]]))
        column, query, weight = self.by_product.members(products)
        queries = np.unique(query)
        if len(queries) < min(self.count, len(self.queries)):
            others = rng.permutation(np.setdiff1d(self.queries, queries))
            queries = np.sort(np.concatenate([queries, others[: self.count - len(queries)]]))
        cells = torch.from_numpy(np.stack([np.searchsorted(queries, query), column]))
        size, values = (len(queries), len(products)), torch.from_numpy(weight).float()
        weights_NxM = torch.sparse_coo_tensor(cells, values, size, check_invariants=True)
        small = len(queries) * len(products) <= losses.DENSE_CELLS
        return Batch(queries, products, weights_NxM.to_dense() if small else weights_NxM.coalesce())


class KnownPairs:
    """Which cells of a batch of pairs are no negatives."""

    def __init__(self, data: RankedData):
        query, product, score = (column[data.pairs.score > 0] for column in data.pairs)
        self.of_query = _Groups(query, product, score, data.queries.num_rows)

    def __call__(self, queries: np.ndarray, products: np.ndarray) -> Tensor:
        """The cells (i, j) with the same query, the same product or a known pair with a score > 0, 2 x K."""
        row, product, _ = self.of_query.members(queries)
        order = np.argsort(products, kind="stable")
        first, last = (np.searchsorted(products[order], product, side) for side in ("left", "right"))
        position, index = _ranges(first, last - first)
        known = torch.from_numpy(np.stack([row[position], order[index]]))
        return torch.cat([known, *(same_id_cells(torch.from_numpy(ids)) for ids in (queries, products))], 1)


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


def _unknown(found: Sequence[np.ndarray], data: RankedData) -> _Groups:
    """What was found for each query, without its known products."""
    query, product = np.repeat(np.arange(len(found)), [len(rows) for rows in found]), np.concatenate(found)
    count = data.corpus.num_rows
    new = ~np.isin(query * count + product, data.pairs.query * count + data.pairs.product)
    return _Groups(query[new], product[new], np.ones(new.sum()), data.queries.num_rows)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which range, index) of every index in the ranges start, start + 1, ... of so many."""
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
