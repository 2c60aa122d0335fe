"""The graded loss (ours, the default): the score matrix, in whose rows a known pair competes with lower weights only.

Takes what `matrix_loss` takes: queries N x D, documents M x D (L2-normalised), weights N x M (0: not a known pair).
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gcl_toolkit.losses.matrix import ROWS, Scale, shares

NEVER = -1e30
"""A logit that adds nothing; logcumsumexp has no gradient at -inf."""


def graded_loss(
    queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Scale, r: float = ROWS, recall: float = 0.0
) -> Tensor:
    """`matrix_loss`, except that in its row each known pair competes with lower weights only; a scalar >= 0.

    For the pair i, j, by rows: -log [ exp S_ij / (exp S_ij + sum over k with W_ik < W_ij of exp S_ik) ]. Equal or
    better documents don't push each other down, so the order needs no steep weights. Columns are those of
    `matrix_loss`: a query's documents have an order, a document's queries don't.
    recall: 0..1, the share of the rows in which all known pairs of a query count alike, whatever their weight.
    """
    logits_NxM = logit_scale * queries @ documents.T
    odds_NxK, column_NxK = lower_odds(logits_NxM, weights)
    shares_NxM = torch.lerp(shares(weights), shares((weights > 0).to(weights.dtype)), recall)
    rows = (shares_NxM.gather(1, column_NxK) * softplus(odds_NxK)).sum()
    columns = (shares(weights.T) * logits_NxM.T.log_softmax(1)).sum()
    return r * rows - (1 - r) * columns


def lower_odds(logits_NxM: Tensor, grades_NxM: Tensor, *, or_equal: bool = False) -> tuple[Tensor, Tensor]:
    """The log odds of the cells of lower grade in its row against each known cell: log [ sum of exp S_ik ] - S_ij.

    Returns N x K odds and their columns; K is the largest number of known cells in a row (shorter rows end in -inf).
    or_equal: cells of equal grade, the cell itself included, count as lower.
    """
    known_NxM = grades_NxM > 0
    most = known_NxM.shape[1] if known_NxM.is_cuda else max(1, int(known_NxM.sum(1).max()))  # a GPU isn't waited for
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
