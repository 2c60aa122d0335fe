"""The losses of gcl.py and matrix.py for large batches: the same value and gradients, memory O((N + M) D).

A positive is set against its negatives alone, loss = log(1 + exp(lse_negatives - s)), which loses nothing where the
softmax is saturated: 1 - p is never formed. Masks and weights are lists of cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gcl_toolkit.losses.listwise import NEVER, odds_against_lower
from gcl_toolkit.losses.log_sum_exps import KEEP_BYTES, log_sum_exps
from gcl_toolkit.losses.matrix import ROWS


def tiled_gcl_loss(
    left: Tensor,
    right: Tensor,
    weights: Tensor | None = None,
    *,
    logit_scale: Tensor | float,
    query_ids: Tensor | None = None,
    product_ids: Tensor | None = None,
    not_negative: Tensor | None = None,
    normalise_weights: bool = True,
    keep_bytes: int = KEEP_BYTES,
) -> Tensor:
    """`gcl_loss`; keep_bytes may go into tiles kept for the backward pass. Memory also grows with the masked cells."""
    pairs = torch.arange(len(left), device=left.device).expand(2, -1)
    masked = [same_id_cells(ids.to(left.device)) for ids in (query_ids, product_ids) if ids is not None]
    if not_negative is not None:
        cells = not_negative.nonzero().T if not_negative.dtype == torch.bool else not_negative
        masked.append(cells.to(left.device))
    ignored = torch.cat(masked, 1) if masked else None
    row_N, column_N, own_N = log_sum_exps(left, right, logit_scale, pairs, ignored, keep_bytes=keep_bytes)
    loss_N = softplus(row_N - own_N) + softplus(column_N - own_N)
    weights = torch.ones_like(loss_N) if weights is None else weights.to(loss_N.dtype)
    if normalise_weights:
        weights = weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights * loss_N).mean().to(torch.promote_types(left.dtype, torch.float32)) / 2


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
    return _by_sides(matrix_part, queries, documents, *listed(weights), logit_scale, r, keep_bytes)


def tiled_graded_loss(
    queries: Tensor,
    documents: Tensor,
    weights: Tensor,
    *,
    logit_scale: Tensor | float,
    r: float = ROWS,
    keep_bytes: int = KEEP_BYTES,
) -> Tensor:
    """`graded_loss`; weights: N x M, dense or sparse (COO), without gradients. Memory also grows with the most known
    cells of a row."""
    return _by_sides(graded_part, queries, documents, *listed(weights.detach()), logit_scale, r, keep_bytes)


def _by_sides(
    row_part: Callable[..., Tensor],
    queries: Tensor,
    documents: Tensor,
    cells: Tensor,
    weight_K: Tensor,
    logit_scale: Tensor | float,
    r: float,
    keep_bytes: int,
) -> Tensor:
    row_N, column_M, own_K = log_sum_exps(queries, documents, logit_scale, cells, keep_bytes=keep_bytes)
    by_row = row_part(own_K, row_N, cells[0], listed_shares(weight_K, cells[0], len(row_N)), weight_K)
    by_column = matrix_part(own_K, column_M, cells[1], listed_shares(weight_K, cells[1], len(column_M)))
    return (r * by_row + (1 - r) * by_column).to(torch.promote_types(queries.dtype, torch.float32))


def matrix_part(own_K: Tensor, others_N: Tensor, row_K: Tensor, share_K: Tensor, *_) -> Tensor:
    """One side of `matrix_loss`: others_N has the log-sum-exp of each row's cells that are not listed."""
    return (share_K * _in_softmax(own_K, others_N, row_K)).sum()


def graded_part(own_K: Tensor, others_N: Tensor, row_K: Tensor, share_K: Tensor, weight_K: Tensor) -> Tensor:
    """The same with each listed cell against lower weights only."""
    place_NxL = _in_rows(row_K, weight_K, len(others_N))
    grades_NxL, own_NxL, share_NxL = (
        torch.cat([value_K, value_K.new_full((1,), filler)])[place_NxL]
        for value_K, filler in ((weight_K, 0), (own_K, NEVER), (share_K, 0))
    )
    odds_NxL = odds_against_lower(others_N[:, None].clamp(min=NEVER), own_NxL, grades_NxL)
    return (share_NxL * softplus(odds_NxL)).sum()


def listed(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The known cells of a score matrix (N x M, dense or COO), 2 x K, and their weights, K; all cells if the weights
    of a dense one want gradients."""
    if weights.is_sparse:
        weights = weights.coalesce()
        cells, weight_K = weights.indices(), weights.values()
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


def _in_rows(row_K: Tensor, grade_K: Tensor, rows: int) -> Tensor:
    """The numbers of the cells, N x L, each row's by rising grade; in front of them, as filler, the number K."""
    order_K = grade_K.argsort()
    order_K = order_K[row_K[order_K].argsort(stable=True)]
    count_N = torch.bincount(row_K, minlength=rows)
    most, end_N = int(count_N.max()), count_N.cumsum(0)
    place_NxL = torch.full((rows, most), len(row_K), device=row_K.device)
    column_K = torch.arange(len(order_K), device=row_K.device) - end_N[row_K[order_K]] + most
    place_NxL[row_K[order_K], column_K] = order_K
    return place_NxL


def same_id_cells(ids: Tensor) -> Tensor:
    """The cells (i, j), i != j, with ids[i] == ids[j], 2 x K."""
    order = ids.argsort()
    _, group_N, count_G = ids[order].unique_consecutive(return_inverse=True, return_counts=True)
    count_N = count_G[group_N]
    row_K = torch.arange(len(ids), device=ids.device).repeat_interleave(count_N)
    in_group_K = torch.arange(len(row_K), device=ids.device) - (count_N.cumsum(0) - count_N)[row_K]
    column_K = (count_G.cumsum(0) - count_G)[group_N[row_K]] + in_group_K
    cells = order[torch.stack([row_K, column_K])]
    return cells[:, row_K != column_K]


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact at both ends."""
    return torch.logaddexp(x, torch.zeros_like(x))


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
