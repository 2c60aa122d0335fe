"""Slow twins of the formulas, as loops to check against the paper. Nothing here is shared with the package."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from scipy import stats

# -- metrics: ranking is a list of product ids, best first; graded is {product: grade} ---------------------------------


def ndcg(ranking, graded, k=None):
    found = 0.0
    for rank, product in enumerate(ranking[:k], start=1):
        found += graded.get(product, 0) / math.log2(rank + 1)
    ideal = 0.0
    for rank, grade in enumerate(sorted(graded.values(), reverse=True)[:k], start=1):
        ideal += grade / math.log2(rank + 1)
    return found / ideal if ideal > 0 else 0.0


def err(ranking, graded, k=None, scale=None):
    best = max(graded.values(), default=0)
    still_looking, total = 1.0, 0.0
    for rank, product in enumerate(ranking[:k], start=1):
        grade, top = graded.get(product, 0), best
        if scale is not None and best > 0:
            grade, top = grade * scale / best, scale
        stops = (2**grade - 1) / 2**top
        total += still_looking * stops / rank
        still_looking *= 1 - stops
    return total


def rbp(ranking, graded, k=None, p=0.8):
    best = max(graded.values(), default=0)
    total = 0.0
    for rank, product in enumerate(ranking[:k], start=1):
        if best > 0:
            total += (1 - p) * p ** (rank - 1) * graded.get(product, 0) / best
    return total


def ap(ranking, graded, k=None):
    relevant = {product for product, grade in graded.items() if grade > 0}
    total, hits = 0.0, 0
    for rank, product in enumerate(ranking[:k], start=1):
        if product in relevant:
            hits += 1
            total += hits / rank
    return total / len(relevant) if relevant else 0.0


def rr(ranking, graded, k=None):
    for rank, product in enumerate(ranking[:k], start=1):
        if graded.get(product, 0) > 0:
            return 1 / rank
    return 0.0


def recall(ranking, graded, k=None):
    relevant = {product for product, grade in graded.items() if grade > 0}
    return len(relevant & set(ranking[:k])) / len(relevant) if relevant else 0.0


def precision(ranking, graded, k):
    return sum(graded.get(product, 0) > 0 for product in ranking[:k]) / k


def bpref(ranking, graded):
    """Graded: each relevant product retrieved counts its grade, less the share of the weighted preferences it loses."""
    found = [p for p in ranking if p in graded]
    total = sum(graded.values())
    value = 0.0
    for rank, p in enumerate(found):
        lost = sum(max(0, graded[p] - graded[other]) for other in found[:rank])
        most = sum(max(0, graded[p] - graded[other]) for other in graded)
        value += graded[p] * (1 - (lost / most if most else 0))
    return value / total if total else 0.0


def ranking_given(scores):
    """Best first; of equal scores the one that the run names first."""
    left, ranking = list(scores), []
    while left:
        best = left[0]
        for product in left[1:]:
            if scores[product] > scores[best]:
                best = product
        ranking.append(best)
        left.remove(best)
    return ranking


def ranking_trec(scores):
    """As trec_eval: scores compared as float32, of equal ones the larger id first."""
    return sorted(scores, key=lambda product: (np.float32(scores[product]), product), reverse=True)


# -- statistics --------------------------------------------------------------------------------------------------------


def sign_flip_p(differences):
    """The exact two-sided randomisation test: every one of the 2^n sign patterns; for n up to about 12."""
    observed, as_large, patterns = abs(sum(differences)), 0, 2 ** len(differences)
    for pattern in range(patterns):
        flipped = sum(d if pattern >> i & 1 else -d for i, d in enumerate(differences))
        as_large += abs(flipped) >= observed - 1e-12
    return as_large / patterns


def bca(values, level, samples=200_000):
    """Efron & Tibshirani (1993), equations 14.9, 14.14 and 14.15, for the mean; resamples of n - 1."""
    values, normal = np.asarray(values), NormalDist()
    mean = values.mean()
    rng = np.random.default_rng(123)
    resampled = np.sort(rng.choice(values, (samples, len(values) - 1)).mean(axis=1))
    bias = normal.inv_cdf((resampled < mean).mean())
    jackknife = [np.delete(values, i).mean() for i in range(len(values))]
    gaps = [np.mean(jackknife) - left_out for left_out in jackknife]
    acceleration = sum(gap**3 for gap in gaps) / (6 * sum(gap**2 for gap in gaps) ** 1.5)
    bounds = []
    for tail in ((1 - level) / 2, 1 - (1 - level) / 2):
        z = bias + normal.inv_cdf(tail)
        bounds.append(resampled[int(samples * normal.cdf(bias + z / (1 - acceleration * z)))])
    return bounds


def double_sampling(judge, judge_of_sample, human, level):
    """Cochran (1977), section 12.6: y regressed on f in a sample, f known for more; mean and Student's interval."""
    n, count = len(human), len(judge)
    f_mean, y_mean, mean = sum(judge_of_sample) / n, sum(human) / n, sum(judge) / count
    pairs = [(f - f_mean, y - y_mean) for f, y in zip(judge_of_sample, human, strict=True)]
    spread = sum(f * f for f, _ in pairs)
    slope = sum(f * y for f, y in pairs) / spread
    residual = sum((y - slope * f) ** 2 for f, y in pairs) / (n - 2)
    of_judge = sum((f - mean) ** 2 for f in judge) / (count - 1)
    variance = residual * (1 / n + (mean - f_mean) ** 2 / spread) + slope**2 * of_judge / count
    half = stats.t.ppf((1 + level) / 2, n - 2) * math.sqrt(variance)
    estimate = y_mean + slope * (mean - f_mean)
    return estimate, estimate - half, estimate + half


