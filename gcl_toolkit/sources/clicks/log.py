"""An interaction log -> cleaned and added up: bots out, repeats once, old clicks for less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl_toolkit.errors import DataError, UserError, first_line
from gcl_toolkit.propensity import Cells
from gcl_toolkit.ranked_data import normalise_text

READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".tsv": "read_csv", ".jsonl": "read_json"}
INTERACTIONS = ("clicks", "carts", "purchases")
COLUMNS = ("query", "product_id", "position", *INTERACTIONS, "impressions", "timestamp", "session")
"""The first three and one of the interactions must be there. A row is a product shown: `impressions` times, or once."""
ZEALOUS = 20
"""From so many rows on, a session that clicks nearly everything is a bot."""

DEEPEST = 32_767
"""Positions are kept in two bytes."""


@dataclass(frozen=True)
class LogConfig:
    """What counts, and what doesn't."""

    click: float = 1.0
    """What a click counts."""
    cart: float = 4.0
    """What putting into the cart counts."""
    purchase: float = 10.0
    positions: int = 50
    """Rows of deeper positions are left out."""
    half_life: float | None = None
    """Days after which an impression and its clicks count half; needs `timestamp`."""
    session_rows: int = 1000
    """A session with more rows is a bot's."""
    session_clicks: float = 0.9
    """A session with 20 rows or more that clicks a greater share of them is a bot's."""
    memory: str = "2GB"
    """Beyond this the log's table spills to the disk."""

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
    """The text of each query number, and below the id of each product number."""
    products: np.ndarray
    query_of_pair: np.ndarray
    """The query number of each pair number, and below the product number."""
    product_of_pair: np.ndarray
    spread: float
    """Variance over mean of what a visitor's interaction counts: 1 if only clicks do, more with carts and purchases."""
    rows: dict[str, int]
    """How many were read, and how many were left out for what."""


def read_log(path: str | Path, columns: Mapping[str, str] | None = None, config: LogConfig | None = None) -> Log:
    """Read a CSV, TSV, parquet or JSONL file. columns: our name (`COLUMNS`) -> the name in the file.

    Queries that differ in case or spaces are one. Raises DataError naming the column, or the first bad row.
    """
    import duckdb

    config = config or LogConfig()
    try:
        engine = duckdb.connect(config={"memory_limit": config.memory, "preserve_insertion_order": "true"})
    except duckdb.Error:
        raise UserError(f"memory is {config.memory!r}; a size such as 2GB is expected") from None
    engine.execute("set enable_progress_bar = false")  # else each query shows one in a notebook
    try:
        present = _open(engine, Path(path), dict(columns or {}))
        if config.half_life is not None and "timestamp" not in present:
            raise DataError(f"{path}: half_life needs a column 'timestamp'; name it, or leave half_life out")
        _check(engine, path, present)
        rows = _clean(engine, present, config)
        added = engine.sql(_adding_up(present, config)).to_arrow_table()
    except duckdb.Error as error:
        raise DataError(f"{path}: can't be read ({first_line(error)}); is the file whole?") from None
    finally:
        engine.close()
    if not added.num_rows:
        raise DataError(f"{path}: no row is left ({', '.join(f'{n:,} {what}' for what, n in rows.items())})")
    return _as_log(added, rows)


