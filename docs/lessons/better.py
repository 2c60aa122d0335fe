"""Lesson 3: is B really better? Intervals, power, and clicks with position bias."""

from statistics import NormalDist

import numpy as np
from draw import bars, intervals, table

Z = NormalDist().inv_cdf(0.975)


def interval(differences):
    """Mean and 95% interval of per-query differences (normal approximation): mean, low, high."""
    mean = float(differences.mean())
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return mean, mean - Z * error, mean + Z * error


def minimal_detectable_effect(differences, power=0.8, level=0.05):
    """The smallest true difference that this many queries show as significant with this power (Sakai 2018)."""
    z = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return float(z * differences.std(ddof=1) / np.sqrt(len(differences)))


def power(effect, deviation, queries, level=0.05):
    """The probability that the interval excludes 0, on the right side."""
    return 1 - NormalDist().cdf(NormalDist().inv_cdf(1 - level / 2) - effect * np.sqrt(queries) / deviation)


def holm(p_values):
    """Holm's (1979) correction of several p-values, in their order."""
    order, corrected, largest = np.argsort(p_values, kind="stable"), np.empty(len(p_values)), 0.0
    for place, row in enumerate(order):
        largest = max(largest, min(1.0, p_values[row] * (len(p_values) - place)))
        corrected[row] = largest
    return corrected


def propensities(positions, eta):
    """The probability that a visitor looks at a position, 1 / position^eta."""
    return np.arange(1, positions + 1.0) ** -eta


# -- what the page shows -----------------------------------------------------------------------------------------------


def experiments(queries, effect, deviation, seed):
    rng = np.random.default_rng(seed)
    rows = [interval(rng.normal(effect, deviation, queries)) for _ in range(25)]
    right = sum(low > 0 for _, low, _ in rows)
    wrong = sum(high < 0 for _, _, high in rows)
    covers = sum(low <= effect <= high for _, low, high in rows)
    reach = max(0.05, 3.2 * deviation / np.sqrt(queries) + abs(effect))
    words = f"{right} of 25 experiments find B better, {wrong} find it worse; {covers} contain the true difference."
    facts = [("power: the share that would find B better", power(effect, deviation, queries))]
    return intervals(rows, effect, reach) + f"<p>{words}</p>" + bars(facts)


def overlap(correlation, queries, seed):
    """Two systems on the same queries: separate intervals against the paired one."""
    rng = np.random.default_rng(seed)
    query = rng.normal(0, 1, queries)
    own = rng.normal(0, 1, (2, queries))
    a, b = (0.5 + 0.2 * (np.sqrt(correlation) * query + np.sqrt(1 - correlation) * noise) for noise in own)
    b = b - b.mean() + a.mean() + 0.03
    rows = [(name, *(f"{v:.3f}" for v in interval(x))) for name, x in (("A", a), ("B", b), ("B − A, paired", b - a))]
    return table(("", "mean", "low", "high"), rows)


def clicks(eta, impressions, assumed, seed):
    """Four products, shown at positions 1 to 4 in an order that isn't their quality's: clicks and corrected clicks."""
    rng = np.random.default_rng(seed)
    liked = np.array([0.3, 0.5, 0.4, 0.2])
    seen = propensities(4, eta)
    clicked = rng.poisson(impressions * seen * liked)
    rates = clicked / impressions
    corrected = rates / propensities(4, assumed)
    rows = [
        (f"{k + 1}", f"{liked[k]:.2f}", f"{clicked[k]:,}", f"{rates[k]:.3f}", f"{corrected[k]:.3f}") for k in range(4)
    ]
    best = [np.argmax(x) + 1 for x in (liked, rates, corrected)]
    words = f"Liked most: the product at {best[0]}. Most clicked: at {best[1]}. After the correction: at {best[2]}."
    return table(("position", "liked", "clicks", "per impression", "per look"), rows) + f"<p>{words}</p>"
