"""The weights of a batch by its ids, for training loops outside this toolkit (docs/FINE_TUNE.md)."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcl_toolkit.data.weighting import are_grades, to_weights
from gcl_toolkit.errors import DataError


class KnownPairs:
    """All known pairs of a training set, with their weights; by default those of the default method.

    query_ids, product_ids, scores: a pair a row; a score of 0 says "irrelevant". A pair listed twice has its larger
    weight. weighting: a name of `WEIGHTINGS`, or a function of the scores.
    """

    def __init__(self, query_ids: Iterable, product_ids: Iterable, scores: Any, weighting: Any = "auto"):
        scores = np.asarray(scores, np.float64)
        self.grades = are_grades(scores)
        weights = (to_weights(scores, weighting) * (scores > 0)).tolist()
        self._weights: dict[Hashable, dict[Hashable, float]] = defaultdict(dict)
        for query, product, weight in zip(plain(query_ids), plain(product_ids), weights, strict=True):
            known = self._weights[query]
            known[product] = max(weight, known.get(product, 0.0))

    def weights(self, query_ids: Iterable, product_ids: Iterable) -> Tensor:
        """Of N queries and M products, N x M, float32: the weight of each known pair, 0 elsewhere, as `graded_loss` and
        `matrix_loss` take it. Raises DataError for a query without known pairs."""
        queries, columns = plain(query_ids), defaultdict(list)
        for column, product in enumerate(products := plain(product_ids)):
            columns[product].append(column)
        weights_NxM = np.zeros((len(queries), len(products)), np.float32)
        for row, query in enumerate(queries):
            if query not in self._weights:
                example = next(iter(self._weights), None)
                raise DataError(f"query id {query!r} has no known pair; ids such as {example!r} are expected")
            for product in self._weights[query].keys() & columns.keys():
                weights_NxM[row, columns[product]] = self._weights[query][product]
        return torch.from_numpy(weights_NxM)


def plain(ids: Any) -> Sequence[Hashable]:
    """Ids as Python's own values, of an array, a tensor, a column or a list."""
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)