def _open(engine, path: Path, columns: dict[str, str]) -> list[str]:
    """Makes the view `log` with our names; says which there are."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.suffix not in READERS:
        raise DataError(f"{path}: the ending is {path.suffix!r}; {', '.join(READERS)} can be read")
    strange = [name for name in columns if name not in COLUMNS]
    if strange:
        raise UserError(f"columns: {strange[0]!r} is no column of a log; known: {', '.join(COLUMNS)}")
    as_text = {"all_varchar": True} if READERS[path.suffix] == "read_csv" else {}  # ids like 007; bad rows are told
    raw = getattr(engine, READERS[path.suffix])(str(path), **as_text)
    absent = [theirs for theirs in columns.values() if theirs not in raw.columns]
    there = {name: columns.get(name, name) for name in COLUMNS if columns.get(name, name) in raw.columns}
    absent += [name for name in COLUMNS[:3] if name not in there]
    if not set(INTERACTIONS) & set(there):
        absent.append(" or ".join(INTERACTIONS))
    if absent:
        raise DataError(
            f"{path}: column {absent[0]!r} is missing; it has {', '.join(raw.columns)}; name it with columns"
        )
    chosen = ", ".join(f"{_cast(name, theirs, bool(as_text))} as {name}" for name, theirs in there.items())
    raw.create_view("raw")
    engine.execute(f"create view log as select {chosen} from raw")
    return list(there)


def _cast(name: str, theirs: str, is_text: bool) -> str:
    """A column of the file as our type; null where it can't be. `trim` keeps the cast out of the CSV reader, which
    would stop at the first bad value."""
    column = '"' + theirs.replace('"', '""') + '"'
    column = f"trim({column})" if is_text else column
    if name in ("query", "product_id", "session"):
        return f"try_cast({column} as varchar)"
    if name == "timestamp":
        return f"try_cast({column} as timestamp)"
    if name in INTERACTIONS and is_text:
        return f"coalesce(try_cast({column} as double), try_cast({column} as boolean)::double)"
    return f"try_cast({column} as double)"


def _check(engine, path: str | Path, present: list[str]) -> None:
    faults = {
        "query": ("query is null or trim(query) = ''", "a text"),
        "product_id": ("product_id is null or trim(product_id) = ''", "an id"),
        "position": ("position is null or position < 1 or position <> floor(position)", "a whole number from 1"),
        "timestamp": ("timestamp is null", "a date and time"),
    }
    for name in (*INTERACTIONS, "impressions"):
        faults[name] = f"{name} is null or {name} < 0 or not isfinite({name})", "a number >= 0"
    for name in present:
        if name == "session":
            continue  # none: a visitor who isn't known
        bad, expected = faults[name]
        count = _number(engine, f"select count(*) from log where {bad}")
        if count:
            row = _number(engine, f"select min(row) from (select row_number() over () as row, * from log) where {bad}")
            raise DataError(f"{path} row {row}: {name} is not {expected} ({count:,} such rows); mend or drop them")


def _number(engine, question: str) -> int:
    return engine.execute(question).fetchall()[0][0]


def _clean(engine, present: list[str], config: LogConfig) -> dict[str, int]:
    """Makes the table `events`; says how many rows were read and left out, and for what. The interactions of a row that
    counts many impressions are taken for those of as many visitors as the most frequent kind says."""
    counted = zip(INTERACTIONS, (config.click, config.cart, config.purchase), strict=True)
    value = " + ".join(f"{weight}::double * {name}" for name, weight in counted if name in present)
    visitors = ", ".join(["1", *(name for name in INTERACTIONS if name in present)])
    session = "session" if "session" in present else "null::varchar"
    engine.execute(
        f"""create temp table events as select query, product_id, position::smallint as position, {value} as value,
        power({value}, 2) / greatest({visitors}) as square,
        {"impressions" if "impressions" in present else "1.0::double"} as shown, {session} as session,
        {"epoch(timestamp)::double" if "timestamp" in present else "0.0::double"} as time
        from log where position <= {config.positions}"""
    )
    read = _number(engine, "select count(*) from log")
    kept = _number(engine, "select count(*) from events")
    engine.execute(
        f"""create temp table bots as select session from events where session is not null group by session
        having count(*) > {config.session_rows}
        or (count(*) >= {ZEALOUS} and avg((value > 0)::int) > {config.session_clicks})"""
    )
    human = _number(engine, "select count(*) from events where session is null or session not in (from bots)")
    return {"read": read, f"below position {config.positions}": read - kept, "of bots": kept - human}


def _adding_up(present: list[str], config: LogConfig) -> str:
    """Each (query, product, position) with impressions, interactions and rows; a product that a session saw twice
    for the same query counts once, where it was seen first."""
    people = "select * from events where session is null or session not in (from bots)"
    if "session" in present:
        people = f"""select query, product_id, arg_min(position, time) as position, max(value) as value,
        max(square) as square, max(shown) as shown, min(time) as time, count(*) as rows
        from ({people.replace("*", "*, coalesce(session, 'row ' || rowid) as visit")})
        group by visit, query, product_id"""
    else:
        people = people.replace("*", "*, 1 as rows")
    fresh = "1.0::double"
    if config.half_life is not None:
        fresh = f"pow(0.5, ((select max(time) from events) - time) / {86_400 * config.half_life})"
    return f"""select query, product_id, position, sum(shown * {fresh}) as shown, sum(value * {fresh}) as value,
    sum(rows - 1) as repeats, sum(square) as squares, sum(value) as values
    from ({people}) group by query, product_id, position"""


def _as_log(added: pa.Table, rows: dict[str, int]) -> Log:
    text = added["query"].combine_chunks().dictionary_encode()
    spelt = np.array([normalise_text(query) for query in text.dictionary.to_pylist()], object)
    queries, query_of_text = np.unique(spelt, return_inverse=True)
    query = query_of_text[text.indices.to_numpy()]
    ids = added["product_id"].combine_chunks().dictionary_encode()
    products, product = np.array(ids.dictionary.to_pylist(), object), ids.indices.to_numpy().astype(np.int64)
    position = added["position"].to_numpy().astype(np.int64)
    pairs, pair = np.unique(query * len(products) + product, return_inverse=True)
    depth = position.max() + 1
    cells, cell = np.unique(pair * depth + position, return_inverse=True)  # again, since spellings have met
    shown, clicked = (np.bincount(cell, added[name].to_numpy()) for name in ("shown", "value"))
    query_of_pair, product_of_pair = np.divmod(pairs, len(products))
    pair_C, position_C = np.divmod(cells, depth)
    squares, values = (added[name].to_numpy().sum() for name in ("squares", "values"))
    rows = {**rows, "repeated in a session": int(added["repeats"].to_numpy().sum())}
    return Log(
        Cells(query_of_pair[pair_C], pair_C, position_C, shown, clicked),
        queries, products, query_of_pair, product_of_pair, float(squares / values) if values else 1.0, rows,
    )  # fmt: skip
