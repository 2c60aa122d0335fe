"""The losses of gcl.py, matrix.py and graded.py for large batches and many ranks: the same value and gradients, memory
O((N + M) D).

On many ranks each embeds its own rows, gathers everybody's embeddings and computes its share: the shares *sum* to the
loss of the whole batch. Weights and cells are always those of the whole batch. A positive is set against its negatives
alone, loss = log(1 + exp(lse_negatives - s)), which loses nothing where the softmax is saturated.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gcl_toolkit.losses.fast.log_sum_exps import KEEP_BYTES, has_kernels, log_sum_exps
from gcl_toolkit.losses.fast.ranks import gather, own_share, rank, ranks
from gcl_toolkit.losses.graded import NEVER, odds_against_lower
from gcl_toolkit.losses.matrix import ROWS


def tiled_gcl_loss(
    left: Tensor,
    right: Tensor,
    weights: Tensor | None = None,
    *,
    logit_scale: Tensor | float,
    excluded: Tensor | None = None,
    normalise_weights: bool = True,
    keep_bytes: int = KEEP_BYTES,
) -> Tensor:
    """`gcl_loss`; up to `keep_bytes` of tiles are kept for the backward pass. Memory also grows with excluded cells."""
    if by_kernels(left, weights):
        from gcl_toolkit.losses.fast import loss_kernels

        return loss_kernels.gcl_loss(left, right, weights, logit_scale, excluded, normalise_weights)
    count = _rows(left) if weights is None else len(weights)
    weights = left.new_ones(count, dtype=torch.float64) if weights is None else weights.double()
    if normalise_weights:
        weights = weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
    if excluded is not None:
        excluded = excluded.to(left.device)
    loss = left.new_zeros((), dtype=torch.float64)
    for way in both_ways(left, right, logit_scale, None, (count, count), excluded, keep_bytes):
        loss = loss + (weights[way.kept] * softplus(way.rest_R - way.own_K)).sum()
    return (loss / (2 * count)).to(torch.promote_types(left.dtype, torch.float32))


def tiled_matrix_loss(
    queries: Tensor,
    documents: Tensor,
    weights: Tensor,
    *,
    logit_scale: Tensor | float,
    r: float = ROWS,
    keep_bytes: int = KEEP_BYTES,
) -> Tensor:
    """`matrix_loss`; weights: N x M, dense or sparse (COO). A sparse one has gradients at its own cells only."""
    return _by_sides(None, queries, documents, weights, logit_scale, r, keep_bytes)


def tiled_graded_loss(
    queries: Tensor,
    documents: Tensor,
    weights: Tensor,
    *,
    logit_scale: Tensor | float,
    r: float = ROWS,
    recall: float = 0.0,
    keep_bytes: int = KEEP_BYTES,
) -> Tensor:
    """`graded_loss`; weights: N x M, dense or sparse (COO), without gradients. Memory also grows with the most known
    cells of a row."""
    return _by_sides(recall, queries, documents, weights.detach(), logit_scale, r, keep_bytes)


def _by_sides(
    recall: float | None,
    queries: Tensor,
    documents: Tensor,
    weights: Tensor,
    logit_scale: Tensor | float,
    r: float,
    keep_bytes: int,
) -> Tensor:
    """recall: that of `graded_loss`, or None for `matrix_loss`."""
    fast, shape = by_kernels(queries, weights), (weights.shape[0], weights.shape[1])
    cells, weight_K = listed(weights, keep_zeros=fast)
    if fast and len(weight_K):
        from gcl_toolkit.losses.fast import loss_kernels

        return loss_kernels.cells_loss(queries, documents, cells, weight_K, logit_scale, r, recall)
    ways = both_ways(queries, documents, logit_scale, cells, shape, None, keep_bytes)
    loss = queries.new_zeros((), dtype=torch.float64)
    for way, side, factor in zip(ways, (0, 1), (r, 1 - r), strict=True):
        share_K, grade_K = listed_shares(weight_K, cells[side], shape[side]), None
        if recall is not None and side == 0:
            share_K = torch.lerp(share_K, listed_shares((weight_K > 0).double(), cells[side], shape[side]), recall)
            grade_K = weight_K[way.kept]
        loss = loss + factor * _part(way, share_K[way.kept], grade_K)
    return loss.to(torch.promote_types(queries.dtype, torch.float32))


def by_kernels(embeddings: Tensor, weights: Tensor | None) -> bool:
    """Whether Triton's kernels make the whole loss: on one rank, of weights without gradient."""
    learnt = weights is not None and weights.requires_grad
    return not learnt and ranks() == 1 and has_kernels(embeddings)


# -- one way: each row (or column) against the others ------------------------------------------------------------------


class Way(NamedTuple):
    """This rank's R rows (or columns) of S: the log-sum-exp of each less the listed cells, and the listed cells."""

    rest_R: Tensor
    own_K: Tensor
    """S at the listed cells."""
    row_K: Tensor
    """In which of the rows each lies; empty for the diagonal."""
    kept: Tensor | slice
    """Which of the whole batch's listed cells they are."""


