"""Where RankedData comes from: one file a source, `load(name)` opens it."""

from __future__ import annotations

from importlib import import_module

from gcl_toolkit.errors import unknown
from gcl_toolkit.ranked_data import RankedData

SOURCES = {"shop": "gcl_toolkit.sources.shop", "marqo_gs": "gcl_toolkit.sources.marqo_gs"}
"""Name -> module with a `load(**options) -> {"in_domain": RankedData, ...}`; imported when asked for."""


def load(name: str, **options) -> dict[str, RankedData]:
    """Open a source by name; the options are those of its own `load` (`load("shop", seed=0)`)."""
    if name not in SOURCES:
        raise unknown("source", name, SOURCES)
    return import_module(SOURCES[name]).load(**options)
