"""Where RankedData comes from: one file a source, `load(name or path)` opens it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

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
        return import_module(SOURCES[str(source)]).load(**options)
    if not Path(source).exists():
        raise unknown("source or path", str(source), SOURCES)
    formats = import_module("gcl_toolkit.formats")
    if formats.is_beir(source):
        for name in sorted(options.keys() - {"seed"}):
            raise UserError(f"{source} was read as BEIR, for which there is no {name}; leave it out")
        return formats.load(source, **options)
    return import_module(SOURCES[layout_of(source)]).load(source, **options)


def layout_of(path: str | Path) -> str:
    """Which source reads this file or folder: "marqo_gs", "folder" (of pictures) or "table"."""
    from gcl_toolkit.sources import folder, marqo_gs

    return "marqo_gs" if marqo_gs.layout(path) else "folder" if folder.is_folder(path) else "table"
