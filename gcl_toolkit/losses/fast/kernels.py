"""The losses' work on a GPU in Triton: bfloat16 products, float32 exponentials, never more of S than a strip of its
gradient.

The host never waits for the GPU: scale and sums stay there. Every sum has a maximum of its own, so that no term is
lost. Backward writes the gradient of a strip of S in bfloat16, for two matrix products of the library: 8 N M D
operations for both passes.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from gcl_toolkit.losses.fast.listed import VARYING, Listed, sort_cells

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # before Triton 3.4
    TensorDescriptor = None

STRIP_BYTES = 2 << 30
"""Of the gradient of one strip."""
BLOCK = 128, 128
"""Rows and columns of S that one program makes."""
BLOCK_D = 64
CELLS = 32
"""Cells whose own logits one program makes."""
JOINED = 128
"""Rows or columns whose sums one program joins."""
DOTS = 4096, 4
"""Numbers of a product that one program adds up: how many at a time, and how many times."""
GROUP = tl.constexpr(16)
"""Rows of blocks that are made column by column, so that their embeddings stay in the cache."""
LOG2E = tl.constexpr(math.log2(math.e))
NEVER = tl.constexpr(-1e30)
SPREAD = tl.constexpr(100.0)
"""Factors of 2 between sums that one exponential serves without loss."""


# -- log-sum-exps ------------------------------------------------------------------------------------------------------


def log_sum_exps(
    left: Tensor, right: Tensor, scale: Tensor, cells: Tensor | None, ignored: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As log_sum_exps.py's, of bfloat16, in float32. cells: None is the diagonal, whose cells need no sorting."""
    shape = len(left), len(right)
    given = [x for x in (cells, ignored) if x is not None and x.shape[1]]
    listed = sort_cells(torch.cat(given, 1), shape, BLOCK) if given else None
    rest, own_K = rests(left, right, scale, listed, len(left) if cells is None else cells.shape[1], cells is None)
    return *rest.split(shape), own_K


