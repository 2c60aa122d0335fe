"""The loss of Generalized Contrastive Learning (arXiv 2404.08535): CLIP's, each pair weighted by its ranking score.

    S = logit_scale * L @ R.T
    loss = 1/(2N) * sum_i w_i * [ -log softmax(S[i, :])_i  -log softmax(S[:, i])_i ]

With w = 1 this is exactly the CLIP loss. Dense and plain: the reference for every faster form.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gcl_loss(
    left: Tensor,
    right: Tensor,
    weights: Tensor | None = None,
    *,
    logit_scale: Tensor | float,
    query_ids: Tensor | None = None,
    product_ids: Tensor | None = None,
    not_negative: Tensor | None = None,
    normalise_weights: bool = True,
) -> Tensor:
    """The weighted contrastive loss of N pairs, a scalar >= 0.

    left, right: N x D, L2-normalised. weights: N, >= 0; normalised to mean 1 (unless told otherwise; all zero gives
    loss 0). query_ids, product_ids: N integers; another row of the same query or the same product is then no negative.
    not_negative: further cells (known pairs, say) to leave out of the denominators: 2 x K, their rows and columns, or
    N x N bools.
    """
    logits_NxN = logit_scale * left @ right.T
    masks = [ids[:, None] == ids[None, :] for ids in (query_ids, product_ids) if ids is not None]
    if not_negative is not None:
        masks.append(not_negative if not_negative.dtype == torch.bool else cell_mask(not_negative, len(left)))
    for mask_NxN in masks:
        off_diagonal = ~torch.eye(len(mask_NxN), dtype=torch.bool, device=mask_NxN.device)
        logits_NxN = logits_NxN.masked_fill(mask_NxN & off_diagonal, -torch.inf)
    row_N = torch.logsumexp(logits_NxN, 1) - logits_NxN.diagonal()
    column_N = torch.logsumexp(logits_NxN, 0) - logits_NxN.diagonal()
    weights = torch.ones_like(row_N) if weights is None else weights.to(row_N.dtype)
    if normalise_weights:
        weights = weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights * (row_N + column_N)).mean() / 2


def cell_mask(cells: Tensor, count: int) -> Tensor:
    """count x count bools, true at the rows and columns of `cells` (2 x K)."""
    mask_NxN = torch.zeros(count, count, dtype=torch.bool, device=cells.device)
    mask_NxN[cells[0], cells[1]] = True
    return mask_NxN
