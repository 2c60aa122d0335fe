"""Products: their attributes, which of these the picture and the title show, and the words of the title."""

from dataclasses import dataclass

import numpy as np

from gcl_toolkit.data.sources.shop.draw import Look
from gcl_toolkit.data.sources.shop.words import CATEGORIES, FACETS, FILLERS, GROUPS

PICTURED = ("category", "colour", "pattern", "size", "background")
"""The facets that every picture shows; the others can only be read in the title."""

TITLED = {"category": 0.92, "colour": 0.4, "pattern": 0.35, "size": 0.25, "brand": 0.8, "material": 0.7, "style": 0.6}
"""Facet -> share of the titles that name it. Of titles without their category, half name its group."""

ADJECTIVES = ("size", "style", "colour", "pattern", "material")
"""Facets in the order in which their adjectives are written."""

SOLID = 0.3
"""Share of products without a pattern; the patterns share the rest equally."""


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
    """Categories in equal parts in random order; every other attribute is drawn independently."""
    values = {facet: rng.integers(len(names), size=products) for facet, names in FACETS.items()}
    values["category"] = rng.permutation(np.arange(products) % len(CATEGORIES))
    patterns = list(FACETS["pattern"])
    shares = [SOLID if pattern == "solid" else (1 - SOLID) / (len(patterns) - 1) for pattern in patterns]
    values["pattern"] = rng.choice(len(patterns), size=products, p=shares)
    number = {material: i for i, material in enumerate(FACETS["material"])}
    materials_CxM = np.array([[number[material] for material in word.materials] for word in CATEGORIES.values()])
    values["material"] = materials_CxM[values["category"], rng.integers(materials_CxM.shape[1], size=products)]
    titled = {facet: rng.random(products) < share for facet, share in TITLED.items()}
    titled["background"] = np.zeros(products, bool)
    jitter = rng.uniform(-1, 1, (products, 6))
    choices = rng.random((products, 12))
    titles = [
        _title({f: v[p] for f, v in values.items()}, {f: t[p] for f, t in titled.items()}, choices[p])
        for p in range(products)
    ]
    return Catalogue(values, titled, jitter, titles)


def pick(names: tuple[str, ...], at: float) -> str:
    """A name by a number in [0, 1): the first, plain one in 60% of the cases."""
    others = len(names) - 1
    return names[0] if at < 0.6 or not others else names[1 + int((at - 0.6) / 0.4 * others)]


def _title(values: dict[str, int], titled: dict[str, bool], at: np.ndarray) -> str:
    """The words of one title; `at` holds 12 uniform random numbers."""
    words = {
        facet: pick(list(FACETS[facet].values())[values[facet]], at[i])
        for i, facet in enumerate(TITLED)
        if titled[facet]
    }
    if "category" not in words and at[7] < 0.5:
        words["category"] = pick(GROUPS[list(CATEGORIES.values())[values["category"]].group], at[0])
    noun, brand = words.pop("category", ""), words.pop("brand", "")
    adjectives = [words[facet] for facet in ADJECTIVES if facet in words]
    filler = FILLERS[int(at[8] * len(FILLERS))] if at[9] < 0.6 else ""
    if at[10] < 0.6:
        title = [brand, *adjectives, noun, filler]
    elif at[10] < 0.8:
        title = [noun, *adjectives[::-1], brand and f"by {brand}", filler]
    else:
        title = [filler, brand, noun, "-" if noun and adjectives else "", *adjectives]
    return " ".join(word for word in title if word) or FILLERS[int(at[11] * len(FILLERS))]
