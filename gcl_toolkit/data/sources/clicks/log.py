"""An interaction log, cleaned and added up: without bots, repeats counted once, old clicks weighted down."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl_toolkit.data.columns import as_text
from gcl_toolkit.data.propensity import Cells
from gcl_toolkit.data.ranked_data import normalise_text
from gcl_toolkit.data.sources.clicks import ubi
from gcl_toolkit.data.sources.clicks.ubi import Ubi
from gcl_toolkit.data.tabular import open_file, place
from gcl_toolkit.errors import DataError, UserError, counted, first_line

INTERACTIONS = ("clicks", "carts", "purchases")
COLUMNS = ("query", "product_id", "position", *INTERACTIONS, "impressions", "timestamp", "session")
"""The first three and one of the interactions are required. A row is a product shown `impressions` times, or once."""
BOT_ROWS = 20
"""A session with this many rows that clicks nearly everything is a bot."""

DEEPEST = 32_767
"""Positions are kept in two bytes."""
_TYPES = dict.fromkeys(COLUMNS, "double") | dict.fromkeys(("query", "product_id", "session"), "varchar")
_TYPES["timestamp"] = "timestamp"


@dataclass(frozen=True)
class LogConfig:
    """How the rows of a log count."""

    click: float = 1.0
    """Value of a click."""
    cart: float = 4.0
    """Value of putting a product into the cart."""
    purchase: float = 10.0
    """Value of a purchase."""
    positions: int = 50
    """Rows with deeper positions are left out."""
    half_life: float | None = None
    """Days after which an impression and its clicks count half; needs the column `timestamp`."""
    session_rows: int = 1000
    """A session with more rows is a bot."""
    session_clicks: float = 0.9
    """A session with 20 rows or more that clicks a greater share of them is a bot."""
    memory: str = "2GB"
    """Memory limit of the log; beyond it, tables spill to disk."""

    def __post_init__(self):
        if not all(0 <= value < math.inf for value in (self.click, self.cart, self.purchase)):
            raise UserError("click, cart and purchase are numbers >= 0")
        if not 1 <= self.positions <= DEEPEST:
            raise UserError(f"positions is {self.positions:,}; 1 to {DEEPEST:,} is expected")
        if self.half_life is not None and not 0 < self.half_life < math.inf:
            raise UserError(f"half_life is {self.half_life}; days > 0 are expected")


@dataclass(frozen=True)
class Log:
    """A log, added up."""

    cells: Cells
    queries: np.ndarray
    """The text of each query number."""
    products: np.ndarray
    """The id of each product number."""
    query_of_pair: np.ndarray
    product_of_pair: np.ndarray
    spread: float
    """Variance over mean of a visitor's interaction value: 1 if only clicks count, more with carts and purchases."""
    rows: dict[str, int]
    """How many rows were read, and left out for each reason."""


def read_log(path: str | Path | Ubi, columns: Mapping[str, str] | None = None, config: LogConfig | None = None) -> Log:
    """Read a CSV, TSV, parquet or JSONL file, or UBI files. columns: our name (`COLUMNS`) -> the name in the file.

    Queries that differ in case or spaces are one. Raises DataError naming the column, or the first bad row.
    """
    import duckdb

    config = config or LogConfig()
    try:
        engine = duckdb.connect(config={"memory_limit": config.memory, "preserve_insertion_order": "true"})
    except duckdb.Error:
        raise UserError(f"memory is {config.memory!r}; a size such as 2GB is expected") from None
    engine.execute("set enable_progress_bar = false")  # notebooks show one for each query otherwise
    try:
        if isinstance(path, Ubi):
            present, documents = ubi.load(engine, path)
        else:
            present, documents = _load(engine, Path(path), dict(columns or {})), {}
        if config.half_life is not None and "timestamp" not in present:
            raise DataError(f"{path}: half_life needs a column 'timestamp'; name it, or leave half_life out")
        _check(engine, path, present)
        rows = documents | _clean(engine, present, config)
        added = engine.sql(_sums(present, config)).to_arrow_table()
    except duckdb.Error as error:
        raise DataError(f"{path}: can't be read ({first_line(error)})") from None
    finally:
        engine.close()
    if not added.num_rows:
        left = ", ".join(f"{n:,} {what}" for what, n in rows.items() if n)
        raise DataError(f"{path}: {f'no row is left ({left})' if rows['read'] else 'the log has no rows'}")
    if not np.any(added["value"].to_numpy()):
        kinds = ", ".join(name for name in INTERACTIONS if name in present)
        raise DataError(f"{path}: no row has an interaction ({kinds}); a log with clicks is expected")
    return _as_log(added, rows)


