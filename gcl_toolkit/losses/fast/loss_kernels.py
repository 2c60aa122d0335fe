"""The losses on one rank, on a GPU in Triton: from the log-sum-exps of kernels.py on, a kernel each way.

Few launches, since a batch of a few thousand is bound by the host: sigmoids, shares and sums are in the kernels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from gcl_toolkit.losses.fast.kernels import BLOCK, NEVER, rests
from gcl_toolkit.losses.fast.listed import VARYING, sort_cells
from gcl_toolkit.losses.matrix import Scale

CELLS = 32
"""Cells of a row or column that a program compares with as many others at a time."""
CHUNK = 1024
"""Pairs or sums that a program works on at a time."""
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


def gcl_loss(
    left: Tensor, right: Tensor, weights: Tensor | None, scale: Scale, excluded: Tensor | None, normalise: bool
) -> Tensor:
    """`tiled_gcl_loss` on one rank."""
    scale = torch.as_tensor(scale, device=left.device)
    excluded = None if excluded is None or not excluded.shape[1] else excluded.to(left.device)
    listed = None if excluded is None else sort_cells(excluded, (len(left), len(right)), BLOCK)
    with torch.autocast(left.device.type, enabled=False):
        rest, own_N = rests(left, right, scale, listed, len(left), True)
        return _PairsLoss.apply(own_N, rest, None if weights is None else weights.float().contiguous(), normalise)


def cells_loss(
    left: Tensor, right: Tensor, cells: Tensor, weight_K: Tensor, scale: Scale, r: float, recall: float | None
) -> Tensor:
    """`tiled_graded_loss` on one rank, with recall None `tiled_matrix_loss`; cells: all known ones, at least one."""
    scale = torch.as_tensor(scale, device=left.device)
    listed = sort_cells(cells, (len(left), len(right)), BLOCK)
    with torch.autocast(left.device.type, enabled=False):
        rest, own_K = rests(left, right, scale, listed, len(weight_K), False)
        weight_K = weight_K.float().contiguous()
        return _CellsLoss.apply(own_K, rest, weight_K, listed.order, listed.starts, len(left), r, recall)


# -- the loss of all known cells ---------------------------------------------------------------------------------------


class _CellsLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own_K, rest, weight_K, order, starts, rows, r, recall):
        lower_2xK = own_K.new_empty(2, len(own_K))
        totals_3xG = own_K.new_empty(3, len(rest))
        ctx.numbers = len(own_K), len(starts) - len(rest) - 2, rows, recall or 0.0
        ctx.launch = recall is not None, CELLS
        given = own_K, rest, weight_K, order, starts, lower_2xK, totals_3xG
        _cells_kernel[(len(rest),)](*given, len(rest), *ctx.numbers, *ctx.launch, num_warps=1)
        loss, factors = _mean(totals_3xG, rows, r, True)
        ctx.save_for_backward(*given, factors)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, by_loss):
        own_K, rest, *given = ctx.saved_tensors
        by_own_2xK, by_rest = own_K.new_empty(2, len(own_K)), torch.empty_like(rest)
        _cells_gradient_kernel[(len(rest),)](
            own_K, rest, *given, by_loss, by_own_2xK, by_rest, len(rest), *ctx.numbers, *ctx.launch, num_warps=1
        )
        return by_own_2xK.sum(0), by_rest, *[None] * 6


def _mean(totals: Tensor, first: int, r: float, counted: bool) -> tuple[Tensor, Tensor]:
    """(r * the mean of the first losses + (1 - r) * that of the others, the factors of a loss among the former and
    among the latter). Totals hold losses, then what each is divided by: by its sum, or with `counted` by the number of
    positive ones."""
    loss, factors = totals.new_empty(()), totals.new_empty(2)
    _mean_kernel[(1,)](totals, loss, factors, first, totals.shape[1], r, counted, CHUNK)
    return loss, factors


@triton.jit(do_not_specialize=VARYING)
def _mean_kernel(totals, mean, factors, first, count, r, COUNTED: tl.constexpr, SIZE: tl.constexpr):
    loss_a, total_a = tl.zeros((SIZE,), tl.float32), tl.zeros((SIZE,), tl.float32)
    loss_b, total_b, start = loss_a, total_a, 0
    while start < count:
        at = start + tl.arange(0, SIZE)
        loss, total = tl.load(totals + at, at < count, 0.0), tl.load(totals + count + at, at < count, 0.0)
        total = tl.where(total > 0, 1.0, 0.0) if COUNTED else total
        loss_a += tl.where(at < first, loss, 0.0)
        total_a += tl.where(at < first, total, 0.0)
        loss_b += tl.where(at < first, 0.0, loss)
        total_b += tl.where(at < first, 0.0, total)
        start += SIZE
    least = 1.0 if COUNTED else TINY
    a, b = r / tl.maximum(tl.sum(total_a, 0), least), (1 - r) / tl.maximum(tl.sum(total_b, 0), least)
    tl.store(mean, a * tl.sum(loss_a, 0) + b * tl.sum(loss_b, 0))
    tl.store(factors, a)
    tl.store(factors + 1, b)


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), exact at both ends."""
    y = tl.exp(-tl.abs(x))
    return tl.maximum(x, 0.0) + tl.where(y < 0.01, y * (1 - y * (1 / 2 - y * (1 / 3 - y / 4))), tl.log(1 + y))


