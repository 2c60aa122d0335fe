"""Losses of others, each on the score matrix.

All take what `matrix_loss` takes: queries N x D, documents M x D (L2-normalised), weights N x M (0: not a known pair).
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div

from gcl_toolkit.losses.graded import lower_odds
from gcl_toolkit.losses.matrix import Scale, matrix_loss


def siglip_loss(
    queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Scale, logit_bias: Scale | None = None
) -> Tensor:
    """SigLIP (arXiv 2303.15343): is this a pair, yes or no? Scalar >= 0, mean over documents of the sum over queries.

    Ours: every known pair of the step is a yes, not one a row. logit_bias None: the bias that fits the step best,
    instead of one learnt from -10 on, which a short training does not move.
    """
    return bixse_loss(queries, documents, weights > 0, logit_scale=logit_scale, logit_bias=logit_bias)


def bixse_loss(
    queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Scale, logit_bias: Scale | None = None
) -> Tensor:
    """BiXSE (arXiv 2508.06781): binary cross-entropy with the grade, 0..1, as probability; unknown pairs are 0.

    Ours: all known pairs of the step, not one a query; summed over queries, mean over documents; the bias as in
    `siglip_loss`. The paper's page with its formula could not be read, only its abstract.
    """
    logits_NxM, targets_NxM = logit_scale * queries @ documents.T, weights.to(queries.dtype)
    bias = fitted_bias(logits_NxM, targets_NxM) if logit_bias is None else logit_bias
    return binary_cross_entropy_with_logits(logits_NxM + bias, targets_NxM, reduction="sum") / documents.shape[0]


@torch.no_grad()
def fitted_bias(logits: Tensor, targets: Tensor, halvings: int = 40) -> Tensor:
    """The bias b with the least cross-entropy: sum of sigmoid(logits + b) = sum of targets. No gradient flows through
    it; there is none at the minimum."""
    mean = targets.mean().clamp(1e-6, 1 - 1e-6).logit()
    low, high = mean - logits.max(), mean - logits.min()
    for _ in range(halvings):
        middle = (low + high) / 2
        too_low = (logits + middle).sigmoid().sum() < targets.sum()
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    return (low + high) / 2


def cosent_loss(queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Scale) -> Tensor:
    """CoSENT (Su 2022, kexue.fm/archives/8847): log [ 1 + sum over pairs of cells, W_a > W_b, of exp(S_b - S_a) ].

    Ours: cells are compared within their row and within their column, not over the whole batch (known cells of
    different queries have no order); mean over rows and over columns, then over both; the scale is learnt.
    """
    logits_NxM = logit_scale * queries @ documents.T
    return (_out_of_order(logits_NxM, weights) + _out_of_order(logits_NxM.T, weights.T)) / 2


def _out_of_order(logits_NxM: Tensor, grades_NxM: Tensor) -> Tensor:
    odds_NxK, _ = lower_odds(logits_NxM, grades_NxM)
    return torch.cat([torch.zeros_like(odds_NxK[:, :1]), odds_NxK], 1).logsumexp(1).mean()


def kl_loss(
    queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Scale, temperature: float = 0.1
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


def rankclip_loss(queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Scale) -> Tensor:
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