# -- losses: lists of lists and math, a loop a sum ---------------------------------------------------------------------


def gcl_loss(left, right, weights, scale, negative=None):
    """left, right: N lists of D numbers; negative(i, j): whether column j is a negative of row i (j != i)."""
    count = len(left)
    mean_weight = sum(weights) / count
    logits = [
        [scale * sum(x * y for x, y in zip(left[i], right[j], strict=True)) for j in range(count)] for i in range(count)
    ]
    total = 0.0
    for i in range(count):
        row = sum(math.exp(logits[i][j]) for j in range(count) if j == i or negative is None or negative(i, j))
        column = sum(math.exp(logits[j][i]) for j in range(count) if j == i or negative is None or negative(j, i))
        own = math.exp(logits[i][i])
        total += weights[i] / mean_weight * (-math.log(own / row) - math.log(own / column))
    return total / (2 * count)


def by_rows_and_columns(queries, documents, weights, scale):
    """(logits, weights) as lists of rows, then the same of columns."""
    logits = [[scale * sum(x * y for x, y in zip(q, d, strict=True)) for d in documents] for q in queries]
    return (logits, weights), (
        [list(c) for c in zip(*logits, strict=True)],
        [list(c) for c in zip(*weights, strict=True)],
    )


def matrix_loss(queries, documents, weights, scale, competes=lambda own, other: True, recall=0.0):
    """weights: N lists of M numbers. `competes`: in a row, a pair of such a weight with one of another weight. recall:
    the share of the rows in which each known pair counts alike."""
    total = 0.0
    sides = by_rows_and_columns(queries, documents, weights, scale)
    both = (competes, lambda own, other: True), (2 / 3, 1 / 3), (recall, 0.0)
    for (logits, grades), rival, r, even in zip(sides, *both, strict=True):
        known = [i for i, row in enumerate(grades) if sum(row) > 0]
        for i in known:
            for j, own in enumerate(logits[i]):
                rivals = [k for k in range(len(logits[i])) if k == j or rival(grades[i][j], grades[i][k])]
                likelihood = math.exp(own) / sum(math.exp(logits[i][k]) for k in rivals)
                share = (1 - even) * grades[i][j] / sum(grades[i]) + even * (grades[i][j] > 0) / sum(
                    map(bool, grades[i])
                )
                total -= r * share / len(known) * math.log(likelihood)
    return total


def graded_loss(queries, documents, weights, scale, recall=0.0):
    return matrix_loss(queries, documents, weights, scale, lambda own, other: other < own, recall)


