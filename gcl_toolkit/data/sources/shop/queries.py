"""Queries: what a customer wants, and the phrase that expresses it."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from gcl_toolkit.data.sources.shop.catalogue import ADJECTIVES, pick
from gcl_toolkit.data.sources.shop.words import CATEGORIES, FACETS, GROUPS, MOODS, OCCASIONS
from gcl_toolkit.errors import UserError

KINDS = {"category": 0.6, "group": 0.15, "occasion": 0.25}
"""Kind of query -> its share: "striped red mug", "red kitchenware", "red gift for coffee lovers"."""

WANTED = {"colour": 0.34, "pattern": 0.22, "material": 0.16, "style": 0.14, "size": 0.08, "brand": 0.06}
"""Facet -> probability that an attribute wanted by a query is of this facet; a query wants each facet at most once."""

_BY_OCCASION = {"colour": 0.45, "pattern": 0.3, "style": 0.25}


class Query(NamedTuple):
    """text: its words.  kind: a key of `KINDS`.  categories: those that match.  candidates: those that may be listed.
    wanted: facet -> accepted values."""

    text: str
    kind: str
    categories: frozenset[str]
    candidates: frozenset[str]
    wanted: dict[str, tuple[str, ...]]


def make_queries(count: int, rng: np.random.Generator) -> list[Query]:
    """`count` queries, no two of which have the same text or want the same thing."""
    queries: dict[tuple, Query] = {}
    texts: set[str] = set()
    for _ in range(60 * count):
        query = _query(rng)
        meaning = (query.categories, frozenset(query.wanted.items()))
        if meaning not in queries and query.text not in texts:
            queries[meaning] = query
            texts.add(query.text)
            if len(queries) == count:
                return list(queries.values())
    raise UserError(f"shop: queries={count}, but only {len(queries)} distinct ones could be generated; ask for fewer")


def _query(rng: np.random.Generator) -> Query:
    kind = _choice(rng, KINDS, list(KINDS.values()))
    shares, attributes = WANTED, int(rng.integers(1, 4))
    if kind == "category":
        category = _choice(rng, CATEGORIES)
        noun = pick(CATEGORIES[category].nouns, rng.random())
        categories, candidates = frozenset([category]), _group(CATEGORIES[category].group)
    elif kind == "group":
        group = _choice(rng, GROUPS)
        noun = pick(GROUPS[group], rng.random())
        categories = candidates = _group(group)
    else:
        noun = _choice(rng, OCCASIONS)
        categories = candidates = frozenset(OCCASIONS[noun])
        shares, attributes = _BY_OCCASION, attributes - 1
    wanted, words = {}, {}
    for facet in map(str, rng.choice(list(shares), size=attributes, replace=False, p=list(shares.values()))):
        wanted[facet], words[facet] = _attribute(facet, categories, rng)
    return Query(_phrase(words, noun, rng), kind, categories, candidates, wanted)


def _choice(rng: np.random.Generator, names: Iterable[str], shares: list[float] | None = None) -> str:
    return str(rng.choice(list(names), p=shares))


def _group(group: str) -> frozenset[str]:
    return frozenset(category for category, word in CATEGORIES.items() if word.group == group)


def _attribute(facet: str, categories: frozenset[str], rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    """The values of a facet that a query accepts, and the word for them."""
    if facet == "colour" and rng.random() < 0.2:
        mood = _choice(rng, MOODS)
        return MOODS[mood], mood
    values = FACETS[facet]
    if facet == "material":
        values = {m: values[m] for m in sorted({m for c in categories for m in CATEGORIES[c].materials})}
    value = _choice(rng, values)
    return (value,), pick(values[value], rng.random())


def _phrase(words: dict[str, str], noun: str, rng: np.random.Generator) -> str:
    """One of several wordings: "striped red mug", "mug in red", "shirt made of linen", "mug by nordhem"."""
    words = dict(words)
    last = ""
    if words.get("colour", "pastel") not in MOODS and rng.random() < 0.25:
        last = f"in {words.pop('colour')}"
    elif "material" in words and rng.random() < 0.3:
        last = f"made of {words.pop('material')}"
    brand = words.pop("brand", "").lower()
    adjectives = [words[facet] for facet in ADJECTIVES if facet in words]
    if rng.random() < 0.2:
        adjectives = [adjectives[i] for i in rng.permutation(len(adjectives))]
    first, second = (brand, "") if rng.random() < 0.5 else ("", brand and f"by {brand}")
    return " ".join(word for word in (first, *adjectives, noun, second, last) if word)
