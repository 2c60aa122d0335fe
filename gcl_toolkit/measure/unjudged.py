"""Products without a judgement: how many a ranking shows, the bounds they leave for NDCG, and measures without them.

Rankings are product row numbers, best first, padded with -1, one row a query; qrels are row numbers and a grade a pair,
as in `RankedData.pairs`. U is the number of unjudged products of a query.
"""

from itertools import pairwise

import numpy as np

from gcl_toolkit.data.ranked_data import Pairs
from gcl_toolkit.measure.metrics import ranked_gains, ratio

ROUNDS = 50
"""Steps of `_largest` at most; a handful suffice."""
BLOCK = 1 << 22
"""Numbers of a block of queries in `bounds`, 32 MB."""


def grades(qrels: Pairs, products_QxK: np.ndarray) -> np.ndarray:
    """Q x K float64: the grade at each rank, NaN where the product is unjudged, 0 where the rank is empty."""
    pair_QxK = ranked_gains(qrels.query, qrels.product, np.arange(1.0, len(qrels.score) + 1), products_QxK).astype(int)
    return np.where(products_QxK < 0, 0.0, np.append(np.nan, qrels.score)[pair_QxK])


def unjudged(grades_QxK: np.ndarray, k: int) -> np.ndarray:
    """Unjudged@k: the number of unjudged products within the first k ranks of each query."""
    return np.isnan(grades_QxK[:, :k]).sum(axis=1)


