"""Where RankedData comes from: one file a source, `load(name or path)` opens it."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType

from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.ranked_data import RankedData

SOURCES = {
    "shop": "gcl_toolkit.sources.shop",
    "marqo_gs": "gcl_toolkit.sources.marqo_gs",
    "table": "gcl_toolkit.sources.table",
    "folder": "gcl_toolkit.sources.folder",
}
"""Name -> module with a `load(**options) -> {"in_domain": RankedData, ...}`; imported when asked for."""


def load(source: str | Path, **options) -> dict[str, RankedData]:
    """Open a source by name (`load("shop", seed=0)`) or a file or folder in any known layout (`load("my/table.csv")`).

    The options are those of the source's own `load`.
    """
    if str(source) in SOURCES:
        return _source(str(source), options).load(**options)
    if not Path(source).exists():
        raise unknown("source or path", str(source), SOURCES)
    formats = import_module("gcl_toolkit.formats")
    if formats.is_beir(source):
        for name in sorted(options.keys() - {"seed"}):
            raise UserError(f"{source} was read as BEIR, for which there is no {name}; leave it out")
        return formats.load(source, **options)
    return _source(layout_of(source), options).load(source, **options)


def _source(name: str, options: dict) -> ModuleType:
    """The module of a source, which must have these options."""
    module = import_module(SOURCES[name])
    takers = [getattr(module, taker) for taker in ("load", "tables", "ShopConfig") if hasattr(module, taker)]
    known = {option for taker in takers for option in signature(taker).parameters} - {"path", "options", "config"}
    for option in sorted(options.keys() - known - {"path"}):
        raise UserError(f"source {name} has no option {option!r}; leave it out (known: {', '.join(sorted(known))})")
    return module


def layout_of(path: str | Path) -> str:
    """Which source reads this file or folder: "marqo_gs", "folder" (of pictures) or "table"."""
    from gcl_toolkit.sources import folder, marqo_gs

    return "marqo_gs" if marqo_gs.layout(path) else "folder" if folder.is_folder(path) else "table"