def rests(
    left: Tensor, right: Tensor, scale: Tensor, listed: Listed | None, own: int, diagonal: bool
) -> tuple[Tensor, Tensor]:
    """The log-sum-exps of all rows, then of all columns, N + M, and S at the diagonal or at the first `own` listed
    cells."""
    if not left.is_cuda:  # Triton's interpreter can't multiply bfloat16
        left, right = left.float(), right.float()
    if extra := -left.shape[1] % BLOCK_D:
        left, right = pad(left, (0, extra)), pad(right, (0, extra))
    return _LogSumExps.apply(left.contiguous(), right.contiguous(), scale.float(), listed, own, diagonal)


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, left, right, scale, listed, own, diagonal):
        rows, columns, width = len(left), len(right), left.shape[1]
        in_rows, in_columns = triton.cdiv(rows, BLOCK[0]), triton.cdiv(columns, BLOCK[1])
        parts = left.new_empty(in_columns * rows + in_rows * columns, dtype=torch.float32)
        listed = listed or Listed(None, None, None, None)
        _sums_kernel[(in_rows * in_columns,)](
            *_operands(left, right), scale, parts, in_columns * rows, *listed[1:], listed.number,
            in_rows, in_columns, rows, columns,
            diagonal, width, *BLOCK, BLOCK_D, has_tma(left), **_launch(left),
        )  # fmt: skip
        rest = left.new_empty(rows + columns, dtype=torch.float32)
        programs = triton.cdiv(rows, JOINED), triton.cdiv(columns, JOINED)
        _joined_kernel[(sum(programs),)](parts, rest, in_columns * rows, in_rows, in_columns, rows, columns, JOINED)
        own_K = left.new_empty(own, dtype=torch.float32)
        if own:
            cells = None if diagonal else listed.cells
            grid = (triton.cdiv(own, CELLS),)
            _own_kernel[grid](left, right, scale, cells, own_K, own, listed.number, diagonal, width, CELLS, BLOCK_D)
        ctx.save_for_backward(left, right, scale, rest, *listed)
        ctx.diagonal = diagonal
        return rest, own_K

    @staticmethod
    @once_differentiable
    def backward(ctx, by_rest, by_own_K):
        left, right, scale, rest, *listed = ctx.saved_tensors
        rows, columns, listed = len(left), len(right), Listed(*listed)
        height = min(rows, max(1, STRIP_BYTES // (2 * columns * BLOCK[0])) * BLOCK[0])
        stride = triton.cdiv(columns, 8) * 8  # 16 bytes, as the copy engine wants it
        gradient_HxM = left.new_empty(height, stride)[:, :columns]
        factors = rest, by_rest.contiguous(), by_own_K.contiguous(), len(by_own_K)
        sides, tma, by_left = _operands(left, right), has_tma(left), torch.empty_like(left)
        by_right = torch.empty_like(right) if height == rows else torch.zeros_like(right, dtype=torch.float32)
        for start in range(0, rows, height):
            part = slice(start, min(start + height, rows))
            gradient_RxM = gradient_HxM[: part.stop - start]
            in_rows, in_columns = triton.cdiv(len(gradient_RxM), BLOCK[0]), triton.cdiv(columns, BLOCK[1])
            _gradient_kernel[(in_rows * in_columns,)](
                *sides, scale, *factors, _blockwise(gradient_RxM, BLOCK) if tma else gradient_RxM,
                *listed[1:], listed.number, start // BLOCK[0], in_rows, in_columns, rows, columns, stride,
                ctx.diagonal, left.shape[1], *BLOCK, BLOCK_D, tma, **_launch(left),
            )  # fmt: skip
            torch.mm(gradient_RxM, right, out=by_left[part])
            if height == rows:
                torch.mm(gradient_RxM.T, left, out=by_right)
            else:
                by_right += _float_product(gradient_RxM.T, left[part])
        return by_left, by_right.to(right.dtype), _by_scale(by_left, left, scale), None, None, None


def _by_scale(by_left: Tensor, left: Tensor, scale: Tensor) -> Tensor:
    parts = left.new_empty(triton.cdiv(left.numel(), DOTS[0] * DOTS[1]), dtype=torch.float32)
    _dots_kernel[(len(parts),)](by_left, left, scale, parts, left.numel(), *DOTS)
    return parts.sum().view_as(scale)


def has_tma(embeddings: Tensor) -> bool:
    """Whether blocks are copied by the copy engine of a Hopper GPU (or newer), without a register for an address."""
    if TensorDescriptor is None or not embeddings.is_cuda:
        return False
    return torch.cuda.get_device_capability(embeddings.device) >= (9, 0)


def _operands(left: Tensor, right: Tensor) -> tuple:
    if not has_tma(left):
        return left, right
    return tuple(_blockwise(x, (size, BLOCK_D)) for x, size in zip((left, right), BLOCK, strict=True))


def _blockwise(matrix: Tensor, block: tuple[int, int]):
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), list(block))


def _launch(embeddings: Tensor) -> dict[str, int]:
    return {"num_warps": 4 if has_tma(embeddings) else 8, "num_stages": 3}