def pooled(qrels: Pairs, rankings: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Query and product rows of the unjudged pairs within the first k ranks of any ranking, each once, by query."""
    found = []
    for products_QxK in rankings:
        query, rank = np.nonzero(np.isnan(grades(qrels, products_QxK)[:, :k]))
        found.append(np.stack([query, products_QxK[query, rank]]))
    query, product = np.unique(np.concatenate(found, axis=1), axis=1)
    return query, product


def condensed(grades_QxK: np.ndarray, products_QxK: np.ndarray) -> np.ndarray:
    """The rankings without their unjudged products (Sakai 2007): those below move up, the freed ranks are -1."""
    missing_QxK = np.isnan(grades_QxK)
    order_QxK = np.argsort(missing_QxK, axis=1, kind="stable")
    return np.take_along_axis(np.where(missing_QxK, -1, products_QxK), order_QxK, axis=1)


def bpref(grades_QxK: np.ndarray, qrels: Pairs) -> np.ndarray:
    """Preferences among judged products that the ranking keeps, 0..1 for each query; 0 without a grade > 0.

    bpref (Buckley & Voorhees 2004) for grades, after rpref (De Beer & Moens 2006): the sum of g (1 - P / N) over the
    products retrieved, over the sum of all g. P adds g - g' for each judged product above with a smaller grade g', N
    for each judged product with a smaller grade. With grades 0 and 1 it is bpref_N (Sakai 2007).
    """
    queries, missing_QxK = len(grades_QxK), np.isnan(grades_QxK)
    judged = int((~missing_QxK).sum(axis=1).max(initial=0))
    grades_QxK = np.take_along_axis(grades_QxK, np.argsort(missing_QxK, axis=1, kind="stable")[:, :judged], axis=1)
    all_Q = np.bincount(qrels.query, qrels.score, minlength=queries)
    levels = np.unique(np.append(qrels.score, 0.0))
    misplaced_QxK, most_QxK = np.zeros(grades_QxK.shape), np.zeros(grades_QxK.shape)
    for level, above in pairwise(levels):  # g - g' is the sum of the steps between them
        smaller_QxK = grades_QxK <= level
        in_all_Q = np.bincount(qrels.query[qrels.score <= level], minlength=queries)
        step_QxK = np.where(grades_QxK >= above, above - level, 0.0)
        misplaced_QxK += step_QxK * np.cumsum(smaller_QxK, axis=1)
        most_QxK += step_QxK * in_all_Q[:, None]
    kept_QxK = np.nan_to_num(grades_QxK) * (1 - ratio(misplaced_QxK, most_QxK))
    return ratio(kept_QxK.sum(axis=1), all_Q)


def bounds(
    qrels: Pairs, a_QxK: np.ndarray, b_QxK: np.ndarray | None, k: int, highest: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest NDCG@k(a) - NDCG@k(b) of each query, or NDCG@k(a) where b is None, over all grades
    in 0..`highest` (at least the largest grade of the qrels) of the unjudged products that a or b shows up to rank k.

    A product has the same grade in both rankings and in the ideal one, which holds the judged products and these.
    Unjudged products that neither shows up to rank k count as irrelevant, as in NDCG itself. The bounds are attained:
    NDCG is a linear function of the grades over a convex one, the ideal DCG. Its negative extremes are at grades of 0
    and `highest`; for the positive ones see `_largest`.
    """
    highest = max(highest, float(qrels.score.max(initial=0)))
    discount_k = 1 / np.log2(np.arange(2, k + 2))
    total_k1 = np.append(0.0, np.cumsum(discount_k))
    fixed_Q, weights_QxU = _weights(qrels, [a_QxK, *([] if b_QxK is None else [b_QxK])], discount_k)
    steps_QxL = -np.diff(_ideal(qrels, len(a_QxK), k), prepend=highest, append=0.0, axis=1)
    shown = np.arange(k + 1)[:, None] + np.arange(weights_QxU.shape[1] + 1)
    ideal_LxU1 = total_k1[np.minimum(shown, k)]
    low_Q, high_Q = np.zeros(len(a_QxK)), np.zeros(len(a_QxK))
    block = max(1, BLOCK // ideal_LxU1.size)
    for rows in (slice(start, start + block) for start in range(0, len(a_QxK) if highest > 0 else 0, block)):
        fixed, weights, steps = fixed_Q[rows], weights_QxU[rows], steps_QxL[rows]
        high_Q[rows] = _largest(fixed, weights, steps, ideal_LxU1)
        low_Q[rows] = -_largest(-fixed, -weights, steps, ideal_LxU1)
    return low_Q, high_Q


def _weights(qrels: Pairs, rankings: list[np.ndarray], discount_k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DCG of the first ranking minus that of the second as a linear function of the unjudged grades: the part of the
    judged products, and each unjudged product's weight (Q x U, padded with NaN)."""
    fixed_Q, keys, weights = np.zeros(len(rankings[0])), [], []
    products = 1 + max(int(ranking.max(initial=0)) for ranking in rankings)
    for ranking, sign in zip(rankings, (1, -1), strict=False):
        grades_Qxk = grades(qrels, ranking)[:, : len(discount_k)]
        signed_k = sign * discount_k[: grades_Qxk.shape[1]]
        fixed_Q += np.nan_to_num(grades_Qxk) @ signed_k
        query, rank = np.nonzero(np.isnan(grades_Qxk))
        keys.append(query * products + ranking[query, rank])
        weights.append(signed_k[rank])
    key_P, pair = np.unique(np.concatenate(keys), return_inverse=True)
    counts_Q = np.bincount(key_P // products, minlength=len(fixed_Q))
    weights_QxU = np.full((len(fixed_Q), counts_Q.max(initial=0)), np.nan)
    weights_QxU[np.arange(weights_QxU.shape[1]) < counts_Q[:, None]] = np.bincount(pair, np.concatenate(weights))
    return fixed_Q, weights_QxU


def _largest(fixed_Q: np.ndarray, weights_QxU: np.ndarray, steps_QxL: np.ndarray, ideal_LxU1: np.ndarray) -> np.ndarray:
    """The largest (fixed + sum of weight x grade) / ideal DCG of each query over the unjudged grades.

    steps_QxL: at l, how far grades range that exactly l judged products exceed; the last l is k. ideal_LxU1: ideal DCG
    of l + m products of grade 1. Grades of 0 and the highest give a first value t. Where it is positive, Dinkelbach's
    (1967) method raises it: the grades that maximise numerator - t ideal give the next t. Both are sums over steps of
    what the m products with the largest weights get, so each step has its best m, and m shrinks as grades grow.
    """
    descending_QxU = -np.sort(-weights_QxU, axis=1)  # NaN stays last
    gains_QxU1 = np.pad(np.cumsum(descending_QxU, axis=1), ((0, 0), (1, 0)))
    gains_QxU1 = np.where(np.isnan(gains_QxU1), -np.inf, gains_QxU1)
    highest_Q = steps_QxL.sum(axis=1)
    best_Q = ratio(fixed_Q[:, None] + highest_Q[:, None] * gains_QxU1, steps_QxL @ ideal_LxU1).max(axis=1)
    rows = np.flatnonzero(best_Q > 0)
    for _ in range(ROUNDS):
        gains, steps = gains_QxU1[rows], steps_QxL[rows]
        m_QxL = (gains[:, None, :] - best_Q[rows, None, None] * ideal_LxU1).argmax(axis=2)
        numerator = fixed_Q[rows] + (steps * np.take_along_axis(gains, m_QxL, axis=1)).sum(axis=1)
        raised = ratio(numerator, (steps * ideal_LxU1[np.arange(len(ideal_LxU1)), m_QxL]).sum(axis=1))
        rises = raised > best_Q[rows] + 1e-12
        rows, raised = rows[rises], raised[rises]
        if not len(rows):
            break
        best_Q[rows] = raised
    return best_Q


def _ideal(qrels: Pairs, queries: int, k: int) -> np.ndarray:
    """Q x k: the largest grades of each query in descending order, padded with 0."""
    order = np.lexsort((-qrels.score, qrels.query))
    query, grade = qrels.query[order], qrels.score[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    kept, ideal_Qxk = rank < k, np.zeros((queries, k))
    ideal_Qxk[query[kept], rank[kept]] = grade[kept]
    return ideal_Qxk