def cross_entropy(logits, targets, bias):
    total = 0.0
    for row, wanted in zip(logits, targets, strict=True):
        for logit, target in zip(row, wanted, strict=True):
            yes = 1 / (1 + math.exp(-logit - bias))
            total -= target * math.log(yes) + (1 - target) * math.log(1 - yes)
    return total


def bixse_loss(queries, documents, targets, scale, bias=None):
    """The bias by golden-section search, where none is given."""
    logits, _ = by_rows_and_columns(queries, documents, targets, scale)[0]
    low, high, golden = -30.0, 30.0, (math.sqrt(5) - 1) / 2
    while bias is None and high - low > 1e-9:
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if cross_entropy(logits, targets, a) < cross_entropy(logits, targets, b) else (a, high)
    return cross_entropy(logits, targets, (low + high) / 2 if bias is None else bias) / len(documents)


def siglip_loss(queries, documents, weights, scale, bias=None):
    return bixse_loss(queries, documents, [[float(w > 0) for w in row] for row in weights], scale, bias)


def cosent_loss(queries, documents, weights, scale):
    total = 0.0
    for logits, grades in by_rows_and_columns(queries, documents, weights, scale):
        for row, grade in zip(logits, grades, strict=True):
            pairs = [(a, b) for a in range(len(row)) for b in range(len(row)) if grade[a] > grade[b]]
            total += math.log(1 + sum(math.exp(row[b] - row[a]) for a, b in pairs)) / len(logits)
    return total / 2


def kl_loss(queries, documents, scores, scale, temperature=0.1):
    total = 0.0
    for logits, rows in by_rows_and_columns(queries, documents, scores, scale):
        found = []
        for row, score in zip(logits, rows, strict=True):
            known = [j for j in range(len(row)) if score[j] > 0]
            target = {j: math.exp(score[j] / temperature) for j in known}
            target = {j: t / sum(target.values()) for j, t in target.items()}
            model = {j: math.exp(row[j]) / sum(math.exp(x) for x in row) for j in known}
            found += [sum(target[j] * math.log(target[j] / model[j]) for j in known)] * bool(known)
        total += sum(found) / len(found)
    return total / 2


def rankclip_loss(queries, documents, weights, scale):
    binary, total = [[float(w > 0) for w in row] for row in weights], 0.0
    sides = by_rows_and_columns(queries, documents, weights, scale)
    for logits, grades in sides:
        disorder = []
        for row, grade in zip(logits, grades, strict=True):
            for j in range(len(row)):
                left = sum(math.exp(row[k]) for k in range(len(row)) if grade[k] <= grade[j])
                disorder += [math.log(left) - row[j]] * (grade[j] > 0)
        total += sum(disorder) / len(disorder) / 2
    return total + matrix_loss(queries, documents, binary, scale)


def weighted_kappa(pairs):
    """Cohen 1968 with squared weights: 1 - observed / expected disagreement, expected from the margins."""
    n, grades = len(pairs), sorted({grade for pair in pairs for grade in pair})
    observed = expected = 0.0
    for a in grades:
        for b in grades:
            weight = (a - b) ** 2
            observed += weight * sum(pair == (a, b) for pair in pairs) / n
            expected += weight * sum(p[0] == a for p in pairs) / n * sum(p[1] == b for p in pairs) / n
    return 1 - observed / expected


def krippendorff_alpha(grades):
    """Ordinal. grades: a list a judge, None where missing. 1 - mean distance within items / mean distance of all."""
    items = [[row[i] for row in grades if row[i] is not None] for i in range(len(grades[0]))]
    items = [item for item in items if len(item) > 1]
    every = [grade for item in items for grade in item]

    def distance(a, b):
        low, high = min(a, b), max(a, b)
        return (sum(low <= g <= high for g in every) - (every.count(a) + every.count(b)) / 2) ** 2

    within = 0.0
    for item in items:
        within += sum(distance(a, b) for a in item for b in item) / (len(item) - 1)
    overall = sum(distance(a, b) for a in every for b in every) / (len(every) - 1)
    return 1 - within / overall