def _float_product(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a @ b


@triton.jit
def _block(in_rows, in_columns, above):
    """Which block, by row and column, this program makes; `above` of its rows are others'."""
    program, in_group = tl.program_id(0), GROUP * in_columns
    first = program // in_group * GROUP
    height = min(in_rows - first, GROUP)
    return above + first + program % in_group % height, program % in_group // height


@triton.jit
def _product(
    left,
    right,
    row,
    column,
    rows,
    columns,
    WIDTH: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TMA: tl.constexpr,
):
    """Rows of left, from `row` on, times rows of right, R x C, float32."""
    out_RxC = tl.zeros((R, C), tl.float32)
    if TMA:
        for start in range(0, WIDTH, BLOCK_D):
            out_RxC = tl.dot(left.load([row, start]), right.load([column, start]).T, out_RxC)
    else:
        d = tl.arange(0, BLOCK_D)
        left_RxD = left + ((row + tl.arange(0, R)) % rows * WIDTH)[:, None] + d[None, :]
        right_DxC = right + ((column + tl.arange(0, C)) % columns * WIDTH)[None, :] + d[:, None]
        for start in range(0, WIDTH, BLOCK_D):
            out_RxC = tl.dot(tl.load(left_RxD + start), tl.load(right_DxC + start), out_RxC)
    return out_RxC


@triton.jit
def _is(cell, place, listed, row_R, column_C):
    """Where in a block a listed cell is, R x C."""
    return (row_R == tl.load(place + cell))[:, None] & (column_C == tl.load(place + listed + cell))[None, :]


@triton.jit
def _others(
    left, right, scale, place, order, starts, listed, block_r, block_c, in_columns, rows, columns,
    DIAGONAL: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr, C: tl.constexpr, BLOCK_D: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    """A block of S times log2(e), R x C, -inf outside, on the diagonal and at the listed cells."""
    row, column, block = block_r * R, block_c * C, block_r * in_columns + block_c
    row_R, column_C = row + tl.arange(0, R), column + tl.arange(0, C)
    logits_RxC = _product(left, right, row, column, rows, columns, WIDTH, R, C, BLOCK_D, TMA) * (tl.load(scale) * LOG2E)
    there = (row_R < rows)[:, None] & (column_C < columns)[None, :]
    if DIAGONAL:
        there = there & (row_R[:, None] != column_C[None, :])
    logits_RxC = tl.where(there, logits_RxC, float("-inf"))
    if starts is not None:
        cell, end = tl.load(starts + block), tl.load(starts + block + 1)
        while cell < end:
            there = _is(cell, place, listed, row_R, column_C)
            logits_RxC = tl.where(there, float("-inf"), logits_RxC)
            cell += 1
    return logits_RxC


@triton.jit(do_not_specialize=VARYING)
def _sums_kernel(
    left, right, scale, parts, behind, place, order, starts, listed, in_rows, in_columns, rows, columns,
    DIAGONAL: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr, C: tl.constexpr, BLOCK_D: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    """Of each block of S less the diagonal and the listed cells: the log2-sum-exp of its rows into parts[block column,
    row], that of its columns into parts[behind + block row, column]."""
    block_r, block_c = _block(in_rows, in_columns, 0)
    row_R, column_C = block_r * R + tl.arange(0, R), block_c * C + tl.arange(0, C)
    logits_RxC = _others(
        left, right, scale, place, order, starts, listed, block_r, block_c, in_columns, rows, columns,
        DIAGONAL, WIDTH, R, C, BLOCK_D, TMA,
    )  # fmt: skip
    top_R = tl.maximum(tl.max(logits_RxC, 1), NEVER)
    exp_RxC = tl.exp2(logits_RxC - top_R[:, None])
    tl.store(parts + block_c.to(tl.int64) * rows + row_R, top_R + tl.log2(tl.sum(exp_RxC, 1)), row_R < rows)
    top = tl.max(top_R, 0)
    sum_C = tl.sum(exp_RxC * tl.exp2(top_R - top)[:, None], 0)
    to = parts + behind + block_r.to(tl.int64) * columns + column_C
    if tl.min(tl.where(column_C < columns, tl.log2(sum_C), 0.0), 0) > -SPREAD:
        tl.store(to, top + tl.log2(sum_C), column_C < columns)
    else:  # some column is so far below the block's top that terms may have been lost
        logits_RxC = _others(
            left, right, scale, place, order, starts, listed, block_r, block_c, in_columns, rows, columns,
            DIAGONAL, WIDTH, R, C, BLOCK_D, TMA,
        )  # fmt: skip
        top_C = tl.maximum(tl.max(logits_RxC, 0), NEVER)
        sum_C = tl.sum(tl.exp2(logits_RxC - top_C[None, :]), 0)
        tl.store(to, top_C + tl.log2(sum_C), column_C < columns)


@triton.jit(do_not_specialize=VARYING)
def _gradient_kernel(
    left, right, scale, rest, by_rest, by_own, owned, gradient, place, order, starts, listed, first, in_rows,
    in_columns, rows, columns, stride, DIAGONAL: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
    BLOCK_D: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """scale * (softmax of the rows * by_rest + softmax of the columns * by_rest), and scale * by_own at the diagonal or
    the first `owned` listed cells, into gradient, whose first row is that of block `first`."""
    block_r, block_c = _block(in_rows, in_columns, first)
    row_R, column_C = block_r * R + tl.arange(0, R), block_c * C + tl.arange(0, C)
    logits_RxC = _others(
        left, right, scale, place, order, starts, listed, block_r, block_c, in_columns, rows, columns,
        DIAGONAL, WIDTH, R, C, BLOCK_D, TMA,
    )  # fmt: skip
    last_R, last_C = tl.minimum(row_R, rows - 1), rows + tl.minimum(column_C, columns - 1)
    sum_R, sum_C = tl.load(rest + last_R) * LOG2E, tl.load(rest + last_C) * LOG2E
    by_row_R, by_column_C = tl.load(by_rest + last_R), tl.load(by_rest + last_C)
    top = tl.max(sum_R, 0)
    if (tl.min(sum_R, 0) > top - SPREAD) & (tl.min(sum_C, 0) > top - SPREAD):
        factor_RxC = by_row_R[:, None] + tl.exp2(sum_R - top)[:, None] * (tl.exp2(top - sum_C) * by_column_C)[None, :]
        out_RxC = tl.exp2(logits_RxC - sum_R[:, None]) * factor_RxC
    else:
        sum_R, sum_C = tl.maximum(sum_R, NEVER), tl.maximum(sum_C, NEVER)
        out_RxC = tl.exp2(logits_RxC - sum_R[:, None]) * by_row_R[:, None]
        out_RxC += tl.exp2(logits_RxC - sum_C[None, :]) * by_column_C[None, :]
    if DIAGONAL:
        out_RxC = tl.where(row_R[:, None] == column_C[None, :], tl.load(by_own + last_R)[:, None], out_RxC)
    elif starts is not None:
        block = block_r * in_columns + block_c
        cell, end = tl.load(starts + block), tl.load(starts + block + 1)
        while cell < end:  # added, since a cell may be listed twice
            which = tl.load(order + cell)
            there = _is(cell, place, listed, row_R, column_C)
            out_RxC += tl.where(there, tl.load(by_own + which, which < owned, 0.0), 0.0)
            cell += 1
    out_RxC = (out_RxC * tl.load(scale)).to(gradient.dtype if TMA else gradient.dtype.element_ty)
    if TMA:
        gradient.store([(block_r - first) * R, block_c * C], out_RxC)
    else:
        to = gradient + (row_R - first * R)[:, None].to(tl.int64) * stride + column_C[None, :]
        tl.store(to, out_RxC, (row_R < rows)[:, None] & (column_C < columns)[None, :])


@triton.jit(do_not_specialize=VARYING)
def _joined_kernel(parts, rest, behind, in_rows, in_columns, rows, columns, SIZE: tl.constexpr):
    """The log-sum-exps of all rows, then of all columns, from the parts of each sum, logarithms to the base of 2."""
    program, by_row = tl.program_id(0), tl.cdiv(rows, SIZE)
    is_column = program >= by_row
    which = tl.where(is_column, program - by_row, program) * SIZE + tl.arange(0, SIZE)
    count, blocks = tl.where(is_column, columns, rows), tl.where(is_column, in_rows, in_columns)
    parts += tl.where(is_column, behind, 0)
    top, total = tl.zeros((SIZE,), tl.float32) + NEVER, tl.zeros((SIZE,), tl.float32)
    while blocks > 0:
        part = tl.load(parts + which, which < count, NEVER)
        higher = tl.maximum(top, part)
        total = total * tl.exp2(top - higher) + tl.exp2(part - higher)
        top = higher
        parts += count
        blocks -= 1
    tl.store(rest + tl.where(is_column, rows, 0) + which, (top + tl.log2(total)) / LOG2E, which < count)


@triton.jit
def _dots_kernel(by_left, left, scale, parts, count, SIZE: tl.constexpr, TIMES: tl.constexpr):
    """Shares of the gradient of the scale: the sum of by_left * left / scale."""
    at = tl.program_id(0).to(tl.int64) * SIZE * TIMES + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    for _ in range(TIMES):
        a, b = tl.load(by_left + at, at < count, 0.0), tl.load(left + at, at < count, 0.0)
        total += a.to(tl.float32) * b.to(tl.float32)
        at += SIZE
    tl.store(parts + tl.program_id(0), tl.sum(total, 0) / tl.load(scale))


@triton.jit(do_not_specialize=VARYING)
def _own_kernel(
    left, right, scale, cells, own, count, listed,
    DIAGONAL: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """S at the cells."""
    which = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = which < count
    if DIAGONAL:
        row, column = which.to(tl.int64), which.to(tl.int64)
    else:
        row, column = tl.load(cells + which, there, 0), tl.load(cells + listed + which, there, 0)
    d, total = tl.arange(0, BLOCK_D), tl.zeros((SIZE,), tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        left_KxD = tl.load(left + row[:, None] * WIDTH + (start + d)[None, :], there[:, None], 0.0)
        right_KxD = tl.load(right + column[:, None] * WIDTH + (start + d)[None, :], there[:, None], 0.0)
        total += tl.sum(left_KxD.to(tl.float32) * right_KxD.to(tl.float32), 1)
    tl.store(own + which, total * tl.load(scale), there)
