"""Faster forms of the losses, with the same values: tiled for large batches, in Triton on a GPU, over many ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_toolkit.losses.fast.log_sum_exps import has_kernels
from gcl_toolkit.losses.fast.ranks import ranks, whole_batch

DENSE_CELLS = 1 << 21
"""Above this many cells of the score matrix the tiled form is also the faster one. With Triton's kernels it always is:
they are fewer launches."""


@dataclass(frozen=True)
class Forms:
    """One loss in the forms that have the same value; called like the dense one, on this rank's rows of the batch."""

    dense: Callable[..., Tensor]
    tiled: Callable[..., Tensor] | None = None
    """For large batches and many ranks; None: each rank computes the dense form of the whole batch."""

    def __call__(self, left: Tensor, right: Tensor, weights: Tensor, *, half: bool = False, **settings) -> Tensor:
        """This rank's share of the loss. weights: of the whole batch, N or N x M, sparse only where there is a tiled
        form. half: the tiled form may multiply in bfloat16, on a GPU that can."""
        fast = half and has_kernels(left, torch.bfloat16)
        cells = len(weights) ** 2 if weights.dim() == 1 else weights.shape[0] * weights.shape[1]
        if self.tiled is None or (cells <= DENSE_CELLS and ranks() == 1 and not fast):
            dense = self.dense if ranks() == 1 else whole_batch(self.dense)
            return dense(left, right, weights.to_dense(), **settings)
        if fast:
            left, right = left.to(torch.bfloat16), right.to(torch.bfloat16)
        return self.tiled(left, right, weights, **settings)
