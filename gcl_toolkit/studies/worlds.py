"""Worlds: the data sets of a study, each of which a study folder can open again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from gcl_toolkit.data.ranked_data import RankedData, query_folds
from gcl_toolkit.data.sources import absolute, load, spelt


@dataclass(frozen=True)
class World:
    """A data set in a study: the four splits to train and evaluate on; `judged` replaces their qrels in evaluation
    where the listed pairs are incomplete."""

    name: str
    splits: Mapping[str, RankedData]
    judged: Mapping[str, RankedData] = field(default_factory=dict)
    data_set: str = ""
    """The name of the data set; worlds of one data set (folds) share queries. By default, the world's name."""
    spec: WorldSpec | None = None
    """How to open it again."""

    def __post_init__(self):
        object.__setattr__(self, "data_set", self.data_set or self.name)

    def evaluated(self) -> Mapping[str, RankedData]:
        return self.judged or self.splits


@dataclass(frozen=True)
class WorldSpec:
    """Where a world comes from; written into study.json."""

    name: str
    source: str = "shop"
    """As `load` takes it: a name or path, with options after a colon."""
    complete: tuple[str, ...] = ()
    """Levels, fine to coarse: evaluate on complete grades, rebuilt from the labels beside the data."""
    fold: int = 0
    folds: int = 1
    """Which of how many folds, each with other queries held out."""
    pairs_per_product: float | None = None
    """Train on a sample of the pairs, evaluate on all of them."""

    def open(self) -> World:
        """Read or generate the data."""
        splits = dict(query_folds(_loaded(self.source), self.folds)[self.fold])
        judged: Mapping[str, RankedData] = {}
        if self.complete:
            from gcl_toolkit.data.sources.hierarchy import complete_grades

            judged = complete_grades(splits, spelt(self.source)[0], self.complete)
        if self.pairs_per_product is not None:
            from gcl_toolkit.data.sources.shop import thin

            judged = judged or dict(splits)
            seed = spelt(self.source)[1].get("seed", 0)
            splits["in_domain"] = thin(splits["in_domain"], self.pairs_per_product, seed=seed)
        data_set = self.name.removesuffix(f"-fold{self.fold}") if self.fold else self.name
        return World(self.name, splits, judged, data_set, self)


def specs_of(source: str, folds: int = 1, complete: Sequence[str] = ()) -> list[WorldSpec]:
    """The worlds of one source: itself, and again for each further fold."""
    source = absolute(source)
    name = Path(spelt(source)[0]).name
    suffixes = ["", *(f"-fold{k}" for k in range(1, folds))]
    return [WorldSpec(name + suffix, source, tuple(complete), k, folds) for k, suffix in enumerate(suffixes)]


@lru_cache(maxsize=1)
def _loaded(source: str) -> dict[str, RankedData]:
    """Folds of one source read it once."""
    return load(source)
