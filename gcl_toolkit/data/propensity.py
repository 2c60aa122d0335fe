"""From clicks to relevance: how likely a position is looked at, and what clicks then mean.

The position-based model (Craswell et al. 2008): a click needs a look at position k, with probability theta_k (the
propensity; theta_1 = 1), and interest in product d for query q, with probability gamma_qd:

    P(click | q, d, k) = theta_k * gamma_qd

Theta is harvested from products shown at several positions of the same query (Agarwal et al. 2019), for whatever
reason: shuffled traffic, an experiment, a ranker that changed. Given the clicks C_qd of such a product, their positions
depend on theta alone, so that no relevance needs to be known:

    E[clicks at k] = C_qd * n_qdk theta_k / sum_k' n_qdk' theta_k'      (n: impressions)

which is Hunter's (2004) generalised Bradley-Terry model; the same fixed point as EM for both unknowns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gcl_toolkit.errors import DataError

GROUPS = 20
"""Of queries, for the jackknife."""


class Cells(NamedTuple):
    """A log, added up: C rows, one for each query, product and position.

    query_C, pair_C: number of the query and of the (query, product). position_C: 1..K. shown_C: impressions,
    clicked_C: (weighted) clicks, both >= 0 and not necessarily integers.
    """

    query_C: np.ndarray
    pair_C: np.ndarray
    position_C: np.ndarray
    shown_C: np.ndarray
    clicked_C: np.ndarray

    def where(self, chosen_C: np.ndarray) -> Cells:
        return Cells(*(column[chosen_C] for column in self))


@dataclass(frozen=True)
class Propensities:
    """theta of positions 1..K with 95% intervals (jackknife over groups of queries)."""

    value_K: np.ndarray
    low_K: np.ndarray
    high_K: np.ndarray
    pairs: int
    """How many clicked products were shown at several positions of a query."""


def harvest(cells: Cells, groups: int = GROUPS) -> Propensities:
    """Propensities of the positions in the log.

    Raises DataError when a position can't be compared with position 1: no product was shown (and clicked) at both, nor
    is there a chain of products over other positions.
    """
    informative = _informative(cells)
    _check_linked(informative, int(cells.position_C.max(initial=1)))
    theta_K = _fit(informative, np.ones(int(cells.position_C.max())))
    group_C = informative.query_C % groups
    logs_GxK = np.stack([np.log(_fit(informative.where(group_C != g), theta_K)) for g in np.unique(group_C)])
    count = len(logs_GxK)
    error_K = np.sqrt((count - 1) / count * ((logs_GxK - logs_GxK.mean(0)) ** 2).sum(0))
    low_K, high_K = (theta_K * np.exp(sign * 1.96 * error_K) for sign in (-1, 1))
    return Propensities(theta_K, low_K, high_K, len(np.unique(informative.pair_C)))


def power_law(positions: int, eta: float) -> Propensities:
    """1 / position^eta, for logs they can't be estimated from; without intervals."""
    value_K = np.arange(1, positions + 1.0) ** -eta
    return Propensities(value_K, value_K, value_K, 0)


def relevance(
    query_P: np.ndarray, clicked_P: np.ndarray, examined_P: np.ndarray, place_P: np.ndarray | None = None
) -> np.ndarray:
    """Clicks per look of P (query, product) pairs, shrunk where looks are few: empirical Bayes.

    query_P: 0..Q-1. clicked_P: (weighted) clicks. examined_P: sum of impressions times propensity, > 0. place_P: the
    pair's typical position, >= 1. Clicks are Poisson around gamma * examined; gamma is Gamma with one shape for all,
    around a mean that is the query's own and changes as a power of `place` (what the ranker's order knows of relevance,
    as far as the clicks bear it out). Means, power and shape are estimated from the P pairs.
    """
    if not clicked_P.any():
        return np.zeros_like(examined_P)
    place_P = np.ones_like(examined_P) if place_P is None else place_P
    expected_P = examined_P * _prior(query_P, clicked_P, examined_P, np.log(place_P))
    excess = ((clicked_P - expected_P) ** 2 - expected_P).sum()  # beyond the Poisson noise
    shape = (expected_P**2).sum() / max(excess, 1e-6)
    return expected_P / examined_P * (clicked_P + shape) / (expected_P + shape)


