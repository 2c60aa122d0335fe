"""The loss of Generalized Contrastive Learning (arXiv 2404.08535): CLIP's, each pair weighted by its ranking score.

    S = logit_scale * L @ R.T
    loss = 1/(2N) * sum_i w_i * [ -log softmax(S[i, :])_i  -log softmax(S[:, i])_i ]

With w = 1 this is exactly the CLIP loss. Dense and plain: the reference for every faster form.
"""

import torch
from torch import Tensor


def gcl_loss(
    left: Tensor,
    right: Tensor,
    weights: Tensor | None = None,
    *,
    logit_scale: Tensor | float,
    excluded: Tensor | None = None,
    normalise_weights: bool = True,
) -> Tensor:
    """The weighted contrastive loss of N pairs, a scalar >= 0.

    left, right: N x D, L2-normalised. weights: N, >= 0; divided by their mean unless `normalise_weights` is false (all
    zero gives loss 0). excluded: cells (i, j) to leave out of the denominators, 2 x K integers: other rows of the same
    query or product (`same_id_cells`), other known pairs. The pairs themselves always stay in.
    """
    logits_NxN = logit_scale * left @ right.T
    if excluded is not None:
        mask_NxN = torch.zeros_like(logits_NxN, dtype=torch.bool)
        mask_NxN[excluded[0], excluded[1]] = True
        logits_NxN = logits_NxN.masked_fill(mask_NxN.fill_diagonal_(False), -torch.inf)
    row_N = torch.logsumexp(logits_NxN, 1) - logits_NxN.diagonal()
    column_N = torch.logsumexp(logits_NxN, 0) - logits_NxN.diagonal()
    weights = torch.ones_like(row_N) if weights is None else weights.to(row_N.dtype)
    if normalise_weights:
        weights = weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights * (row_N + column_N)).mean() / 2


def same_id_cells(ids: Tensor) -> Tensor:
    """The cells (i, j), i != j, with ids[i] == ids[j], 2 x K; ids: N integers."""
    order = ids.argsort()
    _, group_N, count_G = ids[order].unique_consecutive(return_inverse=True, return_counts=True)
    count_N = count_G[group_N]
    row_K = torch.arange(len(ids), device=ids.device).repeat_interleave(count_N)
    in_group_K = torch.arange(len(row_K), device=ids.device) - (count_N.cumsum(0) - count_N)[row_K]
    column_K = (count_G.cumsum(0) - count_G)[group_N[row_K]] + in_group_K
    cells = order[torch.stack([row_K, column_K])]
    return cells[:, row_K != column_K]
