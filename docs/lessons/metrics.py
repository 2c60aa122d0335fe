"""Lesson 2: ranking metrics of one query in NumPy, and how they mislead."""

import numpy as np
from draw import bars

TOP = 10


def dcg(grades):
    return float((grades / np.log2(np.arange(2, len(grades) + 2))).sum())


def ndcg(grades, judged, cutoff=TOP):
    """grades: of the ranking, best rank first; judged: of all judged products, retrieved or not."""
    ideal = dcg(np.sort(judged)[::-1][:cutoff])
    return dcg(grades[:cutoff]) / ideal if ideal else 0.0


def err(grades, judged):
    """Expected reciprocal rank; a user stops at grade g with probability (2^g - 1) / 2^best."""
    best = judged.max(initial=0)
    stops = np.exp2(grades - best) - np.exp2(-best)
    reaches = np.cumprod(np.append(1, 1 - stops[:-1]))
    return float((stops * reaches / np.arange(1, len(grades) + 1)).sum())


def rbp(grades, judged, persistence=0.9):
    best = judged.max(initial=0)
    weights = (1 - persistence) * persistence ** np.arange(len(grades))
    return float((grades * weights).sum() / best) if best else 0.0


def average_precision(grades, judged):
    relevant = grades > 0
    precision = np.cumsum(relevant) / np.arange(1, len(grades) + 1)
    return float(precision[relevant].sum() / max((judged > 0).sum(), 1))


METRICS = {"NDCG@10": ndcg, "ERR": err, "RBP(0.9)": rbp, "AP": average_precision}


def bounds(metric, grades, judged, best):
    """The lowest and highest value over the grades 0..best of the unjudged (NaN), tried one by one, up to four."""
    unknown = np.flatnonzero(np.isnan(grades))
    values = []
    for filling in np.ndindex(*(best + 1 for _ in unknown)):
        filled = grades.copy()
        filled[unknown] = filling
        values.append(metric(filled, np.append(judged, filling)))
    return min(values), max(values)


# -- what the page shows -----------------------------------------------------------------------------------------------


def order(grades):
    """grades: the list of the page, best rank first, such as "3 2 ? 0"; ? is a product nobody has judged."""
    values = np.array([np.nan if g == "?" else float(g) for g in grades.split()])
    judged = values[~np.isnan(values)]
    plain = np.nan_to_num(values)
    rows = [(name, metric(plain, judged)) for name, metric in METRICS.items()]
    if len(judged) < len(values):
        rows = [(name, value, *bounds(METRICS[name], values, judged, 3)) for name, value in rows]
    note = "<p>An unjudged product counts as 0. The line shows the range over all grades it might have.</p>"
    return bars(rows) + (note if len(judged) < len(values) else "")


def ties(order_of_ties):
    """Three products with equal scores by the model: the metric depends on who breaks the tie."""
    grades = {"best first": [3, 1, 0], "worst first": [0, 1, 3]}
    pick = grades.get(order_of_ties)
    judged = np.array([3.0, 1, 0])
    values = [ndcg(np.array(g, float), judged) for g in ([pick] if pick else _orders([3, 1, 0]))]
    return bars([("NDCG@10", float(np.mean(values)), min(values), max(values))])


def _orders(items):
    if len(items) < 2:
        return [items]
    return [[first, *rest] for k, first in enumerate(items) for rest in _orders(items[:k] + items[k + 1 :])]


def trap(grades):
    """The constructive exercise: the best product first, and as little else right as possible. (right, what to say)"""
    values = np.array([float(g) for g in grades.split()])
    found, low = err(values, values), ndcg(values, values)
    if found < 0.99:
        return False, f"ERR is {found:.3f}, below .99."
    right = low <= 0.9125
    return right, f"ERR {found:.3f}, NDCG@10 {low:.3f}" + (". Right." if right else "; it can be lower.")
