"""S = scale * left @ right.T cut into tiles, each exponentiated once; what log_sum_exps.py is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PART = 1 << 17
"""Numbers of a tile worked on at a time on a CPU: what its second cache holds twice."""
USED = 0.65
"""exp(S - shift) uses this share of the exponents above 1; sums below 1 by this share of them are computed again."""


class Tile(NamedTuple):
    rows: slice
    columns: slice
    cells: slice
    """Which of the sorted cells lie in it."""


class Cells:
    """Cells of an N x M matrix, sorted by the tile that they lie in."""

    def __init__(self, cells: Tensor, shape: tuple[int, int], size: tuple[int, int]):
        (row_K, column_K), (rows, columns) = cells, size
        self.across = -(-shape[1] // columns)
        tile_K = row_K // rows * self.across + column_K // columns
        self.order = tile_K.argsort(stable=True)
        width_K = (shape[1] - column_K // columns * columns).clamp(max=columns)
        self.place = (row_K % rows * width_K + column_K % columns)[self.order]
        """Where each lies in its tile, row after row."""
        ends = torch.arange(-(-shape[0] // rows) * self.across + 1, device=cells.device)
        self.starts = torch.searchsorted(tile_K[self.order], ends)


class Tiles:
    """S = scale * left @ right.T less the listed cells, in tiles of `size`."""

    def __init__(self, left: Tensor, right: Tensor, scale: Tensor | float, cells: Tensor, size: tuple[int, int]):
        self.size = size
        dtype = torch.promote_types(left.dtype, torch.float32)
        self.left, self.right, self.scale, self.cells = left.to(dtype), right.to(dtype), float(scale), cells
        limits = torch.finfo(dtype)
        bound = abs(self.scale) * self.left.norm(dim=1).max().item() * self.right.norm(dim=1).max().item()
        self.shift = max(0.0, bound - USED * math.log(limits.max))
        self.least = USED * math.log(limits.tiny)
        self.smallest = math.log(limits.tiny) + 1  # exp is many times slower where its result has no full precision
        self.may_vanish = -bound - self.shift < self.smallest
        self.sorted = Cells(cells, self.shape, self.size)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), len(self.right)

    def __iter__(self) -> Iterator[Tile]:
        starts, number = self.sorted.starts.tolist(), 0
        for top in range(0, self.shape[0], self.size[0]):
            for start in range(0, self.shape[1], self.size[1]):
                rows = slice(top, min(top + self.size[0], self.shape[0]))
                columns = slice(start, min(start + self.size[1], self.shape[1]))
                yield Tile(rows, columns, slice(starts[number], starts[number + 1]))
                number += 1

    def sums(self, keep_bytes: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(sum of exp(S - shift) over each row, over each column, as many exponentiated tiles as may be kept)"""
        sums_N, sums_M = (self.left.new_zeros(count, dtype=torch.float64) for count in self.shape)
        scratch = self._memory()
        kept: list[Tensor] = []
        for tile in self:
            keep_bytes -= (there := self._area(tile)) * scratch.itemsize
            tile_RxC = self._logits(tile, scratch if keep_bytes < 0 else scratch.new_empty(there))
            for part in self._parts(tile):
                self._exponentiate(tile_RxC[part])
            tile_RxC.view(-1).index_fill_(0, self.sorted.place[tile.cells], 0)
            for part in self._parts(tile):
                sums_N[tile.rows][part] += tile_RxC[part].sum(1)
                sums_M[tile.columns] += tile_RxC[part].sum(0)
            if keep_bytes >= 0:
                kept.append(tile_RxC)
        return sums_N, sums_M, kept

    def gradients(self, a_N: Tensor, b_M: Tensor, by_cell_K: Tensor, kept: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(G @ right, G.T @ left) with G = exp(S - shift) * (a + b), and `by_cell` at the cells."""
        by_left, by_right = torch.zeros_like(self.left), torch.zeros_like(self.right)
        by_cell_K = by_cell_K[self.sorted.order]
        scratch = self._memory()
        for number, tile in enumerate(self):
            kept_RxC = kept[number] if number < len(kept) else None
            gradient_RxC = self._gradient(tile, a_N[tile.rows], b_M[tile.columns], kept_RxC, scratch)
            place, by_cell = self.sorted.place[tile.cells], by_cell_K[tile.cells].to(gradient_RxC)
            gradient_RxC.view(-1).index_fill_(0, place, 0).index_add_(0, place, by_cell)
            by_left[tile.rows].addmm_(gradient_RxC, self.right[tile.columns])
            by_right[tile.columns].addmm_(gradient_RxC.T, self.left[tile.rows])
        return by_left, by_right

    def _gradient(self, tile: Tile, a_R: Tensor, b_C: Tensor, kept_RxC: Tensor | None, memory: Tensor) -> Tensor:
        """exp(S - shift) * (a + b) in a tile."""
        out_RxC = self._logits(tile, memory) if kept_RxC is None else memory[: kept_RxC.numel()].view(kept_RxC.shape)
        for part in self._parts(tile):
            exp_PxC = self._exponentiate(out_RxC[part]) if kept_RxC is None else kept_RxC[part]
            torch.mul(exp_PxC, a_R[part, None] + b_C, out=out_RxC[part])
        return out_RxC

    def _area(self, tile: Tile) -> int:
        return (tile.rows.stop - tile.rows.start) * (tile.columns.stop - tile.columns.start)

    def _memory(self) -> Tensor:
        """For one tile."""
        return self.left.new_empty(min(self.shape[0], self.size[0]) * min(self.shape[1], self.size[1]))

    def _logits(self, tile: Tile, memory: Tensor) -> Tensor:
        left_RxD, right_CxD = self.left[tile.rows], self.right[tile.columns]
        tile_RxC = memory[: self._area(tile)].view(len(left_RxD), len(right_CxD))
        return torch.addmm(tile_RxC, left_RxD, right_CxD.T, beta=0, alpha=self.scale, out=tile_RxC)

    def _exponentiate(self, logits: Tensor) -> Tensor:
        """exp(S - shift), in place."""
        if self.shift:
            logits.sub_(self.shift)
        if self.may_vanish:
            logits.clamp_(min=self.smallest)
        return logits.exp_()

    def _parts(self, tile: Tile) -> list[slice]:
        """Rows of a tile, so many at a time as the cache holds while they are worked on."""
        rows, columns = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
        height = rows if self.left.is_cuda else max(1, PART // columns)
        return [slice(start, start + height) for start in range(0, rows, height)]

    def lossy(self, found_R: Tensor) -> Tensor:
        """The rows (columns) of such log-sum-exps that exp(S - shift) can't tell, -inf and NaN among them."""
        return (~(found_R - self.shift >= self.least)).nonzero().flatten()

    def factors(self, found_R: Tensor, gradient_R: Tensor) -> Tensor:
        """gradient * exp(shift - found), 0 for the lossy ones: times exp(S - shift) it is gradient * softmax."""
        factor_R = gradient_R * torch.exp(self.shift - found_R)
        return factor_R.index_fill_(0, self.lossy(found_R), 0).to(self.left)

    def sides(self) -> tuple[Side, Side]:
        return (
            Side(self.left, self.right, self.scale, self.cells),
            Side(self.right, self.left, self.scale, self.cells.flip(0)),
        )


class Side(NamedTuple):
    """S or its transpose, for rows that are done alone, each with its own maximum."""

    left: Tensor
    right: Tensor
    scale: float
    cells: Tensor

    def alone(self, rows_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(some of the rows, S in them with -inf at the cells)"""
        for rows_R in rows_B.split(max(1, (1 << 20) // len(self.right))) if len(rows_B) else ():
            place_N = torch.full((len(self.left),), -1, device=rows_R.device)
            place_N[rows_R] = torch.arange(len(rows_R), device=rows_R.device)
            row_K, column_K = place_N[self.cells[0]], self.cells[1]
            logits_RxM = self.scale * self.left[rows_R] @ self.right.T
            logits_RxM[row_K[row_K >= 0], column_K[row_K >= 0]] = -torch.inf
            yield rows_R, logits_RxM

    def add_alone(self, rows_B: Tensor, found_N: Tensor, gradient_N: Tensor, by_left: Tensor, by_right: Tensor) -> None:
        """Add the gradients of these rows' log-sum-exps."""
        for rows_R, logits_RxM in self.alone(rows_B):
            found_R = found_N[rows_R].masked_fill(found_N[rows_R] == -torch.inf, torch.inf).to(logits_RxM)
            gradient_RxM = (logits_RxM - found_R[:, None]).exp_().mul_(gradient_N[rows_R, None].to(logits_RxM))
            by_left[rows_R] += gradient_RxM @ self.right
            by_right += gradient_RxM.T @ self.left[rows_R]
