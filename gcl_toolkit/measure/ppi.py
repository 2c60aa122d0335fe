"""Prediction-powered inference: a language model's grades for all queries, corrected by human grades for some.

A judge alone gives a narrow interval around a wrong number. Here every query has a metric by the judge's grades (f),
and a *random sample* of the queries has it by human grades of all pooled products, too (y). The mean of y over all
queries is estimated as mean(y) + slope (mean(f) over all - mean(f) over the sample) (Angelopoulos et al. 2023,
"Prediction-powered inference"; the slope is the power tuning of PPI++, Angelopoulos, Duchi & Zrnic 2023). Whatever the
judge's errors, the estimate is right on average. A judge that orders queries as people do makes it precise; one that
doesn't gets a slope near 0, which leaves the human grades alone.

The sample must be random, for example the first queries of `random_order`. A sample that was chosen, or of the queries
that happen to be judged in full, gives intervals that miss the truth (benchmarks/ppi.py).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from gcl_toolkit.data.ranked_data import hash64
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.statistics import Difference

LEAST = 10
"""Human-judged queries that an estimate needs; 30 and more are advisable."""


def random_order(query_ids: Iterable[str]) -> np.ndarray:
    """Rows of the queries in a random order that depends on the ids alone: people grade them in this order."""
    return np.argsort([hash64(str(query)) for query in query_ids], kind="stable")


class Estimate(NamedTuple):
    """A corrected mean with its interval, and what its variance consists of: residual / human + judge."""

    mean: float
    low: float
    high: float
    p_value: float
    slope: float
    human: int
    residual: float
    judge: float


def corrected_mean(judge: pd.Series, human: pd.Series, *, level: float = 0.95) -> Estimate:
    """The mean over all queries of a metric by human grades.

    judge: the metric by the judge's grades, for all queries by query_id. human: by human grades, for a random sample of
    them. The slope is that of the regression of human on judge; interval and p-value (of a mean of 0) are Student's
    with n - 2 degrees of freedom (the regression estimator of double sampling, Cochran 1977, section 12.6), which cover
    better than a bootstrap with 30 queries. Both are about further queries like these, as those of `paired`.
    Raises UserError for fewer than `LEAST` human-judged queries, or one that the judge didn't judge.
    """
    from scipy.special import stdtr, stdtrit

    absent = human.index.difference(judge.index)
    if len(absent):
        raise UserError(f"query {absent[0]!r} has human grades and none of the judge; let the judge grade it, too")
    y_n, f_n, f_N = human.to_numpy(float), judge.loc[human.index].to_numpy(float), judge.to_numpy(float)
    n = len(y_n)
    if n < LEAST:
        raise UserError(f"{n} human-judged queries; a judge can be corrected from {LEAST}, better 30, drawn at random")
    spread = ((f_n - f_n.mean()) ** 2).sum()
    slope = float(((f_n - f_n.mean()) * (y_n - y_n.mean())).sum() / spread) if spread > 1e-12 else 0.0
    shift = f_N.mean() - f_n.mean()
    residual = float(((y_n - slope * f_n - (y_n - slope * f_n).mean()) ** 2).sum() / (n - 2))
    leverage = residual * shift**2 / spread if spread > 1e-12 else 0.0
    of_judge = float(slope**2 * f_N.var(ddof=1) / len(f_N) + leverage)
    mean, error = float(y_n.mean() + slope * shift), float(np.sqrt(residual / n + of_judge))
    half = error * stdtrit(n - 2, (1 + level) / 2)
    p_value = float(2 * stdtr(n - 2, -abs(mean) / error)) if error > 0 else float(mean == 0)
    return Estimate(mean, mean - half, mean + half, p_value, slope, n, residual, of_judge)


def corrected(
    judge: Sequence[pd.Series], human: Sequence[pd.Series], *, level: float = 0.95
) -> tuple[Difference, Estimate]:
    """System a against b, each (a, b) as for `corrected_mean`: the `Difference` over all queries, and its estimate.

    The means of a and b use the slope of their difference. Relative numbers are NaN.
    """
    found = corrected_mean(judge[0] - judge[1], human[0] - human[1], level=level)
    a, b = (
        float(y.mean() + found.slope * (f.mean() - f.loc[y.index].mean())) for f, y in zip(judge, human, strict=True)
    )
    interval = (found.mean, found.low, found.high)
    return Difference(str(judge[0].name), a, b, *interval, *(np.nan,) * 3, found.p_value, len(judge[0])), found
