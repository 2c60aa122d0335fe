"""The loss on six real pairs of the bundle, in numpy: weights, similarities, gradients and target gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.data.weighting import WEIGHTINGS, rescale, to_weights

OTHERS = 3
"""Queries besides the chosen one, which appears with its best, a middle and its worst product."""
POSITIONS = (1, 2, 3, 5, 7, 10, 20, 35, 50, 100)
BY_GRADES = ("grades", "auto", "sharp")
"""Functions that depend on the distinct scores, not on positions."""


@dataclass(frozen=True)
class Batch:
    """N pairs. model: whose vectors; items: product rows; scores, weights (mean 1): N; cosines, and the gradients of
    both losses with respect to the logits: N x N, one row per query; losses: the contribution of each pair, N."""

    model: str
    queries: list[str]
    items: list[int]
    scores: np.ndarray
    weights: np.ndarray
    cosines: np.ndarray
    clip: np.ndarray
    gcl: np.ndarray
    clip_losses: np.ndarray
    gcl_losses: np.ndarray


def batch(service: Service, state: State) -> Batch:
    """The chosen query's pairs and the best pair of the next queries; the slider sets the first pair's score.

    A typed text has no pairs: the first stored query takes its place, as the first model does for A without vectors.
    """
    queries, items, scores = _pairs(service, state)
    scores_N = np.array([state.score, *scores[1:]])
    weights_N = to_weights(scores_N, state.weighting)
    weights_N = weights_N / max(float(weights_N.mean()), 1e-12)
    model = state.a if state.a in service.searchable else service.searchable[0]
    vectors, rows = service.system(model).vectors, service.labels[state.split]
    left_NxD = vectors.queries_QxD[[rows[query] for query in queries]]
    right_NxD = np.sum(
        [w * vectors.embeddings_NxD[f][items].astype(np.float32) for f, w in vectors.fields.items()], axis=0
    )
    right_NxD /= np.linalg.norm(right_NxD, axis=1, keepdims=True).clip(1e-9)
    cosines_NxN = (left_NxD @ right_NxD.T).astype(np.float64)
    logits_NxN = cosines_NxN / state.temperature
    ones_N = np.ones(len(items))
    return Batch(
        model, queries, items, scores_N, weights_N, cosines_NxN,
        gradient(logits_NxN, ones_N), gradient(logits_NxN, weights_N),
        losses(logits_NxN, ones_N), losses(logits_NxN, weights_N),
    )  # fmt: skip


def losses(logits_NxN: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
    """w_i / 2N * [ -log softmax(S[i, :])_i - log softmax(S[:, i])_i ]; their sum is the loss."""
    own_N = sum(-np.log(_softmax(logits_NxN, axis).diagonal()) for axis in (0, 1))
    return weights_N * own_N / (2 * len(weights_N))


def gradient(logits_NxN: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
    """dloss/dS_ij = [ w_i (rowsoftmax_ij - delta_ij) + w_j (colsoftmax_ij - delta_ij) ] / 2N."""
    same_NxN = np.eye(len(weights_N))
    rows_NxN = weights_N[:, None] * (_softmax(logits_NxN, 1) - same_NxN)
    columns_NxN = weights_N[None, :] * (_softmax(logits_NxN, 0) - same_NxN)
    return (rows_NxN + columns_NxN) / (2 * len(weights_N))


def gap(weight: float, other: float, temperature: float) -> float:
    """The cosine gap at which two weights balance: tau * log(w1 / w2)."""
    return temperature * float(np.log(weight / other))


def curves() -> pd.DataFrame:
    """The weight at each of POSITIONS by every function of positions."""
    scores = 101.0 - np.array(POSITIONS)
    names = [name for name in WEIGHTINGS if name not in BY_GRADES]
    return pd.DataFrame({name: to_weights(scores, name) for name in names}, index=POSITIONS)


def _pairs(service: Service, state: State) -> tuple[list[str], list[int], list[float]]:
    labels = service.labels[state.split]
    names, first = list(labels), state.query if state.query in labels else next(iter(labels))
    start, scores = names.index(first), _scale(service)
    ends = np.searchsorted(service.bundle.qrels["query"], [labels[first], labels[first] + 1])
    own = [*range(*ends)]
    pairs = [(first, pair) for pair in dict.fromkeys([own[0], own[len(own) // 2], own[-1]])] if own else []
    for name in names[start + 1 :] + names[:start]:
        low, high = np.searchsorted(service.bundle.qrels["query"], [labels[name], labels[name] + 1])
        if low < high and len({query for query, _ in pairs}) <= OTHERS:
            pairs.append((name, int(low)))
    items = service.bundle.qrels["item"].to_numpy()
    return [q for q, _ in pairs], [int(items[p]) for _, p in pairs], [float(scores[p]) for _, p in pairs]


def _scale(service: Service) -> np.ndarray:
    """The bundle's scores, rescaled to 1..100 if any is above 100."""
    scores = service.bundle.qrels["score"].to_numpy(np.float64)
    return rescale(scores) if scores.max(initial=0) > 100 else scores


def _softmax(logits_NxN: np.ndarray, axis: int) -> np.ndarray:
    raised = np.exp(logits_NxN - logits_NxN.max(axis, keepdims=True))
    return raised / raised.sum(axis, keepdims=True)
