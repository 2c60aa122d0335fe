"""Recipes: complete settings by name: what runs, how long it takes, and what is expected of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from gcl_toolkit.errors import unknown
from gcl_toolkit.studies.study import StudyConfig
from gcl_toolkit.studies.summary import gain
from gcl_toolkit.studies.worlds import WorldSpec


@dataclass(frozen=True)
class Recipe:
    """A study with its data, its cost and its expected result."""

    command: str
    about: str
    minutes: float
    """On two idle cores."""
    worlds: Sequence[WorldSpec]
    study: StudyConfig = field(default_factory=StudyConfig)
    expected: dict[tuple[str, str, str, str], float] = field(default_factory=dict)
    """(method, control, split, metric) -> the least gain, as a share of the control's value."""

    def missed(self, table: pd.DataFrame) -> list[str]:
        """The expectations that a study's table doesn't meet, a line each; empty when all are met."""
        lines = []
        for (method, control, split, metric), least in self.expected.items():
            difference = gain(table, method, control, split=split, metric=metric)
            if difference.relative < least:
                lines.append(f"{method} over {control}, {split}: {difference}; at least {least:+.0%} is expected")
        return lines


def _shops(count: int) -> list[WorldSpec]:
    return [WorldSpec(f"shop{seed}", f"shop:seed={seed}") for seed in range(count)]


def _sparse_shops(count: int) -> list[WorldSpec]:
    """Trained on MarqoGS's two pairs per product, evaluated on the whole lists."""
    return [WorldSpec(f"sparse{seed}", f"shop:seed={seed}", pairs_per_product=2.0) for seed in range(count)]


_EXPECTED = {
    ("graded", "matrix-noscores", "in_domain", "NDCG@10"): 0.15,
    ("graded", "matrix-noscores", "novel_query", "NDCG@10"): 0.10,
    ("graded", "matrix-noscores", "novel_document", "NDCG@10"): 0.03,
    ("graded", "matrix-noscores", "zero_shot", "NDCG@10"): 0.0,
}
"""Less than measured (docs/RESULTS.md), for one seed."""

RECIPES = {
    "shop": Recipe("gcl demo", "the generated shop, one seed: the demo", 5, _shops(1), expected=_EXPECTED),
    "shop-full": Recipe(
        "gcl demo --recipe shop-full",
        "three shops, three seeds each: the numbers of docs/RESULTS.md",
        40,
        _shops(3),
        StudyConfig(seeds=3),
        _EXPECTED,
    ),
    "shop-sparse": Recipe(
        "gcl demo --recipe shop-sparse",
        "three shops with MarqoGS's two training pairs per product",
        15,
        _sparse_shops(3),
    ),
}


def recipe(name: str) -> Recipe:
    """A recipe by name."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
