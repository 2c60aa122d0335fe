"""Does a corrected interval hold the truth? A biased judge alone, people alone, and the judge corrected by people.

    python benchmarks/ppi.py

Two systems rank 60 products for each of 20,000 queries. NDCG@10 by true grades is what people would find; the judge
grades the same pooled products with errors. Studies of 1,000 queries are drawn, of which some are judged by people.
Printed for each: the share of 95% intervals that hold the true difference, and the mean width. Seeded; a minute.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from gcl_toolkit.data.ranked_data import Pairs
from gcl_toolkit.measure.metrics import NDCG
from gcl_toolkit.measure.ppi import corrected_mean
from gcl_toolkit.measure.verdict import Lists

POPULATION, PRODUCTS, QUERIES, STUDIES = 20_000, 60, 1_000, 1_000
JUDGES = ("generous to A", "noisy", "random", "perfect")


def population(queries: int = POPULATION, seed: int = 0) -> dict[str, np.ndarray]:
    """Differences of NDCG@10, A - B: "people", and by each judge's grades of the products pooled to rank 10."""
    rng = np.random.default_rng(seed)
    difficulty = rng.uniform(0.5, 1.5, (queries, 1))
    utility = rng.normal(size=(queries, PRODUCTS)) - difficulty
    true = np.clip(np.floor(2 * utility + 1), 0, 4)
    ranked = {
        name: np.argsort(-(utility + noise * rng.normal(size=utility.shape)), axis=1)[:, :10].astype(np.int32)
        for name, noise in (("A", 0.72), ("B", 0.75))
    }
    shown = np.zeros((2, queries, PRODUCTS), bool)
    for side, products in enumerate(ranked.values()):
        np.put_along_axis(shown[side], products, True, axis=1)
    only_a = shown[0] & ~shown[1]
    noise = rng.integers(-1, 2, true.shape) * (rng.random(true.shape) < 0.5)
    graded = {
        "people": true,
        "generous to A": np.clip(true + noise + (only_a & (rng.random(true.shape) < 0.5)), 0, 4),
        "noisy": np.clip(true + noise + (rng.random(true.shape) < 0.3) * rng.integers(0, 3, true.shape), 0, 4),
        "random": rng.integers(0, 5, true.shape).astype(float),
        "perfect": true,
    }
    query, product = np.nonzero(shown.any(axis=0))
    ids, differences = range(queries), {}
    for name, grades in graded.items():
        lists = Lists(ids, *Pairs(query, product, grades[query, product]), ranked)
        a, b = (lists.measured(ranked[system], NDCG @ 10).to_numpy() for system in "AB")
        differences[name] = a - b
    return differences


def normal(values: np.ndarray) -> tuple[float, float]:
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


def bootstrap(judge: np.ndarray, human: np.ndarray, rng: np.random.Generator, samples: int = 400) -> np.ndarray:
    """Percentiles, the labelled (first) and the other queries resampled, the slope estimated each time."""
    n, count = len(human), len(judge)
    own, other = rng.integers(0, n, (samples, n)), rng.integers(n, count, (samples, count - n))
    f, y = judge[own], human[own]
    centred = f - f.mean(axis=1, keepdims=True)
    slope = (centred * y).sum(axis=1) / (centred**2).sum(axis=1)
    every = (f.sum(axis=1) + judge[other].sum(axis=1)) / count
    return np.quantile(y.mean(axis=1) + slope * (every - f.mean(axis=1)), [0.025, 0.975])


def study(
    people: np.ndarray,
    judge: np.ndarray,
    labelled: int,
    rng: np.random.Generator,
    chosen: bool = False,
    boot: bool = True,
) -> dict[str, tuple[float, float]]:
    """The intervals of one study. chosen: people judge queries that are favourable to A, instead of random ones."""
    rows = rng.integers(0, len(people), QUERIES)
    if chosen:
        rows = rows[np.argsort(-people[rows] + 0.5 * rng.normal(size=QUERIES))]
    f, y = pd.Series(judge[rows]), pd.Series(people[rows[:labelled]])
    found = corrected_mean(f, y)
    intervals = {"judge alone": normal(judge[rows]), "people alone": normal(y.to_numpy())}
    intervals["corrected"] = found.low, found.high
    if boot:
        intervals["bootstrap"] = tuple(bootstrap(judge[rows], y.to_numpy(), rng))
    return intervals


def coverage(people, judge, labelled: int, studies: int, seed: int = 0, **options) -> pd.DataFrame:
    """A row a kind of interval: the share that holds the mean of `people`, and the mean width."""
    rng, truth = np.random.default_rng(seed), people.mean()
    drawn = [study(people, judge, labelled, rng, **options) for _ in range(studies)]
    rows = {}
    for kind in drawn[0]:
        low, high = np.array([intervals[kind] for intervals in drawn]).T
        rows[kind] = {"covers": float(((low <= truth) & (truth <= high)).mean()), "width": float((high - low).mean())}
    return pd.DataFrame.from_dict(rows, orient="index")


def main() -> None:
    found = population()
    people = found.pop("people")
    print(f"true difference {people.mean():+.4f}; {STUDIES} studies of {QUERIES} queries, 95% intervals")
    for name, judge in found.items():
        print(f"\njudge {name}: difference {judge.mean():+.4f}, correlation {np.corrcoef(people, judge)[0, 1]:.2f}")
        for labelled in (30, 50, 100, 200):
            table = coverage(people, judge, labelled, STUDIES, boot=labelled <= 50)
            cells = (f"{kind} {row.covers:.1%} ({row.width:.4f})" for kind, row in table.iterrows())
            print(f"  {labelled:>3} by people: {'; '.join(cells)}")
    table = coverage(people, found["generous to A"], 100, STUDIES, chosen=True, boot=False)
    print(f"\n100 queries chosen for A instead of random ones: corrected {table['covers']['corrected']:.1%}")


if __name__ == "__main__":
    main()
