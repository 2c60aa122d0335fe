"""The log-sum-exp of every row and every column of S = scale * left @ right.T, without ever holding S.

S is cut into tiles, and a tile is exponentiated once for both of its sums: exp(S - shift), one shift for all tiles, no
running maximum. |S| has a bound (Cauchy-Schwarz), so nothing overflows; a row or column whose sum is so small that
terms may have been lost is done again, alone. Backward forms a tile's gradient from the kept tile, or from the same
exponential once more: 8 N M D operations for both passes, 6 where tiles are kept; memory O((N + M) D).
"""

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gcl_toolkit.losses.fast.tiles import Tiles

KEEP_BYTES = 96 << 20
"""Bytes of tiles kept from the forward to the backward pass."""


def log_sum_exps(
    left: Tensor, right: Tensor, scale: Tensor | float, cells: Tensor | None, ignored: Tensor | None = None, *,
    keep_bytes: int = KEEP_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(row_N, column_M, cell_K): log sum exp of each row and column less the listed cells, and S at `cells`; float64.

    left: N x D, right: M x D. cells: 2 x K, rows and columns of S; None: its diagonal. ignored: the same for cells that
    are in no sum and not wanted either; a cell may be listed twice. A row or column with nothing left is -inf.
    Differentiable once, in left, right and scale. Multiplied in float32 or float64; by Triton's kernels, if left and
    right are bfloat16 on a GPU, in that, and the results are float32.
    """
    scale = torch.as_tensor(scale, device=left.device)
    with torch.autocast(left.device.type, enabled=False):
        if has_kernels(left):
            from gcl_toolkit.losses.fast import kernels

            return kernels.log_sum_exps(left, right, scale, cells, ignored)
        cells = torch.arange(len(left), device=left.device).expand(2, -1) if cells is None else cells
        ignored = cells[:, :0] if ignored is None else ignored
        return _LogSumExps.apply(left, right, scale, cells, ignored, keep_bytes)


def has_kernels(embeddings: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether there are Triton kernels for such embeddings in this dtype (by default theirs): bfloat16 on a GPU."""
    if not embeddings.is_cuda or (dtype or embeddings.dtype) != torch.bfloat16 or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(embeddings.device) >= (8, 0)


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, left, right, scale, cells, ignored, keep_bytes):
        tiles = tiles_of(left, right, scale, torch.cat([cells, ignored], 1))
        sums_N, sums_M, kept = tiles.sums(keep_bytes if any(ctx.needs_input_grad) else 0)
        found = sums_N.log_().add_(tiles.shift), sums_M.log_().add_(tiles.shift)
        for side, found_R in zip(tiles.sides(), found, strict=True):
            for rows, logits_RxM in side.alone(tiles.lossy(found_R)):
                found_R[rows] = logits_RxM.logsumexp(1).double()
        ctx.save_for_backward(left, right, scale, cells, ignored, *found, *kept)
        return *found, _dots(left, right, cells) * scale.double()

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        left, right, scale, cells, ignored, row_N, column_M, *kept = ctx.saved_tensors
        tiles = tiles_of(left, right, scale, torch.cat([cells, ignored], 1))
        largest = torch.cat([g.abs() for g in gradients]).max().clamp(min=torch.finfo(torch.float64).tiny)
        by_row_N, by_column_M, by_cell_K = (g / largest for g in gradients)
        by_cell_K = torch.cat([by_cell_K, by_cell_K.new_zeros(ignored.shape[1])])
        factors = tiles.factors(row_N, by_row_N), tiles.factors(column_M, by_column_M)
        out = tiles.gradients(*factors, by_cell_K, kept)
        by_rows, by_columns = tiles.sides()
        with torch.autocast(left.device.type, enabled=False):
            by_rows.add_alone(tiles.lossy(row_N), row_N, by_row_N, *out)
            by_columns.add_alone(tiles.lossy(column_M), column_M, by_column_M, *reversed(out))
        by_scale = _dots(out[0], left, torch.arange(len(left), device=left.device).expand(2, -1)).sum() * largest
        return *(grad.mul_(scale * largest) for grad in out), by_scale, None, None, None


def _dots(left: Tensor, right: Tensor, cells: Tensor) -> Tensor:
    """left[i] . right[j] of each cell (i, j), K, in float64."""
    found_K = left.new_empty(cells.shape[1], dtype=torch.float64)
    size = 1 << 16 if left.is_cuda else 64
    for found_C, (i, j) in zip(found_K.split(size), cells.split(size, 1), strict=True):
        found_C.copy_((left[i].double() * right[j].double()).sum(1))
    return found_K


def tiles_of(left: Tensor, right: Tensor, scale: Tensor, cells: Tensor) -> Tiles:
    return Tiles(left, right, scale, cells, (8192, 8192) if left.is_cuda else (2048, 1024))
