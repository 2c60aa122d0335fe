"""Products: their attributes, what of these the picture and the title show, and the words of the title."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcl_toolkit.sources.shop.draw import Look
from gcl_toolkit.sources.shop.words import (
    BACKGROUNDS,
    BRANDS,
    CATEGORIES,
    COLOURS,
    FILLERS,
    GROUPS,
    MATERIALS,
    PATTERNS,
    SIZES,
    STYLES,
    Names,
)

FACETS: dict[str, Names] = {
    "category": {category: word.nouns for category, word in CATEGORIES.items()},
    "colour": COLOURS,
    "pattern": PATTERNS,
    "size": SIZES,
    "brand": BRANDS,
    "material": MATERIALS,
    "style": STYLES,
    "background": dict.fromkeys(BACKGROUNDS, ()),
}
"""Facet -> value -> names."""

PICTURED = ("category", "colour", "pattern", "size", "background")
"""The facets that every picture shows; the others can only be read in the title."""

TITLED = {"category": 0.92, "colour": 0.4, "pattern": 0.35, "size": 0.25, "brand": 0.8, "material": 0.7, "style": 0.6}
"""Facet -> how often the title names it. Without its category a title names the group, or nothing of the kind."""

_PATTERN_SHARE = {"solid": 0.3}  # the other patterns share the rest
_JITTER = 6


@dataclass(frozen=True)
class Catalogue:
    """P products as value numbers (`values[facet]` indexes the keys of `FACETS[facet]`) and as titles.

    titled: facet -> (P,) bool, whether the title names it.  jitter: (P, 6) in [-1, 1], see `draw.Look`.
    """

    values: dict[str, np.ndarray]
    titled: dict[str, np.ndarray]
    jitter: np.ndarray
    titles: list[str]

    def __len__(self) -> int:
        return len(self.titles)

    def look(self, product: int) -> Look:
        names = (list(FACETS[facet])[self.values[facet][product]] for facet in PICTURED)
        return Look(*names, *map(float, self.jitter[product]))

    def shows(self, facet: str) -> np.ndarray:
        """(P, values of the facet) 0/1: what a customer, or a model, can see in the picture or read in the title."""
        shown = np.eye(len(FACETS[facet]), dtype=np.float32)[self.values[facet]]
        return shown if facet in PICTURED else shown * self.titled[facet][:, None]


def make_catalogue(products: int, rng: np.random.Generator) -> Catalogue:
    """Categories in equal parts in random order; every other attribute drawn independently."""
    values = {facet: rng.integers(len(names), size=products) for facet, names in FACETS.items()}
    values["category"] = rng.permutation(np.arange(products) % len(CATEGORIES))
    values["pattern"] = rng.choice(len(PATTERNS), size=products, p=_pattern_shares())
    values["material"] = _material_of(values["category"], rng)
    titled = {facet: rng.random(products) < share for facet, share in TITLED.items()}
    titled["background"] = np.zeros(products, bool)
    jitter = rng.uniform(-1, 1, (products, _JITTER))
    choices = rng.random((products, 12))
    titles = [
        _title({f: v[p] for f, v in values.items()}, {f: t[p] for f, t in titled.items()}, choices[p])
        for p in range(products)
    ]
    return Catalogue(values, titled, jitter, titles)


def pick(names: tuple[str, ...], at: float) -> str:
    """A name by a number in [0, 1); the first, plain one in 60% of the cases."""
    others = len(names) - 1
    return names[0] if at < 0.6 or not others else names[1 + int((at - 0.6) / 0.4 * others)]


def _title(values: dict[str, int], titled: dict[str, bool], at: np.ndarray) -> str:
    """The words of one title; `at` are 12 uniform numbers."""
    said = {
        facet: pick(list(FACETS[facet].values())[values[facet]], at[i])
        for i, facet in enumerate(TITLED)
        if titled[facet]
    }
    if "category" not in said and at[7] < 0.5:
        said["category"] = pick(GROUPS[list(CATEGORIES.values())[values["category"]].group], at[0])
    noun = said.pop("category", "")
    brand = said.pop("brand", "")
    adjectives = [said[facet] for facet in ("size", "style", "colour", "pattern", "material") if facet in said]
    filler = FILLERS[int(at[8] * len(FILLERS))] if at[9] < 0.6 else ""
    if at[10] < 0.6:
        words = [brand, *adjectives, noun, filler]
    elif at[10] < 0.8:
        words = [noun, *adjectives[::-1], brand and f"by {brand}", filler]
    else:
        words = [filler, brand, noun, "-" if noun and adjectives else "", *adjectives]
    title = " ".join(word for word in words if word)
    return title or FILLERS[int(at[11] * len(FILLERS))]


def _pattern_shares() -> np.ndarray:
    rest = (1 - sum(_PATTERN_SHARE.values())) / (len(PATTERNS) - len(_PATTERN_SHARE))
    return np.array([_PATTERN_SHARE.get(pattern, rest) for pattern in PATTERNS])


def _material_of(category_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    number = {material: i for i, material in enumerate(MATERIALS)}
    of_category = np.array([[number[m] for m in word.materials] for word in CATEGORIES.values()])
    return of_category[category_P, rng.integers(of_category.shape[1], size=len(category_P))]