def _prior(query_P: np.ndarray, clicked_P: np.ndarray, examined_P: np.ndarray, log_place_P: np.ndarray) -> np.ndarray:
    """Mean gamma of each pair before its own clicks: query's level * place^power, by Poisson regression."""
    clicks_Q, power = np.bincount(query_P, clicked_P), 0.0
    for _ in range(20):
        looks_P = examined_P * np.exp(power * log_place_P)
        typical = np.median(looks_P)  # a pair's worth of the overall level, so that no query's is 0
        level_Q = (clicks_Q + typical * clicked_P.sum() / looks_P.sum()) / (np.bincount(query_P, looks_P) + typical)
        prior_P = level_Q[query_P] * looks_P / examined_P
        expected_P = prior_P * examined_P
        total_Q, first_Q = np.bincount(query_P, expected_P), np.bincount(query_P, expected_P * log_place_P)
        slope = ((clicked_P - expected_P) * log_place_P).sum()
        bend = (expected_P * log_place_P**2).sum() - (first_Q**2 / total_Q).sum()
        move = float(np.clip(slope / bend, -1, 1)) if bend > 1e-9 else 0.0
        power += move
        if abs(move) < 1e-6:
            break
    return prior_P


def _informative(cells: Cells) -> Cells:
    """The cells of pairs that were clicked and shown at several positions."""
    count = int(cells.pair_C.max(initial=-1)) + 1
    positions_P = np.bincount(cells.pair_C, minlength=count)  # a cell a position
    clicks_P = np.bincount(cells.pair_C, cells.clicked_C, count)
    return cells.where(((positions_P > 1) & (clicks_P > 0))[cells.pair_C])


def _check_linked(cells: Cells, positions: int) -> None:
    """Every position must win clicks from position 1 and lose clicks to it, if only through others (Ford 1957)."""
    count = int(cells.pair_C.max(initial=-1)) + 1
    shape = (positions, count)
    wins, seen = (
        coo_array((np.ones(k.sum()), (cells.position_C[k] - 1, cells.pair_C[k])), shape).tocsr()
        for k in (cells.clicked_C > 0, np.ones(len(cells.pair_C), bool))
    )
    part_K = connected_components(wins @ seen.T, directed=True, connection="strong")[1]
    lost = np.flatnonzero(part_K != part_K[0]) + 1
    if len(lost):
        raise DataError(
            f"propensities: of {positions} positions {len(lost)} can't be compared with position 1 (the first is "
            f"{lost[0]}): no clicked product was shown at both, nor at a chain of positions between them; "
            + (f"leave deep positions out (positions={lost[0] - 1}), or " if lost[0] > 2 else "")
            + "state them: --propensity 1 (1 / position) or none (no correction)"
        )


@np.errstate(all="ignore")  # a step too far, or a jackknife group without a position's clicks: NaN, never taken
def _fit(cells: Cells, theta_K: np.ndarray, tolerance: float = 1e-7) -> np.ndarray:
    """Hunter's MM steps in log theta, sped up by SQUAREM (Varadhan & Roland 2008), until no theta moves."""
    _, pair_C = np.unique(cells.pair_C, return_inverse=True)
    place_C, count = cells.position_C - 1, len(theta_K)
    clicks_K, clicks_P = np.bincount(place_C, cells.clicked_C, count), np.bincount(pair_C, cells.clicked_C)

    def step(log_K: np.ndarray) -> tuple[np.ndarray, float]:
        """The next point, and the log likelihood of this one."""
        looks_C = cells.shown_C * np.exp(log_K)[place_C]
        looks_P = np.bincount(pair_C, looks_C)
        likelihood = float(clicks_K @ log_K - clicks_P @ np.log(looks_P))
        expected_K = np.bincount(place_C, looks_C * (clicks_P / looks_P)[pair_C], count)
        return log_K + np.log(clicks_K / expected_K), likelihood

    log_K = np.log(theta_K)
    for _ in range(500):
        first_K, _ = step(log_K)
        second_K, _ = step(first_K)
        move_K, turn_K = first_K - log_K, second_K - 2 * first_K + log_K
        length = max(1.0, float(np.linalg.norm(move_K)) / max(float(np.linalg.norm(turn_K)), 1e-300))
        far_K = log_K + 2 * length * move_K + length**2 * turn_K
        (next_K, far), (near_K, near) = step(far_K), step(second_K)
        next_K = next_K if far >= near else near_K
        next_K -= next_K[0]
        if np.abs(next_K - log_K).max() < tolerance:
            break
        log_K = next_K
    return np.exp(next_K)
