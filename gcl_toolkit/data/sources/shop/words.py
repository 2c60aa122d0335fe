"""The vocabulary of the shop, read from `words.toml`: what a product can be and how titles and queries name it."""

import tomllib
from importlib.resources import files
from typing import Any, NamedTuple

Names = dict[str, tuple[str, ...]]
"""Value -> its names, the plain one first."""


class Word(NamedTuple):
    """A category: its group, the nouns that name it and the materials that it can be made of."""

    group: str
    nouns: tuple[str, ...]
    materials: tuple[str, ...]


def _tuples(value: Any) -> Any:
    """The same value with every list as a tuple, so that values can be keys."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value


WORDS: dict[str, Any] = _tuples(tomllib.loads((files(__package__) / "words.toml").read_text("utf-8")))
CATEGORIES = {category: Word(**entry) for category, entry in WORDS["categories"].items()}
GROUPS: Names = WORDS["groups"]
MOODS: Names = WORDS["moods"]
"""Words that only queries use -> the colours that each accepts."""
OCCASIONS: Names = WORDS["occasions"]
"""What people shop for -> the categories that serve it."""
FILLERS: tuple[str, ...] = WORDS["fillers"]

FACETS: dict[str, Names] = {
    "category": {category: word.nouns for category, word in CATEGORIES.items()},
    **{of: {v: entry["names"] for v, entry in WORDS[f"{of}s"].items()} for of in ("colour", "pattern", "size")},
    "brand": {brand: (brand,) for brand in WORDS["brands"]},
    "material": {m: (m,) for m in sorted({m for word in CATEGORIES.values() for m in word.materials})},
    "style": WORDS["styles"],
    "background": dict.fromkeys(WORDS["backgrounds"], ()),
}
"""Facet -> value -> names."""
