"""Named complete settings: what runs, how long it takes, and what is expected to come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from gcl_toolkit.errors import unknown
from gcl_toolkit.sources import load
from gcl_toolkit.sources.shop import thin
from gcl_toolkit.study import StudyConfig, World
from gcl_toolkit.summary import gain


@dataclass(frozen=True)
class Recipe:
    """A study with its data, its price and its promise. `expected`: (method, control, split, metric) -> the least gain
    (share of the control's value); a run says whether it kept that."""

    command: str
    about: str
    minutes: float
    """On two idle cores."""
    worlds: Callable[[], Sequence[World]]
    study: StudyConfig = field(default_factory=StudyConfig)
    expected: dict[tuple[str, str, str, str], float] = field(default_factory=dict)

    def broken_promises(self, table: pd.DataFrame) -> list[str]:
        """What a study's table shows less of than `expected`, a line each; empty when all came out as promised."""
        broken = []
        for (method, control, split, metric), least in self.expected.items():
            found = gain(table, method, control, split=split, metric=metric)
            if found.relative < least:
                broken.append(f"{method} over {control}, {split}: {found}; at least {least:+.0%} is expected")
        return broken


def _shops(seeds: int) -> Callable[[], list[World]]:
    return lambda: [World(f"shop{seed}", load("shop", seed=seed)) for seed in range(seeds)]


def _sparse_shops(seeds: int) -> Callable[[], list[World]]:
    """Trained on 2 pairs per product, judged by the whole lists."""

    def worlds() -> list[World]:
        whole = [load("shop", seed=seed) for seed in range(seeds)]
        return [
            World(f"sparse{seed}", {**splits, "in_domain": thin(splits["in_domain"], seed=seed)}, splits)
            for seed, splits in enumerate(whole)
        ]

    return worlds


_FAIR = {
    ("gcl-matrix", "binary-matrix", "in_domain", "NDCG@10"): 0.15,
    ("gcl-matrix", "binary-matrix", "novel_query", "NDCG@10"): 0.10,
    ("gcl-matrix", "binary-matrix", "novel_document", "NDCG@10"): 0.03,
    ("gcl-matrix", "binary-matrix", "zero_shot", "NDCG@10"): 0.0,
}
"""Less than measured (docs/RESULTS.md), for one seed."""

RECIPES = {
    "shop": Recipe(
        "gcl demo",
        "the generated shop, one seed: the demo",
        5,
        _shops(1),
        expected=_FAIR,
    ),
    "shop-full": Recipe(
        "gcl demo --recipe shop-full",
        "three shops, three seeds each: the numbers of the README",
        40,
        _shops(3),
        StudyConfig(seeds=3),
        _FAIR,
    ),
    "shop-sparse": Recipe(
        "gcl demo --recipe shop-sparse",
        "three shops with MarqoGS's 2 training pairs per product",
        15,
        _sparse_shops(3),
    ),
}


def recipe(name: str) -> Recipe:
    """A recipe by name."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