@triton.jit
def _group(order, starts, count, first_row, rows):
    """(0 for a row, 1 for a column, the order of its cells, their start, their end) of this program."""
    group = tl.program_id(0)
    way = (group >= rows).to(tl.int32)
    at = starts + first_row + group + way
    return way, order + (1 + way) * count, tl.load(at), tl.load(at + 1)


@triton.jit
def _members(values, weights, order, which_C, end):
    """(cells, whether they are there, values, weights) of a chunk of a row or column."""
    there_C = which_C < end
    cell_C = tl.load(order + which_C, there_C, 0)
    return cell_C, there_C, tl.load(values + cell_C, there_C, NEVER), tl.load(weights + cell_C, there_C, 0.0)


@triton.jit
def _totals(values, weights, order, start, end, SIZE: tl.constexpr):
    """(the sum of the weights, how many are positive)"""
    total_K, known_K = tl.zeros((SIZE,), tl.float32), tl.zeros((SIZE,), tl.float32)
    while start < end:
        _cell, _there, _value, weight_K = _members(values, weights, order, start + tl.arange(0, SIZE), end)
        total_K += weight_K
        known_K += tl.where(weight_K > 0, 1.0, 0.0)
        start += SIZE
    return tl.sum(total_K, 0), tl.sum(known_K, 0)


@triton.jit
def _are_rivals(weight_K, weight_J, which_K, which_J, there_J, by_grade):
    """K x J: whether K competes with J: with lower weights, or with all others."""
    is_lower, is_other = weight_J[None, :] < weight_K[:, None], which_J[None, :] != which_K[:, None]
    return tl.where(by_grade, is_lower, is_other) & there_J[None, :]


@triton.jit
def _share(weight_K, total, known, recall):
    """By weight, and so far as `recall` says all alike."""
    alike = tl.where(weight_K > 0, 1.0 / tl.maximum(known, 1.0), 0.0)
    by_weight = weight_K / tl.where(total > 0, total, 1.0)
    return by_weight + recall * (alike - by_weight)


