"""Where RankedData comes from: one module for each source; `load(name or path)` opens it.

A source is a module with `tables(path, **options) -> {split or "": Tables}` and `recognizes(path)`, or, if it makes its
data, with `load(seed=..., **options) -> {split: RankedData}`; and a line in `SOURCES`.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from gcl_toolkit.data.ranked_data import RankedData, divide, four_way_split, stated_splits
from gcl_toolkit.data.sources.quarantine import without_quarantined
from gcl_toolkit.data.sources.rows import Tables
from gcl_toolkit.data.vectors import with_vectors
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.options import checked, join_options, split_options

SOURCES = {
    "shop": "gcl_toolkit.data.sources.shop",
    "beir": "gcl_toolkit.data.sources.beir",
    "marqo_gs": "gcl_toolkit.data.sources.marqo_gs",
    "sqid": "gcl_toolkit.data.sources.sets:sqid",
    "wands": "gcl_toolkit.data.sources.sets:wands",
    "amazon_eval_100k": "gcl_toolkit.data.sources.sets:amazon_eval_100k",
    "amazon_eval": "gcl_toolkit.data.sources.sets:amazon_eval",
    "google_shopping_eval": "gcl_toolkit.data.sources.sets:google_shopping_eval",
    "folder": "gcl_toolkit.data.sources.folder",
    "table": "gcl_toolkit.data.sources.table",
}
"""Name -> module, or module:name of a set in its `SETS`, imported when asked for. The first that recognizes a path
reads it; `table` recognizes all."""

PATHS = ("images", "path", "quarantine", "vectors")
"""Options that are files or folders; `path` may also be a data set on the hub."""


def load(source: str | Path, **options) -> dict[str, RankedData]:
    """Open a source by name (`load("shop", seed=0)`) or a file or folder in any known layout (`load("my/table.csv")`).

    The options are those of the source, which can be part of the name, as on the command line
    (`load("marqo_gs:queries=2000,fields=title")`), `seed`, of random choices, and `quarantine`, a file of
    `gcl data check` that names rows to leave out, and `vectors`, a folder of `gcl embed` whose vectors become fields.
    """
    module, options = resolve(source, options)
    vectors = options.pop("vectors", None)
    if hasattr(module, "load"):
        splits = module.load(**options)
    else:
        splits = splits_of(read_tables(module, options), options.get("seed", 0))
    return with_vectors(splits, vectors) if vectors else splits


def spelt(source: str | Path) -> tuple[str, dict[str, Any]]:
    """A source and the options in its name: ("marqo_gs", {"queries": 2000}) of "marqo_gs:queries=2000"."""
    return (str(source), {}) if Path(source).exists() else split_options(str(source))


def absolute(source: str) -> str:
    """A source as run and study folders store it, so that they can be opened from any folder: with absolute paths."""
    name, options = spelt(source)
    given = {option: Path(options[option]) for option in PATHS if option in options}
    paths = {option: str(path.resolve()) for option, path in given.items() if option != "path" or path.exists()}
    is_path = name not in SOURCES and Path(name).exists()
    return join_options(str(Path(name).resolve()) if is_path else name, options | paths)


def resolve(source: str | Path, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The module of a source, and all its options, those in its name too; the path is the option `path`."""
    source, written = spelt(source)
    options = written | options
    if source not in SOURCES:
        if not Path(source).exists():
            raise unknown("source or path", source, SOURCES)
        source, options = layout_of(source), {"path": source, **options}
    module = _module(source)
    known = _option_types(module)
    if "path" not in options and "path" in known and type(None) not in get_args(known["path"]):
        raise UserError(f"source {source} needs a path; give the file or folder itself")
    return module, checked(options, known, f"source {source}")


def _module(source: str) -> Any:
    """The module of a source, or the set in a module."""
    module, _, name = SOURCES[source].partition(":")
    return import_module(module).SETS[name] if name else import_module(module)


def _option_types(module: Any) -> dict[str, Any]:
    """Option -> type: the arguments of the module's `load` or `tables`, and the fields of its dataclass `OPTIONS`."""
    if hasattr(module, "load"):
        known = get_type_hints(module.load) | get_type_hints(getattr(module, "OPTIONS", object)) | {"vectors": Path}
    else:
        known = get_type_hints(module.tables) | {"seed": int, "quarantine": Path, "vectors": Path}
    return {name: kind for name, kind in known.items() if name != "return"}


def layout_of(path: str | Path) -> str:
    """The name of the source that reads this file or folder."""
    modules = ((name, _module(name)) for name in SOURCES)
    return next(name for name, module in modules if hasattr(module, "recognizes") and module.recognizes(Path(path)))


def read_tables(module: Any, options: dict[str, Any]) -> dict[str, Tables]:
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
