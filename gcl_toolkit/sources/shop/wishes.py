"""Queries: what is asked for (a wish), and the phrase that says it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gcl_toolkit.errors import UserError
from gcl_toolkit.sources.shop.catalogue import FACETS, pick
from gcl_toolkit.sources.shop.words import CATEGORIES, GROUPS, MOODS, OCCASIONS

ASKED = {"colour": 0.34, "pattern": 0.22, "material": 0.16, "style": 0.14, "size": 0.08, "brand": 0.06}
"""Facet -> how often queries ask for it, before those of one query are made to differ."""

KINDS = {"category": 0.6, "group": 0.15, "occasion": 0.25}
"""Kind of query -> how often it is drawn: "striped red mug", "red kitchenware", "red gift for coffee lovers"."""

_OF_OCCASIONS = {"colour": 0.45, "pattern": 0.3, "style": 0.25}
_ORDER = ("size", "style", "colour", "pattern", "material")


class Wish(NamedTuple):
    """A query: its words, its kind, the categories that serve it, all that may be listed, and facet -> values asked."""

    text: str
    kind: str
    categories: frozenset[str]
    candidates: frozenset[str]
    asked: dict[str, tuple[str, ...]]


def make_wishes(count: int, rng: np.random.Generator) -> list[Wish]:
    """`count` queries; no two ask for the same thing, in the same words or in others."""
    wishes: dict[tuple, Wish] = {}
    texts: set[str] = set()
    for _ in range(60 * count):
        wish = _wish(rng)
        meaning = (wish.categories, frozenset(wish.asked.items()))
        if meaning not in wishes and wish.text not in texts:
            wishes[meaning] = wish
            texts.add(wish.text)
            if len(wishes) == count:
                return list(wishes.values())
    raise UserError(f"shop: only {len(wishes):,} different queries were found, {count:,} are wanted; ask for fewer")


def _wish(rng: np.random.Generator) -> Wish:
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    shares, attributes = ASKED, int(rng.integers(1, 4))
    if kind == "category":
        category = str(rng.choice(list(CATEGORIES)))
        noun = pick(CATEGORIES[category].nouns, rng.random())
        categories, candidates = frozenset([category]), _group(CATEGORIES[category].group)
    elif kind == "group":
        group = str(rng.choice(list(GROUPS)))
        noun = pick(GROUPS[group], rng.random())
        categories = candidates = _group(group)
    else:
        noun = str(rng.choice(list(OCCASIONS)))
        categories = candidates = frozenset(OCCASIONS[noun])
        shares, attributes = _OF_OCCASIONS, attributes - 1
    asked, said = {}, {}
    for facet in map(str, rng.choice(list(shares), size=attributes, replace=False, p=list(shares.values()))):
        asked[facet], said[facet] = _ask(facet, categories, rng)
    return Wish(_phrase(said, noun, rng), kind, categories, candidates, asked)


def _group(group: str) -> frozenset[str]:
    return frozenset(category for category, word in CATEGORIES.items() if word.group == group)


def _ask(facet: str, categories: frozenset[str], rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    """The values that a query accepts for a facet, and the word that says so."""
    if facet == "colour" and rng.random() < 0.2:
        mood = str(rng.choice(list(MOODS)))
        return MOODS[mood], mood
    known = FACETS[facet]
    if facet == "material":
        known = {m: known[m] for m in sorted({m for c in categories for m in CATEGORIES[c].materials})}
    value = str(rng.choice(list(known)))
    return (value,), pick(known[value], rng.random())


def _phrase(said: dict[str, str], noun: str, rng: np.random.Generator) -> str:
    """ "striped red mug", "mug in red", "shirt made of linen", "mug by nordhem": one of the ways to say it."""
    said = dict(said)
    last = ""
    if said.get("colour", "pastel") not in MOODS and rng.random() < 0.25:
        last = f"in {said.pop('colour')}"
    elif "material" in said and rng.random() < 0.3:
        last = f"made of {said.pop('material')}"
    brand = said.pop("brand", "").lower()
    adjectives = [said[facet] for facet in _ORDER if facet in said]
    if rng.random() < 0.2:
        adjectives = [adjectives[i] for i in rng.permutation(len(adjectives))]
    first, second = (brand, "") if rng.random() < 0.5 else ("", brand and f"by {brand}")
    return " ".join(word for word in (first, *adjectives, noun, second, last) if word)
