"""Bootstrap intervals, paired comparison of two models, corrections for many comparisons.

The unit is the query. Random numbers are seeded: the same input gives the same results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gcl_toolkit.errors import UserError, counted

KEPT = 1 << 24
"""Numbers of a draw that is kept for other comparisons of the same sizes."""


class Interval(NamedTuple):
    """A mean and the interval around it; `low` and `high` are NaN for a single query."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{short(self.mean)}{between(self.low, self.high)}"


@dataclass(frozen=True)
class Difference:
    """Model a against model b: means, a - b and (a - b) / b with intervals, and a p-value. Prints as one line.

    The relative numbers are NaN if the mean of b or of a resample of it isn't positive; one query has NaN intervals.
    """

    metric: str
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    p_value: float
    queries: int
    seeds: int = 1
    worlds: int = 1

    def __str__(self) -> str:
        ends = "" if np.isnan(self.relative_low) else f" [{self.relative_low:+.1%}, {self.relative_high:+.1%}]"
        p_value = f"p = {short(self.p_value)}" if self.p_value >= 0.001 else "p < .001"
        size = counted(self.queries, "query") + (f" x {self.seeds} seeds" if self.seeds > 1 else "")
        return (
            f"{self.metric} {short(self.mean_a)} vs {short(self.mean_b)}: "
            f"{short(self.difference, '+')}{between(self.low, self.high, '+')}, "
            f"{'' if np.isnan(self.relative) else f'{self.relative:+.1%}{ends}, '}{p_value}, {size}"
            f"{f' in {self.worlds} data sets' if self.worlds > 1 else ''}"
        ).strip()


FEW = 30
"""Queries below which an interval is unreliable."""


def interval(values: Any, *, level: float = 0.95, samples: int = 2000, seed: int = 0) -> Interval:
    """Mean of one value a query, with its bootstrap interval over queries.

    The BCa bootstrap (Efron & Tibshirani 1993, ch. 14) corrects for skew: for 30 reciprocal ranks a 95 % interval
    covers the true mean in 95 % of cases, plain percentiles in 92 %. With fewer than `FEW` queries trust neither.
    """
    values_Q = np.sort(np.asarray(values, float).ravel())  # the result must not depend on their order
    if not len(values_Q) or not np.isfinite(values_Q).all():
        raise UserError(f"interval: got {len(values_Q)} values; expected at least one, all finite")
    mean = float(values_Q.mean())
    means_B = _resampled_means(values_Q[:, None], samples, _Draws(seed))[:, 0]
    below = np.mean([means_B < mean, means_B <= mean])
    bias = NormalDist().inv_cdf(float(np.clip(below, 0.5 / samples, 1 - 0.5 / samples)))
    deviation_Q = values_Q - mean
    spread = (deviation_Q**2).sum() ** 1.5
    skew = (deviation_Q**3).sum() / (6 * spread) if spread else 0.0
    tails = (bias + NormalDist().inv_cdf(q) for q in ((1 - level) / 2, (1 + level) / 2))
    low, high = np.quantile(means_B, [NormalDist().cdf(bias + z / (1 - skew * z)) for z in tails])
    return Interval(mean, float(low), float(high))


def paired(
    a: Any, b: Any, *, shared_seeds: bool = False, level: float = 0.95, samples: int = 5000, seed: int = 0
) -> Difference:
    """Compare model a with model b on the same queries, over one or several seeds and data sets.

    a, b: one metric, indexed by query_id: a Series, or a DataFrame with one column a training seed; or a list of them,
    one a world (an independent data set), whose means are averaged. Rows are matched by query_id; their order
    changes nothing.
    shared_seeds: column i is the same trained model in every world (the worlds are then sets of queries of one data
    set), so that seeds are resampled once for all worlds.
    Interval: percentile bootstrap over queries (the same for both models) and, with several seeds, over seeds, in every
    world separately. The two deviations are drawn independently and added, which counts the interaction of query and
    seed twice (resampling both at once counts it three times, Owen 2007). Few seeds can't show how much seeds matter:
    in the worst case 95 % intervals cover the truth in 80, 88 and 93 % of cases with 2, 3 and 5 seeds (simulated).
    p_value: the two-sided paired randomisation test (Smucker, Allan & Carterette 2007), which flips the signs of the
    per-query differences (means over seeds). It generalises to other queries; only the interval also to other seeds.
    Raises UserError when queries or seeds of a and b differ, naming one.
    """
    pairs = _pairs(a, b)
    draws = _Draws(seed)
    mean_a, mean_b = np.mean([(a_QxS.mean(), b_QxS.mean()) for a_QxS, b_QxS in pairs], axis=0).tolist()
    a_B, b_B = _resampled(pairs, shared_seeds, samples, draws).T
    difference = (mean_a - mean_b, *_percentiles(a_B - b_B, level))
    relative = (np.nan,) * 3
    if mean_b > 0 and not (b_B <= 0).any():
        relative = (mean_a / mean_b - 1, *_percentiles(a_B / b_B - 1, level))
    p_value = _sign_flip([(a_QxS - b_QxS).mean(axis=1) for a_QxS, b_QxS in pairs], samples, draws)
    queries = sum(len(a_QxS) for a_QxS, _ in pairs)
    seeds = pairs[0][0].shape[1]
    return Difference(_metric_of(a), mean_a, mean_b, *difference, *relative, p_value, queries, seeds, len(pairs))


