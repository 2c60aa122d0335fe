"""Listed cells of S, sorted on a GPU in Triton for the kernels: by block of S, by row, by column."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 1024
"""Cells or starts that a program works on at a time."""
VARYING = (
    *("listed", "owned", "count", "groups", "programs", "steps"),
    *("rows", "in_rows", "behind", "first", "first_row", "first_column", "end"),
)
"""Arguments that differ from batch to batch: no kernel is compiled again for a value of theirs."""


class Listed(NamedTuple):
    """K cells of S in three orders: by block of S, by row, by column. All None: no cell is listed."""

    cells: Tensor | None
    """2 x K, rows and columns."""
    place: Tensor | None
    """The same in the order of the blocks."""
    order: Tensor | None
    """3 x K, the numbers of the cells."""
    starts: Tensor | None
    """Where in its order each block, each row and each column starts; each of the three has an end behind it."""

    @property
    def number(self) -> int:
        return 0 if self.cells is None else self.cells.shape[1]


def sort_cells(cells: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> Listed:
    """cells: 2 x K, K > 0, of an S of this shape, which is made in blocks."""
    cells, count = cells.contiguous(), cells.shape[1]
    in_rows, in_columns = (triton.cdiv(n, size) for n, size in zip(shape, block, strict=True))
    keys_3xK = cells.new_empty(3, count, dtype=torch.int32)
    _keys_kernel[(triton.cdiv(count, CHUNK),)](cells, keys_3xK, count, in_columns, *block, CHUNK)
    keys_3xK, order_3xK = keys_3xK.sort()
    first_row = in_rows * in_columns + 1
    starts = keys_3xK.new_empty(first_row + sum(shape) + 2)
    place_2xK = starts.new_empty(2, count)
    grid = (triton.cdiv(max(len(starts), count), CHUNK),)
    ends = first_row, first_row + shape[0] + 1, len(starts)
    given = keys_3xK, cells, order_3xK, starts, place_2xK
    _starts_kernel[grid](*given, count, *ends, count.bit_length(), CHUNK)
    return Listed(cells, place_2xK, order_3xK, starts)


@triton.jit(do_not_specialize=VARYING)
def _keys_kernel(cells, keys, count, in_columns, R: tl.constexpr, C: tl.constexpr, SIZE: tl.constexpr):
    """Of each cell: the number of its block, its row, its column."""
    which = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = which < count
    row, column = tl.load(cells + which, there, 0).to(tl.int32), tl.load(cells + count + which, there, 0).to(tl.int32)
    tl.store(keys + which, row // R * in_columns + column // C, there)
    tl.store(keys + count + which, row, there)
    tl.store(keys + 2 * count + which, column, there)


@triton.jit(do_not_specialize=VARYING)
def _starts_kernel(
    keys, cells, order, starts, place, count, first_row, first_column, end, steps, SIZE: tl.constexpr
):  # fmt: skip
    """Of each block, row and column: how many cells have a smaller key, by halving. Of each cell in the order of the
    blocks: its place."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    cell = tl.load(order + at, at < count, 0)
    tl.store(place + at, tl.load(cells + cell).to(tl.int32), at < count)
    tl.store(place + count + at, tl.load(cells + count + cell).to(tl.int32), at < count)
    is_row, is_column = (at >= first_row) & (at < first_column), at >= first_column
    wanted = at - tl.where(is_row, first_row, 0) - tl.where(is_column, first_column, 0)
    keys += tl.where(is_row, count, 0) + tl.where(is_column, 2 * count, 0)
    low, high = at * 0, at * 0 + count
    while steps > 0:
        middle = (low + high) // 2
        smaller = (low < high) & (tl.load(keys + middle, low < high, 0) < wanted)
        high = tl.where(smaller, high, middle)
        low = tl.where(smaller, middle + 1, low)
        steps -= 1
    tl.store(starts + at, low, at < end)