def both_ways(
    left: Tensor,
    right: Tensor,
    scale: Tensor | float,
    cells: Tensor | None,
    shape: tuple[int, int],
    excluded: Tensor | None,
    keep_bytes: int,
) -> tuple[Way, Way]:
    """By rows and by columns of S, which has `shape`. left, right: this rank's rows; cells, excluded: 2 x K; cells:
    None is the diagonal."""
    if ranks() == 1:
        row_N, column_M, own_K = log_sum_exps(left, right, scale, cells, excluded, keep_bytes=keep_bytes)
        row_K, column_K = (own_K[:0], own_K[:0]) if cells is None else cells
        return Way(row_N, own_K, row_K, slice(None)), Way(column_M, own_K, column_K, slice(None))
    cells = torch.arange(shape[0], device=left.device).expand(2, -1) if cells is None else cells

    def one_way(own: Tensor, others: Tensor, count: int, cells: Tensor, excluded: Tensor | None) -> Way:
        mine = own_share(count)
        if mine.stop - mine.start != len(own):
            raise ValueError(f"rank {rank()} has {len(own)} of {count} rows; those of own_share are expected")
        at, kept = _in_rows(cells, mine)
        ignored = None if excluded is None else _in_rows(excluded, mine)[0]
        rest_R, _, own_K = log_sum_exps(own, gather(others), scale, at, ignored, keep_bytes=keep_bytes)
        return Way(rest_R, own_K, at[0], kept)

    flipped = None if excluded is None else excluded.flip(0)
    return (
        one_way(left, right, shape[0], cells, excluded),
        one_way(right, left, shape[1], cells.flip(0), flipped),
    )


def _rows(own: Tensor) -> int:
    """Rows of the whole batch."""
    return len(own) if ranks() == 1 else len(gather(own.detach()[:, :1]))


def _in_rows(cells: Tensor, mine: slice) -> tuple[Tensor, Tensor]:
    """The cells in these rows, counted from the first, and which of all they are."""
    kept = (cells[0] >= mine.start) & (cells[0] < mine.stop)
    return cells[:, kept] - torch.tensor([[mine.start], [0]], device=cells.device), kept


def _part(way: Way, share_K: Tensor, grade_K: Tensor | None) -> Tensor:
    """One side of `matrix_loss`; with grades, of `graded_loss`: each listed cell against lower grades only."""
    if grade_K is None:
        return (share_K * _in_softmax(way.own_K, way.rest_R, way.row_K)).sum()
    place_RxL = _by_rising_grade(way.row_K, grade_K, len(way.rest_R))
    grades_RxL, own_RxL, share_RxL = (
        torch.cat([value_K, value_K.new_full((1,), filler)])[place_RxL]
        for value_K, filler in ((grade_K, 0), (way.own_K, NEVER), (share_K, 0))
    )
    odds_RxL = odds_against_lower(way.rest_R[:, None].clamp(min=NEVER), own_RxL, grades_RxL)
    return (share_RxL * softplus(odds_RxL)).sum()


# -- listed cells ------------------------------------------------------------------------------------------------------


def listed(weights: Tensor, keep_zeros: bool = False) -> tuple[Tensor, Tensor]:
    """The known cells of a score matrix (N x M, dense or COO), 2 x K, and their weights, K; all cells if the weights
    of a dense one need gradients. keep_zeros: all cells of a COO matrix, without waiting for the GPU."""
    if weights.is_sparse:
        weights = weights.coalesce()
        cells, weight_K = weights.indices(), weights.values()
        if keep_zeros:
            return cells, weight_K
        kept = weight_K.detach() > 0
        return cells[:, kept], weight_K[kept]
    cells = (torch.ones_like(weights) if weights.requires_grad else weights).nonzero().T
    return cells, weights[cells[0], cells[1]]


def listed_shares(weight_K: Tensor, row_K: Tensor, rows: int) -> Tensor:
    """`shares` of listed cells, in float64."""
    weight_K = weight_K.double()
    total_N = weight_K.new_zeros(rows).index_add(0, row_K, weight_K)
    known = (total_N > 0).sum().clamp(min=1)
    return weight_K / total_N.masked_fill(total_N == 0, 1)[row_K] / known


def _by_rising_grade(row_K: Tensor, grade_K: Tensor, rows: int) -> Tensor:
    """The numbers of the cells, R x L, each row's by rising grade; padded in front with the number K."""
    order_K = grade_K.argsort()
    order_K = order_K[row_K[order_K].argsort(stable=True)]
    count_R = torch.bincount(row_K, minlength=rows)
    most, end_R = int(count_R.max()), count_R.cumsum(0)
    place_RxL = torch.full((rows, most), len(row_K), device=row_K.device)
    column_K = torch.arange(len(order_K), device=row_K.device) - end_R[row_K[order_K]] + most
    place_RxL[row_K[order_K], column_K] = order_K
    return place_RxL


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact at both ends."""
    return torch.nn.functional.softplus(x, threshold=40)


def _in_softmax(own_K: Tensor, others_G: Tensor, group_K: Tensor) -> Tensor:
    """-log softmax of each cell in its group, K: the group is its listed cells and `others`, their log-sum-exp.

    The sum without the cell is (sum without the group's top) + (top - cell): no difference of large numbers.
    """
    detached = own_K.detach()
    top_G = torch.full_like(others_G, -torch.inf).scatter_reduce(0, group_K, detached, "amax")
    highest_G = torch.maximum(top_G, others_G.detach())
    is_top_K = torch.zeros_like(group_K, dtype=torch.bool)
    at_top = (detached == top_G[group_K]).nonzero().flatten()
    is_top_K[torch.full_like(top_G, -1, dtype=torch.int64).scatter_(0, group_K[at_top], at_top)[group_K]] = True
    exp_K = (own_K - highest_G[group_K]).exp()
    top_exp_G = torch.zeros_like(others_G).index_add(0, group_K, exp_K * is_top_K)
    rest_G = (others_G - highest_G).exp().index_add(0, group_K, exp_K * ~is_top_K)
    without_K = rest_G[group_K] + torch.where(is_top_K, 0.0, top_exp_G[group_K] - exp_K)
    return softplus(without_K.clamp(min=torch.finfo(own_K.dtype).tiny).log() - (own_K - highest_G[group_K]))
