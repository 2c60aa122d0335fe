"""Where RankedData comes from: one file a source, `load(name or path)` opens it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

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

    The options are those of the source's own `load`; simple ones may stand in the name, as the command line has them:
    `load("marqo_gs:queries=2000,streaming=true")`.
    """
    source, said = spelt(source)
    options = said | options
    if source in SOURCES:
        return _source(source, options).load(**options)
    if not Path(source).exists():
        raise unknown("source or path", source, SOURCES)
    formats = import_module("gcl_toolkit.formats")
    if formats.is_beir(source):
        for name in sorted(options.keys() - {"seed"}):
            raise UserError(f"{source} was read as BEIR, for which there is no {name}; leave it out")
        return formats.load(source, **options)
    return _source(layout_of(source), options).load(source, **options)


def spelt(source: str | Path) -> tuple[str, dict[str, Any]]:
    """A source, and the options in its name: ("marqo_gs", {"queries": 2000}) of "marqo_gs:queries=2000"."""
    name, _, said = str(source).rpartition(":")
    if not name or "=" not in said or Path(source).exists():
        return str(source), {}
    parts = [part.partition("=") for part in said.split(",")]
    for key, equals, value in parts:
        if not (key.isidentifier() and equals and value):
            raise UserError(f"{source}: {key + equals + value!r} is no option; name=value,name=value is expected")
        if sum(key == other for other, *_ in parts) > 1:
            raise UserError(f"{source}: option {key!r} stands there twice; once is expected")
    return name, {key: _value(value) for key, _, value in parts}


def _value(said: str) -> Any:
    if said in ("true", "false"):
        return said == "true"
    for number in (int, float):
        try:
            return number(said)
        except ValueError:
            pass
    return said


WIDER: dict[type, tuple[type, ...]] = {bool: (), int: (float,), float: (), str: (Path,)}
"""Types that a name can spell, and what else may be made of them."""


def _source(name: str, options: dict) -> ModuleType:
    """The module of a source, which must have these options."""
    module = import_module(SOURCES[name])
    takers = [getattr(module, taker) for taker in ("load", "tables", "ShopConfig") if hasattr(module, taker)]
    known = {option: hint for taker in takers for option, hint in get_type_hints(taker).items()}
    names = sorted(known.keys() - {"path", "options", "config", "return"})
    for option, value in sorted(options.items()):
        if option not in (*names, "path"):
            raise UserError(f"source {name} has no option {option!r}; leave it out (known: {', '.join(names)})")
        kinds = get_args(known[option]) or (known[option],)
        if type(value) in WIDER and not {type(value), *WIDER[type(value)]} & {*kinds}:
            told = " or ".join(kind.__name__ for kind in kinds if kind in WIDER)
            raise UserError(f"option {option} of source {name} is {value!r}; {told} is expected")
    return module


def layout_of(path: str | Path) -> str:
    """Which source reads this file or folder: "marqo_gs", "folder" (of pictures) or "table"."""
    from gcl_toolkit.sources import folder, marqo_gs

    return "marqo_gs" if marqo_gs.layout(path) else "folder" if folder.is_folder(path) else "table"