def _load(engine, path: Path, columns: dict[str, str]) -> list[str]:
    """Loads the table `log` with our names and types, null where a value has another; returns the names it has."""
    for name in columns:
        if name not in COLUMNS:
            raise UserError(f"columns: {name!r} is not a column of a log; known: {', '.join(COLUMNS)}")
    theirs = {name: columns.get(name, name) for name in COLUMNS}
    opened = open_file(path, set(theirs.values()))
    missing = [columns[name] for name in columns if columns[name] not in opened.names]
    missing += [name for name in COLUMNS[:3] if theirs[name] not in opened.names]
    if not any(theirs[name] in opened.names for name in INTERACTIONS):
        missing.append(" or ".join(INTERACTIONS))
    if missing:
        names = ", ".join(opened.names)
        cure = "name yours, as in --columns query search_term"
        raise DataError(f"{path}: column {missing[0]!r} is missing; it has {names}; {cure}")
    present = [name for name in COLUMNS if theirs[name] in opened.names]
    columns_sql = ", ".join(f'"{name}" {_TYPES[name]}' for name in present)
    engine.execute(f"create temp table log ({columns_sql})")
    casts = ", ".join(map(_cast, present))
    for batch in opened.batches:
        part = pa.table({name: _as_text(batch[theirs[name]], path, name) for name in present})
        engine.register("part", part)
        engine.execute(f"insert into log select {casts} from part")
        engine.unregister("part")
    return present


def _as_text(column: pa.Array, path: Path, name: str) -> pa.Array:
    """Texts as text; times, numbers and truth values keep the type that the file states."""
    if _TYPES[name] != "varchar":
        return column
    try:
        return as_text(column)
    except pa.ArrowException:
        raise DataError(f"{path}: column {name!r} holds values of type {column.type}; text is expected") from None


def _cast(name: str) -> str:
    if name == "session":
        return "nullif(session, '')"
    cast = f'try_cast("{name}" as {_TYPES[name]})'
    return f'coalesce({cast}, try_cast("{name}"::varchar as boolean)::double)' if name in INTERACTIONS else cast


def _check(engine, path: str | Path | Ubi, present: list[str]) -> None:
    faults = {
        "query": ("query is null or trim(query) = ''", "a text"),
        "product_id": ("product_id is null or trim(product_id) = ''", "an id"),
        "position": ("position is null or position < 1 or position <> floor(position)", "an integer from 1"),
        "timestamp": ("timestamp is null", "a date and time"),
    }
    for name in (*INTERACTIONS, "impressions"):
        faults[name] = f"{name} is null or {name} < 0 or not isfinite({name})", "a number >= 0"
    for name in present:
        bad, expected = faults.get(name, ("false", ""))  # a session may be unknown
        count, row = ubi.one_row(engine, f"select count(*), min(rowid) from log where {bad}")
        if count:
            where = f"{path} row {row + 1}" if isinstance(path, Ubi) else place(path, row)
            such = counted(count, "such row")
            raise DataError(f"{where}: {name} is not {expected} ({such}); correct or remove")


