"""Where RankedData comes from: one module for each source; `load(name or path)` opens it.

A source is a module with `tables(path, **options) -> {split or "": Tables}` and `recognizes(path)`, or, if it makes its
data, with `load(seed=..., **options) -> {split: RankedData}`; and a line in `SOURCES`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

from gcl_toolkit.data.ranked_data import RankedData, divide, four_way_split, stated_splits
from gcl_toolkit.data.sources.quarantine import without_quarantined
from gcl_toolkit.data.sources.rows import Tables
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.options import join_options, split_options

SOURCES = {
    "shop": "gcl_toolkit.data.sources.shop",
    "beir": "gcl_toolkit.data.sources.beir",
    "marqo_gs": "gcl_toolkit.data.sources.marqo_gs",
    "folder": "gcl_toolkit.data.sources.folder",
    "table": "gcl_toolkit.data.sources.table",
}
"""Name -> module, imported when asked for. The first that recognizes a path reads it; `table` recognizes all."""


def load(source: str | Path, **options) -> dict[str, RankedData]:
    """Open a source by name (`load("shop", seed=0)`) or a file or folder in any known layout (`load("my/table.csv")`).

    The options are those of the source, which can be part of the name, as on the command line
    (`load("marqo_gs:queries=2000,streaming=true")`), `seed`, of random choices, and `quarantine`, a file of
    `gcl data check` that names rows to leave out.
    """
    module, options = resolve(source, options)
    if hasattr(module, "load"):
        return module.load(**options)
    return splits_of(read_tables(module, options), options.get("seed", 0))


def spelt(source: str | Path) -> tuple[str, dict[str, Any]]:
    """A source and the options in its name: ("marqo_gs", {"queries": 2000}) of "marqo_gs:queries=2000"."""
    return (str(source), {}) if Path(source).exists() else split_options(str(source))


def absolute(source: str) -> str:
    """A source as run and study folders store it, so that they can be opened from any folder: with absolute paths."""
    name, options = spelt(source)
    paths = {option: str(Path(options[option]).resolve()) for option in ("images", "quarantine") if option in options}
    is_path = name not in SOURCES and Path(name).exists()
    return join_options(str(Path(name).resolve()) if is_path else name, options | paths)


def resolve(source: str | Path, options: dict[str, Any]) -> tuple[ModuleType, dict[str, Any]]:
    """The module of a source, and all its options, those in its name too; the path is the option `path`."""
    source, written = spelt(source)
    options = written | options
    if source not in SOURCES:
        if not Path(source).exists():
            raise unknown("source or path", source, SOURCES)
        source, options = layout_of(source), {"path": source, **options}
    module = import_module(SOURCES[source])
    known = _option_types(module)
    if "path" not in options and "path" in known and type(None) not in get_args(known["path"]):
        raise UserError(f"source {source} needs a path; give the file or folder itself")
    for option, value in sorted(options.items()):
        if option not in known:
            names = ", ".join(sorted(known.keys() - {"path"}))
            raise UserError(f"source {source} has no option {option!r}; leave it out (known: {names})")
        kinds = get_args(known[option]) or (known[option],)
        wider = {bool: (bool,), int: (int, float), float: (float,), str: (str, Path)}.get(type(value))
        if wider and not {*wider} & {*kinds}:
            expected = " or ".join(kind.__name__ for kind in kinds if kind in (bool, int, float, str, Path))
            raise UserError(f"option {option} of source {source} is {value!r}; {expected} is expected")
    return module, options


def _option_types(module: ModuleType) -> dict[str, Any]:
    """Option -> type: the arguments of the module's `load` or `tables`, and the fields of its dataclass `OPTIONS`."""
    if hasattr(module, "load"):
        known = get_type_hints(module.load) | get_type_hints(getattr(module, "OPTIONS", object))
    else:
        known = get_type_hints(module.tables) | {"seed": int, "quarantine": Path}
    return {name: kind for name, kind in known.items() if name not in ("progress", "return")}


def layout_of(path: str | Path) -> str:
    """The name of the source that reads this file or folder."""
    modules = ((name, import_module(module)) for name, module in SOURCES.items())
    return next(name for name, module in modules if hasattr(module, "recognizes") and module.recognizes(Path(path)))


def read_tables(module: ModuleType, options: dict[str, Any]) -> dict[str, Tables]:
    """What a source reads, not yet checked, without the rows of the quarantine."""
    takes = get_type_hints(module.tables)
    parts = module.tables(**{name: value for name, value in options.items() if name in takes})
    return without_quarantined(parts, options.get("quarantine"))


def splits_of(parts: dict[str, Tables], seed: int = 0) -> dict[str, RankedData]:
    """The splits that a source states, as parts or in the column `split` of the pairs, or else four random ones."""
    if set(parts) == {""}:
        data = parts[""].data()
        return stated_splits(data, seed) if "split" in data.qrels.column_names else four_way_split(data, seed=seed)
    splits = {name: part.data() for name, part in parts.items()}
    return {n: data if "division" in data.queries.column_names else divide(data, seed) for n, data in splits.items()}