def mean_of(
    values: Any, *, shared_seeds: bool = False, level: float = 0.95, samples: int = 5000, seed: int = 0
) -> Interval:
    """The mean over queries, seeds and worlds, with the interval that `paired` gives for its difference from zero."""
    worlds = [(values_QxS,) for values_QxS, _ in _pairs(values, values)]
    means_B = _resampled(worlds, shared_seeds, samples, _Draws(seed))[:, 0]
    return Interval(float(np.mean([world.mean() for (world,) in worlds])), *_percentiles(means_B, level))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """The p-values of several comparisons, in the same order, corrected for their number (Holm 1979).

    Rejecting those below .05 makes any error at all with a probability of at most 5 %.
    """
    p_N = np.asarray(p_values, float)
    if not ((p_N >= 0) & (p_N <= 1)).all():
        raise UserError(f"holm: p-values must be in 0..1, got {p_N.tolist()}")
    order = np.argsort(p_N, kind="stable")
    corrected_N = np.empty_like(p_N)
    corrected_N[order] = np.maximum.accumulate(p_N[order] * np.arange(len(p_N), 0, -1)).clip(max=1)
    return corrected_N


def minimal_detectable_effect(differences: Any, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest true mean difference that this many queries would show as significant (two-sided) with this power.

    (z(1 - level/2) + z(power)) * sd / sqrt(Q), the normal approximation (Sakai 2018), from the per-query differences
    of a pilot. A comparison without a significant result only excludes larger effects.
    """
    differences_Q = np.asarray(differences, float).ravel()
    if len(differences_Q) < 2 or not np.isfinite(differences_Q).all():
        raise UserError(
            f"minimal_detectable_effect: got {len(differences_Q)} differences; expected two or more, all finite"
        )
    z = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return float(z * differences_Q.std(ddof=1) / np.sqrt(len(differences_Q)))


def _pairs(a: Any, b: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """(a, b) of each world as Q x S arrays with the same rows and columns."""
    a_worlds, b_worlds = (list(x) if isinstance(x, (list, tuple)) else [x] for x in (a, b))
    if len(a_worlds) != len(b_worlds) or not a_worlds:
        raise UserError(f"paired: a has {len(a_worlds)} worlds, b has {len(b_worlds)}; give both the same")
    for world in (*a_worlds, *b_worlds):
        if not isinstance(world, pd.Series | pd.DataFrame | np.ndarray):
            kind = type(world).__name__
            raise UserError(f"paired: got a {kind}; give a Series or DataFrame by query_id, or a list of them")
    pairs = [_aligned(pd.DataFrame(x), pd.DataFrame(y)) for x, y in zip(a_worlds, b_worlds, strict=True)]
    seeds = sorted({a_QxS.shape[1] for a_QxS, _ in pairs})
    if len(seeds) > 1:
        raise UserError(f"paired: the worlds have {seeds} seeds; give every world the same number")
    return pairs


def _aligned(a: pd.DataFrame, b: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Both as Q x S arrays with rows and columns in the same order."""
    for side, table in (("a", a), ("b", b)):
        if not len(table):
            raise UserError(f"paired: {side} has no queries; give at least one")
        if table.index.has_duplicates:
            query = table.index[table.index.duplicated()][0]
            raise UserError(f"paired: query {query!r} appears twice in {side}; give one row a query")
        if table.columns.nunique() > 1 and any(isinstance(column, str) for column in table.columns):
            columns = ", ".join(map(str, table.columns[:3]))
            raise UserError(f"paired: {side} has columns {columns}, but they must be seeds; give one metric at a time")
        bad = ~np.isfinite(table.to_numpy(float)).all(axis=1)
        if bad.any():
            raise UserError(f"paired: query {table.index[bad][0]!r} of {side} has no finite value; drop it from both")
    for side, own, other in (("a", a.index, b.index), ("b", b.index, a.index)):
        if not own.equals(other) and len(missing := other.difference(own)):
            count = f"{len(missing):,} in all"
            raise UserError(f"paired: query {missing[0]!r} is missing in {side} ({count}); compare the same queries")
    if a.shape[1] != b.shape[1] or (a.shape[1] > 1 and list(a.columns) != list(b.columns)):
        raise UserError(f"paired: a has seeds {list(a.columns)}, b has {list(b.columns)}; give both the same")
    # the draws are by row: sorted by query_id, the result doesn't depend on the order of the tables
    labels = a.index if a.index.dtype.kind in "iuf" else a.index.astype(str)
    if not (labels.is_monotonic_increasing and a.index.equals(b.index)):
        ids = a.index[labels.argsort()]
        a, b = a.loc[ids], b.loc[ids]
    return np.ascontiguousarray(a, float), np.ascontiguousarray(b, float)


def _metric_of(a: Any) -> str:
    """The name of a Series, or the one name of all columns of a DataFrame (of the first world)."""
    a = a[0] if isinstance(a, (list, tuple)) else a
    names = {str(name) for name in pd.DataFrame(a).columns if isinstance(name, str)}
    return names.pop() if len(names) == 1 else ""


def _resampled(worlds: Sequence[tuple[np.ndarray, ...]], shared_seeds: bool, samples: int, draws: _Draws) -> np.ndarray:
    """samples x models: means of each model over the same resampled queries and seeds, averaged over worlds."""
    by_query = [np.stack([x_QxS.mean(axis=1) for x_QxS in world], axis=1) for world in worlds]
    means_BxM = np.mean([_resampled_means(world_QxM, samples, draws) for world_QxM in by_query], axis=0)
    by_seed = [np.stack([x_QxS.mean(axis=0) for x_QxS in world], axis=1) for world in worlds]
    if len(by_seed[0]) == 1:
        return means_BxM
    by_seed = [np.mean(by_seed, axis=0)] if shared_seeds else by_seed
    drawn_BxM = [_resampled_means(world_SxM, samples, draws) - world_SxM.mean(axis=0) for world_SxM in by_seed]
    return means_BxM + np.mean(drawn_BxM, axis=0)


def _resampled_means(values_NxC: np.ndarray, samples: int, draws: _Draws) -> np.ndarray:
    """samples x C: the mean of each column over N - 1 rows drawn with replacement; NaN if there is one row only.

    N - 1 draws, not N, make the variance of the mean unbiased (McCarthy & Snowden 1985), which matters for 3 seeds.
    """
    rows = len(values_NxC)
    if rows == 1:
        return np.full((samples, values_NxC.shape[1]), np.nan)
    sums = [counts_BxN.astype(float) @ values_NxC for counts_BxN in draws.of("rows", rows, samples)]
    return np.concatenate(sums) / (rows - 1)


def _sign_flip(differences: list[np.ndarray], samples: int, draws: _Draws) -> float:
    """P-value of the mean over worlds of the mean difference, when signs are flipped at random."""
    difference_Q = np.concatenate([world / (len(world) * len(differences)) for world in differences])
    observed, as_large = abs(difference_Q.sum()), 0
    for flips_BxQ in draws.of("signs", len(difference_Q), samples):
        as_large += int((np.abs((2.0 * flips_BxQ - 1) @ difference_Q) >= observed * (1 - 1e-9)).sum())
    return (1 + as_large) / (1 + samples)


class _Draws:
    """The random draws of a seed, in order. A study compares many methods and metrics on the same queries: draws of
    the same sizes in the same order are made once."""

    def __init__(self, seed: int):
        self.seed = seed
        self.requests: tuple[tuple[str, int, int], ...] = ()
        self.rng: np.random.Generator | None = None

    def of(self, kind: str, width: int, samples: int) -> Iterator[np.ndarray]:
        """samples x width in blocks: how often each row is drawn ("rows"), or 0 and 1 ("signs")."""
        if self.rng is None and width * samples <= KEPT:
            self.requests += ((kind, width, samples),)
            yield _drawn(self.seed, self.requests)[0]
            return
        if self.rng is None:
            self.rng = np.random.default_rng(self.seed)
            if self.requests:
                self.rng.bit_generator.state = _drawn(self.seed, self.requests)[1]
        for block in _blocks(samples, width):
            yield _draw(self.rng, kind, width, block)


@lru_cache(maxsize=64)  # a comparison on a dozen slices takes three draws for each
def _drawn(seed: int, requests: tuple[tuple[str, int, int], ...]) -> tuple[np.ndarray, Any]:
    """The draw of the last request, and the generator's state after it."""
    *before, (kind, width, samples) = requests
    rng = np.random.default_rng(seed)
    if before:
        rng.bit_generator.state = _drawn(seed, tuple(before))[1]
    drawn = np.concatenate([_draw(rng, kind, width, block) for block in _blocks(samples, width)])
    return drawn, rng.bit_generator.state


def _draw(rng: np.random.Generator, kind: str, width: int, samples: int) -> np.ndarray:
    if kind == "signs":
        return rng.integers(0, 2, size=(samples, width), dtype=np.int8)
    return rng.multinomial(width - 1, np.full(width, 1 / width), size=samples).astype(np.int16)


def _blocks(samples: int, width: int) -> Iterator[int]:
    """Split the samples so that a block of samples x width takes about 32 MB."""
    block = max(1, 2**22 // width)
    for start in range(0, samples, block):
        yield min(block, samples - start)


def _percentiles(values_B: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def between(low: float, high: float, sign: str = "") -> str:
    """An interval after a space, " [.412, .428]"; "" where there is none, as for a single query."""
    return "" if np.isnan([low, high]).any() else f" [{short(low, sign)}, {short(high, sign)}]"


def short(value: float, sign: str = "") -> str:
    """Three decimals without the leading zero: .412, -.014; with sign="+" also +.014."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.3f}"
