"""The score-matrix form (ours, beyond the paper): every known pair of a step pulls, also off the diagonal.

    S = logit_scale * Q @ D.T
    loss = -1/(2M) * [ sum W / query_totals * log softmax_rows(S)  +  sum W / document_totals * log softmax_columns(S) ]

W (queries x documents) holds the weight of every known pair, 0 elsewhere. With W = diag(w), N = M and no totals it is
`gcl_loss` with unnormalised weights.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_loss(
    queries: Tensor,
    documents: Tensor,
    weights: Tensor,
    *,
    logit_scale: Tensor | float,
    query_totals: Tensor | None = None,
    document_totals: Tensor | None = None,
) -> Tensor:
    """The loss of N queries against M documents, a scalar >= 0.

    queries: N x D, documents: M x D, L2-normalised. weights: N x M, >= 0. query_totals (N), document_totals (M): the
    total weight of each query / document in the whole *training set* (static; measured better than totals of the batch
    or none), so that a query with a hundred products counts no more than one with two.
    """
    logits_NxM = logit_scale * queries @ documents.T
    by_query, by_document = normalised(weights, query_totals, document_totals)
    rows = (by_query * logits_NxM.log_softmax(1)).sum()
    columns = (by_document * logits_NxM.log_softmax(0)).sum()
    return -(rows + columns) / (2 * documents.shape[0])


def normalised(weights: Tensor, query_totals: Tensor | None, document_totals: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights (N x M) as shares of their query's total, and of their document's; as they are without totals."""
    by_query = weights if query_totals is None else weights / _above_zero(query_totals)[:, None]
    by_document = weights if document_totals is None else weights / _above_zero(document_totals)[None, :]
    return by_query, by_document


def _above_zero(totals: Tensor) -> Tensor:
    """Totals of 0 belong to weights that are all 0; the loss there is 0, not NaN."""
    return totals.clamp(min=torch.finfo(totals.dtype).tiny)
