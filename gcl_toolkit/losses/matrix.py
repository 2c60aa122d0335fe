"""The score-matrix form (ours, beyond the paper): every known pair of a step pulls, also off the diagonal.

    S = logit_scale * Q @ D.T
    loss = -[ r * sum A * log softmax_rows(S)  +  (1 - r) * sum B * log softmax_columns(S) ]

W (queries x documents) holds the weight of every known pair, 0 elsewhere. A and B are its shares by query and by
document: within a query the shares are as the weights, and all queries that have any weight count alike. Rows, the
direction that is searched, count more: r = 2/3, the best of 1/2, 2/3 and .8 for binary weights too (docs/LOG.md).
"""

from torch import Tensor

ROWS = 2 / 3
Scale = Tensor | float


def matrix_loss(queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Scale, r: float = ROWS) -> Tensor:
    """The loss of N queries against M documents, a scalar >= 0; 0 where all weights are.

    queries: N x D, documents: M x D, L2-normalised. weights: N x M, >= 0. r: the share of the rows, 0..1.
    """
    logits_NxM = logit_scale * queries @ documents.T
    rows = (shares(weights) * logits_NxM.log_softmax(1)).sum()
    columns = (shares(weights.T) * logits_NxM.T.log_softmax(1)).sum()
    return -(r * rows + (1 - r) * columns)


def shares(weights: Tensor) -> Tensor:
    """Weights (N x M, >= 0) as shares of their row, divided by the number of rows that have any; they sum to 1.

    Measured better than totals of the whole training set (docs/LOG.md), and they need no more than the step.
    """
    totals_Nx1 = weights.sum(1, keepdim=True)
    rows = (totals_Nx1 > 0).sum().clamp(min=1)
    return weights / totals_Nx1.masked_fill(totals_Nx1 == 0, 1) / rows
