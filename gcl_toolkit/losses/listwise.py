"""List-wise losses: the order of a query's documents, and of a document's queries, by their weights.

All take what `matrix_loss` takes: queries N x D, documents M x D (L2-normalised), weights N x M (0: no known pair, the
lowest grade). A cell competes with the cells of its row, and with those of its column.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, softplus

from gcl_toolkit.losses.matrix import matrix_loss, normalised

_NEVER = -1e30
"""A logit that adds nothing; logcumsumexp has no gradient at -inf."""


def graded_loss(
    queries: Tensor,
    documents: Tensor,
    weights: Tensor,
    *,
    logit_scale: Tensor | float,
    query_totals: Tensor | None = None,
    document_totals: Tensor | None = None,
) -> Tensor:
    """`matrix_loss` with each known pair against lower weights only: equal or better ones are no competitors.

    Of the pair i, j, by rows: -log [ exp S_ij / (exp S_ij + sum over k with W_ik < W_ij of exp S_ik) ].
    """
    logits_NxM = logit_scale * queries @ documents.T
    by_query, by_document = normalised(weights, query_totals, document_totals)
    rows = _against_lower(logits_NxM, weights, by_query)
    columns = _against_lower(logits_NxM.T, weights.T, by_document.T)
    return (rows + columns) / (2 * documents.shape[0])


def _against_lower(logits_NxM: Tensor, grades_NxM: Tensor, weights_NxM: Tensor) -> Tensor:
    odds_NxK, column_NxK = lower_odds(logits_NxM, grades_NxM)
    return (weights_NxM.gather(1, column_NxK) * softplus(odds_NxK)).sum()


def kl_loss(
    queries: Tensor,
    documents: Tensor,
    weights: Tensor,
    *,
    logit_scale: Tensor | float,
    temperature: float = 0.1,
    **totals: Tensor,
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


def rankclip_loss(
    queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Tensor | float, **totals: Tensor
) -> Tensor:
    """As RankCLIP (arXiv 2404.09387): a contrastive loss of the known pairs, here by `matrix_loss`, plus the likelihood
    of an order (ListMLE, Plackett-Luce), here that of the weights instead of the model's own similarities.

    The order's, by rows and by columns: mean over known pairs of log [ sum over k, W_ik <= W_ij, of exp S_ik ] - S_ij.
    """
    known = (weights > 0).to(queries.dtype)
    by_row, by_column = known.sum(1).clamp(min=1), known.sum(0).clamp(min=1)
    pairs = matrix_loss(
        queries, documents, known, logit_scale=logit_scale, query_totals=by_row, document_totals=by_column
    )
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
    own_NxK, none_NxK = logits_NxM.gather(1, column_NxK), grades_NxK == 0
    unknown_Nx1 = logits_NxM.masked_fill(known_NxM, _NEVER).logsumexp(1, keepdim=True)
    running_NxK1 = torch.cat([unknown_Nx1, own_NxK.masked_fill(none_NxK, _NEVER)], 1).logcumsumexp(1)
    lower_cells = torch.searchsorted(grades_NxK.contiguous(), grades_NxK.contiguous(), right=or_equal)
    return (running_NxK1.gather(1, lower_cells) - own_NxK).masked_fill(none_NxK, -torch.inf), column_NxK
