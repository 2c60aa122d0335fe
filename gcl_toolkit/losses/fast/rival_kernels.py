"""What each known cell of a row or column competes with, on a GPU in Triton: one program a row (or column)."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from gcl_toolkit.losses.fast.kernels import NEVER

CELLS = 32
"""Cells of a group that a program compares with as many others at a time."""


def rivals(own_K: Tensor, rest_G: Tensor, group_K: Tensor, grade_K: Tensor | None) -> Tensor:
    """The log-sum-exp of what each known cell competes with, K: the rest of its group, and the group's other cells, or
    with grades those of lower grade. Differentiable once, in own and rest; float32."""
    group_K, order_K = group_K.sort()
    starts = torch.searchsorted(group_K, torch.arange(len(rest_G) + 1, device=rest_G.device))
    return _Rivals.apply(own_K, rest_G, grade_K, order_K, starts)


class _Rivals(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own_K, rest_G, grade_K, order_K, starts):
        lower_K = torch.empty_like(own_K)
        given = own_K, rest_G, grade_K, order_K, starts, lower_K
        _rivals_kernel[(len(rest_G),)](*given, grade_K is not None, CELLS, num_warps=1)
        ctx.save_for_backward(*given)
        return lower_K

    @staticmethod
    @once_differentiable
    def backward(ctx, by_lower_K):
        own_K, rest_G, grade_K = ctx.saved_tensors[:3]
        by_own_K, by_rest_G = torch.empty_like(own_K), torch.empty_like(rest_G)
        _rivals_gradient_kernel[(len(rest_G),)](
            *ctx.saved_tensors, by_lower_K.contiguous(), by_own_K, by_rest_G, grade_K is not None, CELLS, num_warps=1
        )
        return by_own_K, by_rest_G, None, None, None


@triton.jit
def _members(values, grades, order, which_C, end, GRADED: tl.constexpr):
    """(cells, whether they are there, values, grades) of a chunk of a group."""
    there_C = which_C < end
    cell_C = tl.load(order + which_C, there_C, 0)
    grade_C = tl.load(grades + cell_C, there_C, 0.0) if GRADED else which_C.to(tl.float32)
    return cell_C, there_C, tl.load(values + cell_C, there_C, NEVER), grade_C


@triton.jit
def _is_rival(grade_K, grade_J, there_J, GRADED: tl.constexpr):
    """K x J: whether J counts among what K competes with."""
    is_rival = grade_J[None, :] < grade_K[:, None] if GRADED else grade_J[None, :] != grade_K[:, None]
    return is_rival & there_J[None, :]


@triton.jit
def _rivals_kernel(own, rest, grades, order, starts, lower, GRADED: tl.constexpr, SIZE: tl.constexpr):
    group, chunk = tl.program_id(0), tl.arange(0, SIZE)
    start, end, rest_of = tl.load(starts + group), tl.load(starts + group + 1), tl.load(rest + group)
    first = start
    while first < end:
        cell_K, there_K, _own_K, grade_K = _members(own, grades, order, first + chunk, end, GRADED)
        top_K = tl.zeros((SIZE,), tl.float32) + tl.maximum(rest_of, NEVER)
        total_K = tl.exp(rest_of - top_K)
        other = start
        while other < end:
            _cell_J, there_J, own_J, grade_J = _members(own, grades, order, other + chunk, end, GRADED)
            is_rival_KxJ = _is_rival(grade_K, grade_J, there_J, GRADED)
            own_KxJ = tl.where(is_rival_KxJ, own_J[None, :], NEVER)
            higher_K = tl.maximum(top_K, tl.max(own_KxJ, 1))
            total_K *= tl.exp(top_K - higher_K)
            total_K += tl.sum(tl.where(is_rival_KxJ, tl.exp(own_KxJ - higher_K[:, None]), 0.0), 1)
            top_K = higher_K
            other += SIZE
        tl.store(lower + cell_K, top_K + tl.log(total_K), there_K)
        first += SIZE


@triton.jit
def _rivals_gradient_kernel(
    own, rest, grades, order, starts, lower, by_lower, by_own, by_rest, GRADED: tl.constexpr, SIZE: tl.constexpr
):
    group, chunk = tl.program_id(0), tl.arange(0, SIZE)
    start, end, rest_of = tl.load(starts + group), tl.load(starts + group + 1), tl.load(rest + group)
    by_rest_K, first = tl.zeros((SIZE,), tl.float32), start
    while first < end:
        cell_J, there_J, own_J, grade_J = _members(own, grades, order, first + chunk, end, GRADED)
        by_own_J = tl.zeros((SIZE,), tl.float32)
        other = start
        while other < end:
            cell_K, there_K, lower_K, grade_K = _members(lower, grades, order, other + chunk, end, GRADED)
            by_K = tl.where(lower_K > NEVER, tl.load(by_lower + cell_K, there_K, 0.0), 0.0)
            is_rival_KxJ = _is_rival(grade_K, grade_J, there_J, GRADED) & (lower_K > NEVER)[:, None]
            share_KxJ = tl.where(is_rival_KxJ, tl.exp(own_J[None, :] - lower_K[:, None]), 0.0)
            by_own_J += tl.sum(share_KxJ * by_K[:, None], 0)
            if first == start:
                by_rest_K += tl.where(lower_K > NEVER, tl.exp(rest_of - lower_K) * by_K, 0.0)
            other += SIZE
        tl.store(by_own + cell_J, by_own_J, there_J)
        first += SIZE
    tl.store(by_rest + group, tl.sum(by_rest_K, 0))