@triton.jit(do_not_specialize=VARYING)
def _cells_kernel(
    own, rest, weights, order, starts, lower, totals, groups, count, first_row, rows, recall,
    GRADED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Of a row or column: its loss, its cells' weights in all and how many are positive, into totals, 3 x groups; of
    each cell what it competes with, the log-sum-exp, into lower, rows before columns."""
    way, order, start, end = _group(order, starts, count, first_row, rows)
    group, chunk, rest_of = tl.program_id(0), tl.arange(0, SIZE), tl.load(rest + tl.program_id(0))
    total, known = _totals(own, weights, order, start, end, SIZE)
    loss_K, first = tl.zeros((SIZE,), tl.float32), start
    while first < end:
        cell_K, there_K, own_K, weight_K = _members(own, weights, order, first + chunk, end)
        top_K = tl.zeros((SIZE,), tl.float32) + tl.maximum(rest_of, NEVER)
        sum_K = tl.exp(rest_of - top_K)
        other = start
        while other < end:
            _cell_J, there_J, own_J, weight_J = _members(own, weights, order, other + chunk, end)
            is_rival_KxJ = _are_rivals(weight_K, weight_J, first + chunk, other + chunk, there_J, GRADED & (way == 0))
            own_KxJ = tl.where(is_rival_KxJ, own_J[None, :], NEVER)
            higher_K = tl.maximum(top_K, tl.max(own_KxJ, 1))
            sum_K *= tl.exp(top_K - higher_K)
            sum_K += tl.sum(tl.where(is_rival_KxJ, tl.exp(own_KxJ - higher_K[:, None]), 0.0), 1)
            top_K = higher_K
            other += SIZE
        lower_K = top_K + tl.log(sum_K)
        tl.store(lower + way * count + cell_K, lower_K, there_K)
        share_K = _share(weight_K, total, known, recall * (1 - way))
        loss_K += tl.where(there_K, share_K * _softplus(lower_K - own_K), 0.0)
        first += SIZE
    tl.store(totals + group, tl.sum(loss_K, 0))
    tl.store(totals + groups + group, total)
    tl.store(totals + 2 * groups + group, known)


@triton.jit(do_not_specialize=VARYING)
def _cells_gradient_kernel(
    own, rest, weights, order, starts, lower, totals, factors, by_loss, by_own, by_rest, groups, count, first_row, rows,
    recall, GRADED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """by_own: rows before columns, of each cell."""
    way, order, start, end = _group(order, starts, count, first_row, rows)
    group, chunk, rest_of = tl.program_id(0), tl.arange(0, SIZE), tl.load(rest + tl.program_id(0))
    total, known = tl.load(totals + groups + group), tl.load(totals + 2 * groups + group)
    factor = tl.load(by_loss) * tl.load(factors + way)
    lower += way * count
    by_rest_K, first = tl.zeros((SIZE,), tl.float32), start
    while first < end:
        cell_J, there_J, own_J, weight_J = _members(own, weights, order, first + chunk, end)
        by_own_J = tl.zeros((SIZE,), tl.float32)
        other = start
        while other < end:
            cell_K, there_K, own_K, weight_K = _members(own, weights, order, other + chunk, end)
            lower_K = tl.load(lower + cell_K, there_K, NEVER)
            some_K = lower_K > NEVER  # something that it competes with
            by_K = factor * _share(weight_K, total, known, recall * (1 - way)) * tl.sigmoid(lower_K - own_K)
            by_K = tl.where(some_K & there_K, by_K, 0.0)
            is_rival_KxJ = _are_rivals(weight_K, weight_J, other + chunk, first + chunk, there_J, GRADED & (way == 0))
            share_KxJ = tl.where(is_rival_KxJ & some_K[:, None], tl.exp(own_J[None, :] - lower_K[:, None]), 0.0)
            by_own_J += tl.sum(share_KxJ * by_K[:, None], 0)
            by_own_J -= tl.sum(tl.where((other + chunk)[:, None] == (first + chunk)[None, :], by_K[:, None], 0.0), 0)
            if first == start:
                by_rest_K += tl.where(some_K, tl.exp(rest_of - lower_K) * by_K, 0.0)
            other += SIZE
        tl.store(by_own + way * count + cell_J, by_own_J, there_J)
        first += SIZE
    tl.store(by_rest + group, tl.sum(by_rest_K, 0))


# -- the loss of pairs -------------------------------------------------------------------------------------------------


class _PairsLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own_N, rest, weights, normalise):
        count, ctx.grid = len(own_N), (triton.cdiv(len(own_N), CHUNK),)
        totals_2xP = own_N.new_empty(2, *ctx.grid)
        _pairs_kernel[ctx.grid](own_N, rest, weights, totals_2xP, ctx.grid[0], count, normalise, CHUNK)
        loss, factors = _mean(totals_2xP, ctx.grid[0], 0.5, False)
        ctx.save_for_backward(own_N, rest, weights, factors)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, by_loss):
        own_N, rest, weights, factors = ctx.saved_tensors
        by_own_N, by_rest = torch.empty_like(own_N), torch.empty_like(rest)
        _pairs_gradient_kernel[ctx.grid](own_N, rest, weights, factors, by_loss, by_own_N, by_rest, len(own_N), CHUNK)
        return by_own_N, by_rest, None, None


@triton.jit
def _pairs(own, rest, weights, count, SIZE: tl.constexpr):
    """(rows, whether they are there, weights, log odds of the others by row, by column)."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = at < count
    weight = tl.where(there, 1.0, 0.0) if weights is None else tl.load(weights + at, there, 0.0)
    own_N = tl.load(own + at, there, 0.0)
    by_row, by_column = tl.load(rest + at, there, NEVER), tl.load(rest + count + at, there, NEVER)
    return at, there, weight, by_row - own_N, by_column - own_N


@triton.jit(do_not_specialize=VARYING)
def _pairs_kernel(own, rest, weights, totals, programs, count, NORMALISE: tl.constexpr, SIZE: tl.constexpr):
    _at, there, weight, row, column = _pairs(own, rest, weights, count, SIZE)
    total = weight if NORMALISE else tl.where(there, 1.0, 0.0)
    loss = tl.where(there, weight * (_softplus(row) + _softplus(column)), 0.0)
    tl.store(totals + tl.program_id(0), tl.sum(loss, 0))
    tl.store(totals + programs + tl.program_id(0), tl.sum(total, 0))


@triton.jit(do_not_specialize=VARYING)
def _pairs_gradient_kernel(own, rest, weights, factors, by_loss, by_own, by_rest, count, SIZE: tl.constexpr):
    at, there, weight, row, column = _pairs(own, rest, weights, count, SIZE)
    factor = tl.load(by_loss) * tl.load(factors) * weight
    by_row, by_column = factor * tl.sigmoid(row), factor * tl.sigmoid(column)
    tl.store(by_rest + at, by_row, there)
    tl.store(by_rest + count + at, by_column, there)
    tl.store(by_own + at, -by_row - by_column, there)
