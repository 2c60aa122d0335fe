"""From ranking scores to loss weights: the functions that a pair can be weighted by, and a registry of them.

A score of 100 is position 1, a score of 1 is position 100 (`position = 101 - score`, as in MarqoGS-10M). With free
similarities a weight ratio asks for a cosine gap of tau * log(w1 / w2): choose the function for the gap you want. The
paper's exact formulas could not be read; these are ours.
"""

from collections.abc import Callable

import numpy as np

from gcl_toolkit.errors import DataError, UserError, unknown

WEIGHTINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {}


def register(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Add a function scores_N -> weights_N under its own name."""
    WEIGHTINGS[function.__name__] = function
    return function


def to_weights(scores, weighting: str | Callable[[np.ndarray], np.ndarray] = "linear") -> np.ndarray:
    """Weights (float64, finite, >= 0) of the scores, not normalised.

    `weighting` is a registered name or your own function of the score array. Pass the scores of a whole training set
    at once: "grades", "auto" and "sharp" look at which distinct values occur.
    """
    scores = np.asarray(scores, np.float64)
    bad = ~(np.isfinite(scores) & (scores >= 0))
    if bad.any():
        raise DataError(f"score {scores[bad][0]} at row {int(bad.argmax())}; finite numbers >= 0 are expected")
    if isinstance(weighting, str):
        weighting = check_weighting(weighting)
    weights = np.asarray(weighting(scores), np.float64)
    if weights.shape != scores.shape or not np.all(np.isfinite(weights) & (weights >= 0)):
        raise UserError(
            f"weighting {getattr(weighting, '__name__', weighting)!r} gave {weights.shape} with minimum "
            f"{weights.min(initial=np.inf):g}; {scores.shape} finite weights >= 0 are expected"
        )
    return weights


def check_weighting(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The weight function of a name; a UserError with the known names for another."""
    if name not in WEIGHTINGS:
        raise unknown("weighting", name, WEIGHTINGS)
    return WEIGHTINGS[name]


def rescale(scores) -> np.ndarray:
    """Scores of any range to whole numbers 1..100, as the official evaluation does; one distinct value becomes 1."""
    scores = np.asarray(scores, np.float64)
    low, high = scores.min(), scores.max()
    return np.ones_like(scores) if low == high else np.floor((scores - low) / (high - low) * 99 + 1)


def are_grades(scores) -> bool:
    """Whether scores are grades, up to ten distinct values, and not positions."""
    return len(np.unique(scores)) <= 10


def is_top(scores) -> np.ndarray:
    """Which pairs have one of the best grades: within 10% of the highest score (positions 1 to 10; the top grade)."""
    scores = np.asarray(scores, np.float64)
    return scores > 0.9 * scores.max(initial=0)


def _position(scores: np.ndarray) -> np.ndarray:
    """101 - score; grades (no score above 10) are spread over 1..100 first, as the official evaluation does."""
    if scores.max(initial=0) <= 10:
        return 101 - rescale(scores)
    if scores.max(initial=0) > 100:
        raise DataError(
            f"score {scores.max():g} is above 100; weights by position read scores on the scale 1..100 "
            "(position = 101 - score): rescale them with weighting.rescale, or use 'grades' or your own function"
        )
    return 101 - scores


@register
def constant(scores: np.ndarray) -> np.ndarray:
    """1: ordinary contrastive learning."""
    return np.ones_like(scores)


@register
def relative(scores: np.ndarray) -> np.ndarray:
    """score / the highest score: a score as a probability or as a soft target."""
    return scores / (scores.max(initial=0) or 1)


@register
def linear(scores: np.ndarray) -> np.ndarray:
    """score / 100."""
    return scores / 100


@register
def sqrt(scores: np.ndarray) -> np.ndarray:
    """1 / sqrt(position)."""
    return _position(scores) ** -0.5


@register
def reciprocal(scores: np.ndarray) -> np.ndarray:
    """1 / position."""
    return 1 / _position(scores)


@register
def log(scores: np.ndarray) -> np.ndarray:
    """1 / log2(1 + position): NDCG's own discount."""
    return 1 / np.log2(1 + _position(scores))


@register
def exponential(scores: np.ndarray) -> np.ndarray:
    """exp(-(position - 1) / 10): e times less every ten positions."""
    return np.exp((1 - _position(scores)) / 10)


@register
def piecewise(scores: np.ndarray) -> np.ndarray:
    """1 for positions 1 to 10, 0.3 to 50, 0.1 beyond."""
    return np.select([_position(scores) <= 10, _position(scores) <= 50], [1.0, 0.3], 0.1)


@register
def grades(scores: np.ndarray) -> np.ndarray:
    """1, 0.1, 0.01, ... for the best, second best, third best distinct score; 0 for a score of 0."""
    levels = np.unique(scores)[::-1]
    below_best = np.searchsorted(-levels, -scores)
    return np.where(scores > 0, 0.1**below_best, 0.0)


@register
def auto(scores: np.ndarray) -> np.ndarray:
    """The default: "grades" for up to ten distinct scores (grades), "linear" for more (positions)."""
    return grades(scores) if are_grades(scores) else linear(scores)


@register
def sharp(scores: np.ndarray) -> np.ndarray:
    """As "auto", with "reciprocal" for positions: for losses that keep the order by weights alone."""
    return grades(scores) if are_grades(scores) else reciprocal(scores)
