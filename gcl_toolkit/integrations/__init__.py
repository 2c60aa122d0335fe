"""Losses for other trainers: sentence-transformers, open_clip's train.py, any PyTorch loop (docs/FINE_TUNE.md)."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl_toolkit.data.weighting import is_top, to_weights
from gcl_toolkit.errors import UserError
from gcl_toolkit.losses.fast.ranks import gather, own_share, ranks
from gcl_toolkit.losses.matrix import Scale
from gcl_toolkit.methods import DEFAULT, METHODS, Batch, KnownPairs, Method, as_method, name_of
from gcl_toolkit.methods.known import plain
from gcl_toolkit.methods.matrix import Matrix


class BatchLoss(nn.Module):
    """The loss of a method of the score matrix, of batches whose rows have ids, on one or many ranks.

    query_ids, product_ids, scores: all known pairs of the training set, a pair a row; a score of 0 says "irrelevant".
    method: a value or a name of `gcl_toolkit.methods`, such as "matrix" or "graded-noscores".
    """

    def __init__(self, query_ids: Iterable, product_ids: Iterable, scores: Any, method: Method | str = DEFAULT):
        super().__init__()
        chosen = as_method(method)
        if not isinstance(chosen, Matrix):
            known = ", ".join(name for name, each in METHODS.items() if isinstance(each, Matrix))
            raise UserError(f"{name_of(chosen)} takes one pair a row, not a score matrix; use one of: {known}")
        self.method = chosen
        self.known = KnownPairs(query_ids, product_ids, scores, self._weights)

    def _weights(self, scores: np.ndarray) -> np.ndarray:
        weights = to_weights(scores, self.method.weighting)
        return weights * is_top(scores) if self.method.top_only else weights

    def forward(
        self, queries: Tensor, products: Tensor, query_ids: Iterable, product_ids: Iterable, *, logit_scale: Scale
    ) -> Tensor:
        """The loss of N queries against M products, a scalar, in which every known pair among them has its weight.

        queries: N x D, products: M x D, of any norm. query_ids, product_ids: N and M; rows with equal ids count once.
        With torch.distributed, the batch is that of all ranks, and the mean of the ranks' values and gradients, as
        DistributedDataParallel takes it, is that of one process. Raises DataError for a query without known pairs.
        """
        left, query_ids = _distinct(queries, query_ids)
        right, product_ids = _distinct(products, product_ids)
        weights = self.known.weights(query_ids, product_ids).to(left.device)
        batch = Batch(np.arange(len(left)), np.arange(len(right)), weights, grades=self.known.grades)
        own = left[own_share(len(left))], right[own_share(len(right))]
        with torch.autocast(left.device.type, enabled=False):
            return ranks() * self.method.loss(*own, batch, logit_scale=logit_scale)


def _distinct(vectors: Tensor, ids: Iterable) -> tuple[Tensor, list[Hashable]]:
    """The normalised vectors of all ranks in float32, and their ids; of rows with equal ids, one."""
    all_ids = [plain(ids)] * ranks()
    if len(all_ids[0]) != len(vectors):
        raise UserError(f"{len(vectors)} rows have {len(all_ids[0])} ids; give one id a row")
    if ranks() > 1:
        dist.all_gather_object(all_ids, all_ids[0])
    row_of = {id: row for row, id in enumerate(id for part in all_ids for id in part)}
    return normalize(gather(vectors).float(), dim=-1)[list(row_of.values())], list(row_of)
