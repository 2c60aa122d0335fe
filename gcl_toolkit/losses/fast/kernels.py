"""Two Triton kernels for log_sum_exps.py on a GPU: bfloat16 products, float32 exponentials, strips of whole rows.

One kernel sums exp(S - shift) over the rows and columns of a strip and stores nothing else; one writes the gradient of
a strip in bfloat16, for two matrix products of the library. No tile is kept.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from gcl_toolkit.losses.fast.tiles import Cells, Tile, Tiles

STRIP_BYTES = 2 << 30
"""Of the gradient of one strip."""
BLOCK = 128, 128
"""Rows and columns of S that one program makes."""
BLOCK_D = 64
LAUNCH = {"num_warps": 8, "num_stages": 3}
LOG2E = math.log2(math.e)


@triton.jit
def _product(left, right, row_R, column_C, rows, columns, width, BLOCK_D: tl.constexpr):
    """The rows of `left` times the rows of `right`, R x C, float32."""
    d = tl.arange(0, BLOCK_D)
    out_RxC = tl.zeros((row_R.shape[0], column_C.shape[0]), tl.float32)
    for start in range(0, width, BLOCK_D):
        there = (start + d < width)[None, :]
        left_RxD = tl.load(
            left + row_R[:, None].to(tl.int64) * width + (start + d)[None, :], (row_R < rows)[:, None] & there, 0.0
        )
        right_CxD = tl.load(
            right + column_C[:, None].to(tl.int64) * width + (start + d)[None, :],
            (column_C < columns)[:, None] & there,
            0.0,
        )
        out_RxC = tl.dot(left_RxD, right_CxD.T, out_RxC)
    return out_RxC


@triton.jit
def _sums_kernel(
    left, right, row_sums, column_sums, starts, cell_rows, cell_columns, rows, columns, width, scale2, shift2,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Of each block of exp2(scale2 * S - shift2): its row sums into row_sums[block column, row], its column sums into
    column_sums[block row, column]; cells are not counted."""
    block_r, block_c = tl.program_id(0), tl.program_id(1)
    row_R, column_C = block_r * BLOCK_R + tl.arange(0, BLOCK_R), block_c * BLOCK_C + tl.arange(0, BLOCK_C)
    exp_RxC = tl.exp2(_product(left, right, row_R, column_C, rows, columns, width, BLOCK_D) * scale2 - shift2)
    exp_RxC = tl.where((row_R < rows)[:, None] & (column_C < columns)[None, :], exp_RxC, 0.0)
    block = block_r * tl.num_programs(1) + block_c
    for cell in range(tl.load(starts + block), tl.load(starts + block + 1)):
        is_row_R, is_column_C = row_R == tl.load(cell_rows + cell), column_C == tl.load(cell_columns + cell)
        exp_RxC = tl.where(is_row_R[:, None] & is_column_C[None, :], 0.0, exp_RxC)
    tl.store(row_sums + block_c.to(tl.int64) * rows + row_R, tl.sum(exp_RxC, 1), row_R < rows)
    tl.store(column_sums + block_r.to(tl.int64) * columns + column_C, tl.sum(exp_RxC, 0), column_C < columns)


@triton.jit
def _gradient_kernel(
    left, right, a, b, gradient, rows, columns, width, scale2, shift2,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """exp2(scale2 * S - shift2) * (a + b) into gradient, rows x columns, bfloat16."""
    row_R = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column_C = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    exp_RxC = tl.exp2(_product(left, right, row_R, column_C, rows, columns, width, BLOCK_D) * scale2 - shift2)
    a_R, b_C = tl.load(a + row_R, row_R < rows, 0.0), tl.load(b + column_C, column_C < columns, 0.0)
    there = (row_R < rows)[:, None] & (column_C < columns)[None, :]
    to = gradient + row_R[:, None].to(tl.int64) * columns + column_C[None, :]
    tl.store(to, (exp_RxC * (a_R[:, None] + b_C[None, :])).to(tl.bfloat16), there)


class TritonTiles(Tiles):
    """Tiles that are strips: some rows (a multiple of a block's) and all columns."""

    def __init__(self, left: Tensor, right: Tensor, scale: Tensor | float, cells: Tensor):
        height = max(1, STRIP_BYTES // (2 * len(right) * BLOCK[0])) * BLOCK[0]
        super().__init__(left, right, scale, cells, (height, len(right)))
        self.left_half, self.right_half = (x.to(torch.bfloat16).contiguous() for x in (left, right))
        if not left.is_cuda:  # Triton's interpreter can't multiply bfloat16
            self.left_half, self.right_half = self.left_half.float(), self.right_half.float()

    def sums(self, keep_bytes: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        sums_N, sums_M = (self.left.new_zeros(count, dtype=torch.float64) for count in self.shape)
        blocks = Cells(self.cells, self.shape, BLOCK)
        row_K, column_K = self.cells[:, blocks.order].int()
        for tile in self:
            height, first = tile.rows.stop - tile.rows.start, tile.rows.start // BLOCK[0]
            row_sums_BxR = self.left.new_empty(blocks.across, height)
            column_sums_BxM = self.left.new_empty(-(-height // BLOCK[0]), self.shape[1])
            starts = blocks.starts[first * blocks.across :]
            self._launch(_sums_kernel, tile, row_sums_BxR, column_sums_BxM, starts, row_K - tile.rows.start, column_K)
            sums_N[tile.rows] = row_sums_BxR.sum(0, dtype=torch.float64)
            sums_M += column_sums_BxM.sum(0, dtype=torch.float64)
        return sums_N, sums_M, []

    def _memory(self) -> Tensor:
        return self.left.new_empty(min(self.shape[0], self.size[0]) * self.shape[1], dtype=torch.bfloat16)

    def _gradient(self, tile: Tile, a_R: Tensor, b_C: Tensor, kept_RxC: Tensor | None, memory: Tensor) -> Tensor:
        gradient_RxM = memory[: self._area(tile)].view(-1, self.shape[1])
        self._launch(_gradient_kernel, tile, a_R, b_C, gradient_RxM)
        return gradient_RxM

    def _add_products(self, tile: Tile, gradient_RxC: Tensor, by_left: Tensor, by_right: Tensor) -> None:
        by_left[tile.rows] = _float_product(gradient_RxC, self.right_half)
        by_right += _float_product(gradient_RxC.T, self.left_half[tile.rows])

    def _launch(self, kernel, tile: Tile, *arguments) -> None:
        left_RxD, right_CxD = self.left_half[tile.rows], self.right_half[tile.columns]
        shape = len(left_RxD), len(right_CxD)
        grid = tuple(-(-count // block) for count, block in zip(shape, BLOCK, strict=True))
        kernel[grid](
            left_RxD, right_CxD, *arguments, *shape, left_RxD.shape[1], self.scale * LOG2E, self.shift * LOG2E,
            *BLOCK, BLOCK_D, **LAUNCH,
        )  # fmt: skip


def _float_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of bfloat16 in float32."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
