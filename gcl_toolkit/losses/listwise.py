"""List-wise losses: the order of a query's documents, and of a document's queries, by their weights.

All take what `matrix_loss` takes: queries N x D, documents M x D (L2-normalised), weights N x M (0: no known pair, the
lowest grade). A cell competes with the cells of its row, and with those of its column.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, softplus

from gcl_toolkit.losses.matrix import ROWS, matrix_loss, shares

NEVER = -1e30
"""A logit that adds nothing; logcumsumexp has no gradient at -inf."""


def graded_loss(
    queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Tensor | float, r: float = ROWS
) -> Tensor:
    """The default (ours): `matrix_loss`, but in its row each known pair competes with lower weights only.

    Of the pair i, j, by rows: -log [ exp S_ij / (exp S_ij + sum over k with W_ik < W_ij of exp S_ik) ]. So equal or
    better documents don't push each other down, and the order needs no steep weights. Columns are `matrix_loss`'s: a
    query's documents have an order, the queries of a document don't.
    """
    logits_NxM = logit_scale * queries @ documents.T
    odds_NxK, column_NxK = lower_odds(logits_NxM, weights)
    rows = (shares(weights).gather(1, column_NxK) * softplus(odds_NxK)).sum()
    columns = (shares(weights.T) * logits_NxM.T.log_softmax(1)).sum()
    return r * rows - (1 - r) * columns


def kl_loss(
    queries: Tensor,
    documents: Tensor,
    weights: Tensor,
    *,
    logit_scale: Tensor | float,
    temperature: float = 0.1,
) -> Tensor:
    """Distillation of scores, or soft targets: KL of softmax(score / temperature) over a query's known documents to the
    model's softmax over all documents of the step; the same by columns; the mean of both. weights: scores, 0..1."""
    logits_NxM = logit_scale * queries @ documents.T
    return (_divergence(logits_NxM, weights / temperature) + _divergence(logits_NxM.T, weights.T / temperature)) / 2


def _divergence(logits_NxM: Tensor, scores_NxM: Tensor) -> Tensor:
    some = (scores_NxM > 0).any(1)
    scores = scores_NxM[some]
    targets = scores.masked_fill(scores == 0, -torch.inf).softmax(1)
    return kl_div(logits_NxM[some].log_softmax(1), targets, reduction="sum") / some.sum().clamp(min=1)


def rankclip_loss(queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Tensor | float) -> Tensor:
    """As RankCLIP (arXiv 2404.09387): a contrastive loss of the known pairs, here by `matrix_loss`, plus the likelihood
    of an order (ListMLE, Plackett-Luce), here that of the weights instead of the model's own similarities.

    The order's, by rows and by columns: mean over known pairs of log [ sum over k, W_ik <= W_ij, of exp S_ik ] - S_ij.
    """
    pairs = matrix_loss(queries, documents, (weights > 0).to(queries.dtype), logit_scale=logit_scale)
    logits_NxM = logit_scale * queries @ documents.T
    return pairs + (_disorder(logits_NxM, weights) + _disorder(logits_NxM.T, weights.T)) / 2


def _disorder(logits_NxM: Tensor, grades_NxM: Tensor) -> Tensor:
    odds_NxK, _ = lower_odds(logits_NxM, grades_NxM, or_equal=True)
    known = odds_NxK > -torch.inf
    return odds_NxK[known].sum() / known.sum().clamp(min=1)


def lower_odds(logits_NxM: Tensor, grades_NxM: Tensor, *, or_equal: bool = False) -> tuple[Tensor, Tensor]:
    """How the cells of lower grade in its row stand against each known cell: log [ sum of exp S_ik ] - S_ij.

    Returns N x K odds and the columns they are of; K: the most known cells of any row (in rows with fewer, -inf).
    or_equal: cells of equal grade, itself too, count as lower.
    """
    known_NxM = grades_NxM > 0
    most = max(1, int(known_NxM.sum(1).max()))
    grades_NxK, column_NxK = (best.flip(1) for best in grades_NxM.topk(most, 1))
    unknown_Nx1 = logits_NxM.masked_fill(known_NxM, NEVER).logsumexp(1, keepdim=True)
    own_NxK = logits_NxM.gather(1, column_NxK)
    return odds_against_lower(unknown_Nx1, own_NxK, grades_NxK, or_equal=or_equal), column_NxK


def odds_against_lower(unknown_Nx1: Tensor, own_NxK: Tensor, grades_NxK: Tensor, *, or_equal: bool = False) -> Tensor:
    """`lower_odds` from the log-sum-exp of each row's unknown cells, and its known cells by rising grade (0: none)."""
    none_NxK = grades_NxK == 0
    running_NxK1 = torch.cat([unknown_Nx1, own_NxK.masked_fill(none_NxK, NEVER)], 1).logcumsumexp(1)
    lower_cells = torch.searchsorted(grades_NxK.contiguous(), grades_NxK.contiguous(), right=or_equal)
    return (running_NxK1.gather(1, lower_cells) - own_NxK).masked_fill(none_NxK, -torch.inf)
