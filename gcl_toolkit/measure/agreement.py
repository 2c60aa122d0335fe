"""How far judges agree on grades: quadratic-weighted kappa of two, Krippendorff's alpha of any number.

1 is full agreement, 0 that of grades drawn at random. A table has one row a grade: item, judge, grade.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd


def weighted_kappa(first: Any, second: Any) -> float:
    """Of two lists of grades of the same items (Cohen 1968, squared distances); 1 if all grades are the same one."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    by_chance = np.mean(a**2) + np.mean(b**2) - 2 * a.mean() * b.mean()  # mean squared distance over all pairs
    return float(1 - np.mean((a - b) ** 2) / by_chance) if by_chance > 1e-12 else 1.0


def kappas(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each two judges with common items: first, second, items, kappa."""
    grades = table.pivot(index="item", columns="judge", values="grade")
    rows = []
    for first, second in combinations(grades.columns, 2):
        both = grades[[first, second]].dropna()
        if len(both):
            rows.append((first, second, len(both), weighted_kappa(both[first], both[second])))
    return pd.DataFrame(rows, columns=["first", "second", "items", "kappa"])


def alpha(table: pd.DataFrame) -> float:
    """Krippendorff's alpha (2011) for ordinal grades, any number of judges and missing grades.

    Items with one grade don't count. 1 if all grades are the same one, NaN if no item has two.
    """
    counts_IxG = pd.crosstab(table["item"], table["grade"]).to_numpy(float)
    counts_IxG = counts_IxG[counts_IxG.sum(axis=1) > 1]
    if not len(counts_IxG):
        return np.nan
    shares_IxG = counts_IxG / (counts_IxG.sum(axis=1, keepdims=True) - 1)
    total_G = counts_IxG.sum(axis=0)
    middle_G = np.cumsum(total_G) - total_G / 2  # grades are as far apart as the number of grades between them
    distance_GxG = (middle_G[:, None] - middle_G) ** 2
    observed = (shares_IxG.T @ counts_IxG * distance_GxG).sum()
    expected = (np.outer(total_G, total_G) * distance_GxG).sum() / (total_G.sum() - 1)
    return float(1 - observed / expected) if expected else 1.0