def _clean(engine, present: list[str], config: LogConfig) -> dict[str, int]:
    """Makes the table `events`; returns how many rows were read, and left out for each reason. The interactions of a
    row with many impressions are taken for those of as many visitors as its most frequent kind counts."""
    weighted = zip(INTERACTIONS, (config.click, config.cart, config.purchase), strict=True)
    value = " + ".join(f"{weight}::double * {name}" for name, weight in weighted if name in present)
    kinds = [name for name in INTERACTIONS if name in present]
    shown = "impressions" if "impressions" in present else "1.0::double"
    impossible = f"greatest({', '.join(kinds)}) > impressions" if "impressions" in present else "false"
    engine.execute(
        f"""create temp table events as select query, product_id, position::smallint as position, {value} as value,
        power({value}, 2) / greatest({", ".join(["1", *kinds])}) as square, {shown} as shown,
        {"session" if "session" in present else "null::varchar"} as session,
        {"epoch(timestamp)::double" if "timestamp" in present else "0.0::double"} as time
        from log where position <= {config.positions} and not ({impossible})"""
    )
    read, deep, excess, first = ubi.one_row(
        engine,
        f"""select count(*), count_if(position > {config.positions}),
        count_if(position <= {config.positions} and {impossible}), min(case when {impossible} then rowid end)
        from log""",
    )
    engine.execute(
        f"""create temp table bots as select session from events where session is not null group by session
        having count(*) > {config.session_rows}
        or (count(*) >= {BOT_ROWS} and avg((value > 0)::int) > {config.session_clicks})"""
    )
    (bots,) = ubi.one_row(engine, "select count(*) from events where session in (from bots)")
    rows = {"read": read, f"below position {config.positions}": deep, "of bots": bots}
    return rows | ({f"with more interactions than impressions (first: row {first + 1})": excess} if excess else {})


def _sums(present: list[str], config: LogConfig) -> str:
    """Each (query, product, position) with impressions, interactions and rows; a product that a session saw twice
    for the same query counts once, where it was seen first."""
    visits = "select {} from events where session is null or session not in (from bots)"
    if "session" in present:
        people = f"""select query, product_id, arg_min(position, time) as position, max(value) as value,
        max(square) as square, max(shown) as shown, min(time) as time, count(*) as rows
        from ({visits.format("*, coalesce(session, 'row ' || rowid) as visit")}) group by visit, query, product_id"""
    else:
        people = visits.format("*, 1 as rows")
    fresh = "1.0::double"
    if config.half_life is not None:
        fresh = f"pow(0.5, ((select max(time) from events) - time) / {86_400 * config.half_life})"
    return f"""select query, product_id, position, sum(shown * {fresh}) as shown, sum(value * {fresh}) as value,
    sum(rows - 1) as repeats, sum(square) as squares, sum(value) as values
    from ({people}) group by query, product_id, position"""


def _as_log(added: pa.Table, rows: dict[str, int]) -> Log:
    text = added["query"].combine_chunks().dictionary_encode()
    normal = np.array([normalise_text(query) for query in text.dictionary.to_pylist()], object)
    queries, query_of_text = np.unique(normal, return_inverse=True)
    query = query_of_text[text.indices.to_numpy()]
    ids = added["product_id"].combine_chunks().dictionary_encode()
    products, number = np.unique(np.array(ids.dictionary.to_pylist(), object), return_inverse=True)
    product = number[ids.indices.to_numpy()]
    position = added["position"].to_numpy().astype(np.int64)
    pairs, pair = np.unique(query * len(products) + product, return_inverse=True)
    depth = position.max() + 1
    cells, cell = np.unique(pair * depth + position, return_inverse=True)  # again, since spellings were merged
    shown, clicked = (np.bincount(cell, added[name].to_numpy()) for name in ("shown", "value"))
    query_of_pair, product_of_pair = np.divmod(pairs, len(products))
    pair_C, position_C = np.divmod(cells, depth)
    squares, values = (added[name].to_numpy().sum() for name in ("squares", "values"))
    rows = {**rows, "repeated in a session": int(added["repeats"].to_numpy().sum())}
    return Log(
        Cells(query_of_pair[pair_C], pair_C, position_C, shown, clicked),
        queries, products, query_of_pair, product_of_pair, float(squares / values) if values else 1.0, rows,
    )  # fmt: skip
