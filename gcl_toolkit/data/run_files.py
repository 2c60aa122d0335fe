"""Files of rankings and of qrels as dicts, whatever program wrote them. The content decides, not the file's name.

Runs: TREC; ranx and BEIR (JSON, .lz4); CSV, TSV, JSONL or parquet with a query, a product and a rank or score.
Qrels: TREC; BEIR's and Quepid's tables, or any with a query, a product and a grade; JSON of ranx, of Quepid and of
OpenSearch (judgement lists of the Search Relevance Workbench, rank_eval).
"""

import csv
import json
import math
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from gcl_toolkit.data.columns import as_text, number
from gcl_toolkit.data.findings import field_fault
from gcl_toolkit.data.formats import Run, read_trec_qrels, read_trec_run
from gcl_toolkit.data.tabular import FIRST_LINE, FORMATS, lines, place, read_file
from gcl_toolkit.errors import DataError, UserError, first_line

QUERY = ("query_id", "query-id", "qid", "q_id", "query", "search_term", "_id", "id")
PRODUCT = (
    "product_id", "corpus-id", "docid", "doc_id", "docno", "document_id", "item_id", "asin", "sku", "product",
    "_id", "id",
)  # fmt: skip
RANK = ("rank", "position")
SCORE = ("score", "similarity", "_score")
GRADE = ("grade", "rating", "relevance", "judgment", "judgement", "label", "score", "rel")
"""Names of columns, of which capitals and spaces don't count; the first that a table has is taken."""
LISTS = ("judgmentRatings", "judgmentScores", "requests", "queries")
"""Keys of judgement lists in JSON."""
RUN_FORMS = "query_id Q0 product_id rank score tag, or a table with a query, a product and a rank or score"
QRELS_FORMS = "query_id 0 product_id grade, or a table with a query, a product and a grade"


# -- runs --------------------------------------------------------------------------------------------------------------


def read_run(path: str | Path) -> Run:
    """{query: {product: score}}, larger is better; a rank r counts as -r. Raises DataError with file and row."""
    path = Path(path)
    kind = kind_of(path)
    if kind in ("trec qrels", "quepid"):
        raise DataError(f"{path}: lines of a query, a product and a grade: these are qrels; give them with --qrels")
    run = _trec_run(path) if kind == "trec run" else _json_run(path) if kind == "json" else _table_run(path, kind)
    if not run:
        raise DataError(f"{path}: the run is empty; {RUN_FORMS} are expected")
    return run


def _trec_run(path: Path) -> Run:
    run = read_trec_run(path)
    fields = (line.split() for _, line in lines(path))
    _check_order(path, ((query, rank, score) for query, _, _, rank, score, _ in fields))
    return run


def _check_order(path: Path, rows: Iterable[tuple[str, Any, Any]]) -> None:
    """A run whose scores rise with its ranks would be read upside down."""
    rising, pairs, last = 0, 0, ("", 0.0, 0.0)
    for query, rank, score in rows:
        here = (query, number(rank), number(score))
        if here[0] == last[0] and here[1] > last[1] and here[2] != last[2]:
            rising, pairs = rising + (here[2] > last[2]), pairs + 1
        last = here
    if pairs and rising > 0.9 * pairs:
        raise DataError(f"{path}: scores rise with the ranks; larger scores are better in a run: negate distances")


def _json_run(path: Path) -> Run:
    found = _json(path)
    if not isinstance(found, dict) or not found or not all(isinstance(v, dict) for v in found.values()):
        keys = f"an object with {', '.join(map(str, islice(found, 3)))}" if isinstance(found, dict) else "a list"
        is_list = isinstance(found, dict) and {*LISTS, "hits"} & {*found}
        hint = "; this is a judgement list, give it with --qrels" if is_list else ""
        raise DataError(f"{path}: it holds {keys}; a run is {{query: {{product: score}}}}{hint}")
    rows = ((q, p, s) for q, row in found.items() for p, s in row.items())
    return _checked(path, "json", rows, lambda x: x == x, "a score")


def _table_run(path: Path, kind: str) -> Run:
    table, header = read_rows(path, kind), ("query_id", "product_id", "rank")
    query, product = column(path, table, QUERY, "query"), column(path, table, PRODUCT, "product")
    score, rank, grade = (column_of(table, names) for names in (SCORE, RANK, GRADE))
    names = table.column_names
    if (score or rank) is None or {"query-id", "corpus-id"} <= set(names):
        hint = f"{grade!r} is a grade: give qrels with --qrels" if grade else f"columns such as {', '.join(header)}"
        raise DataError(f"{path}: there is no column rank or score of a run; it has {', '.join(names)}; {hint}")
    queries, products = (ids_of(path, table, name, kind) for name in (query, product))
    scores, ranks = (table[name].to_pylist() if name else [] for name in (score, rank))
    if score:
        run = _checked(path, kind, zip(queries, products, scores, strict=True), lambda x: x == x, "a score")
        _check_order(path, zip(queries, ranks, scores, strict=False))
        return run
    run = _checked(path, kind, zip(queries, products, ranks, strict=True), lambda x: x >= 0, "a rank")
    if twice := next((name for name, row in run.items() if len({*row.values()}) < len(row)), None):
        raise DataError(f"{path}: query {twice!r} has two products at one rank; number its products once, from 1")
    return {name: {product: -at for product, at in row.items()} for name, row in run.items()}


# -- qrels -------------------------------------------------------------------------------------------------------------


def read_qrels(path: str | Path) -> Run:
    """{query: {product: grade}}, grades >= 0 (those below 0 in TREC files count as 0). Raises DataError with file and
    row."""
    path = Path(path)
    kind = kind_of(path)
    if kind == "trec run":
        raise DataError(f"{path}: its lines are 'query_id Q0 product_id rank score tag': this is a run, not qrels")
    if kind == "trec qrels":
        qrels = read_trec_qrels(path)
    else:
        read = {"json": lambda: _judgements(path, _json(path)), "quepid": lambda: _quepid(path)}
        rows = read.get(kind, lambda: _table_qrels(path, kind))()
        qrels = _checked(path, kind, rows, lambda x: 0 <= x < math.inf, "a grade of 0 or more")
    if not qrels:
        raise DataError(f"{path}: the qrels are empty; {QRELS_FORMS} are expected")
    return qrels


def _table_qrels(path: Path, kind: str) -> Iterable[tuple[Any, Any, Any]]:
    table = read_rows(path, kind)
    query, product = column(path, table, QUERY, "query"), column(path, table, PRODUCT, "product")
    if column_of(table, ("rank",)):
        raise DataError(f"{path}: it has a column 'rank': this is a run, not qrels; {QRELS_FORMS} are expected")
    values = table[column(path, table, GRADE, "grade")].to_pylist()
    return zip(*(ids_of(path, table, name, kind) for name in (query, product)), values, strict=True)


def _quepid(path: Path) -> Iterable[tuple[Any, Any, Any]]:
    """Quepid's CSV, in which a query without ratings is a line with nothing but its text."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in islice(csv.reader(file), 1, None):
            if len(row) > 1:
                yield row[0], row[1], row[2] if len(row) > 2 else None


def _judgements(path: Path, found: Any) -> Iterable[tuple[Any, Any, Any]]:
    """The rows of a judgement list: ranx, Quepid, OpenSearch's workbench (old and new form), rank_eval."""
    if isinstance(found, dict) and "hits" in found:  # the answer of OpenSearch when it is asked for the list
        hits = found["hits"].get("hits", [])
        if len(hits) != 1:
            raise DataError(f"{path}: it holds {len(hits)} judgement lists; give a file with one")
        found = hits[0].get("_source", {})
    if isinstance(found, dict):
        key = next((k for k in LISTS if k in found), None)
        found = found[key] if key else found
    if isinstance(found, dict):
        found = [{"query": query, "ratings": ratings} for query, ratings in found.items()]
    for at, entry in enumerate(found if isinstance(found, list) else [None]):
        ratings = entry.get("ratings") if isinstance(entry, dict) else None
        query = entry.get("query", entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(ratings, dict | list) or query is None:
            expected = "{query: {product: grade}}, or a list of {query, ratings: [{docId, rating}]}"
            raise DataError(f"{path}: entry {at} is not a judged query; {expected} is expected")
        if isinstance(ratings, dict):
            yield from ((query, product, grade) for product, grade in ratings.items())
            continue
        for rating in ratings:
            product = rating.get("docId", rating.get("_id")) if isinstance(rating, dict) else None
            if product is None:
                raise DataError(f"{path}: query {query!r}: a rating has no docId: {str(rating)[:60]}")
            yield query, product, rating.get("rating", rating.get("score"))


# -- files -------------------------------------------------------------------------------------------------------------


def kind_of(path: Path) -> str:
    """ "trec run", "trec qrels", "json", "quepid", or the ending of a table, by the file's first line."""
    if not path.is_file():
        raise DataError(f"{path}: {'it is a folder; a file is expected' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"\x1f\x8b" or start == b"PK\x03\x04":
        raise DataError(f"{path}: it is compressed (gzip, zip or Excel); unpack it, or save the table as CSV")
    if start == b"PAR1":
        return ".parquet"
    if path.suffix.lower() in (".lz4", ".json"):
        return "json"
    _, first = next(lines(path), (0, ""))
    if not first:
        raise DataError(f"{path}: the file is empty")
    if first.lstrip()[0] in "{[":
        return ".jsonl" if path.suffix.lower() == ".jsonl" else "json"
    if first.strip().lower() == "query,docid,rating":
        return "quepid"
    parts = first.split()
    if len(parts) == 6 and not math.isnan(number(parts[4])):
        return "trec run"
    if len(parts) == 4 and not math.isnan(number(parts[3])) and "," not in first:
        return "trec qrels"
    return path.suffix.lower() if path.suffix.lower() in FORMATS else ".csv"


def _json(path: Path) -> Any:
    """What a JSON file holds, or ranx's .lz4, which is CBOR, compressed twice."""
    try:
        if path.suffix.lower() == ".lz4":
            import cbor2
            import lz4.frame

            return cbor2.loads(lz4.frame.decompress(lz4.frame.decompress(path.read_bytes())))
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_object)
    except ImportError as error:
        raise UserError(f"{path}: reading it needs {error.name}; pip install cbor2 lz4") from None
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{path}: can't be read ({first_line(error)}); is the file complete?") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice in an object")
    return found


def read_rows(path: Path, kind: str = "") -> pa.Table:
    """A table with at least one row; kind: its ending, by default by its content."""
    table = read_file(path, kind=kind or kind_of(path))
    if not table.num_rows:
        raise DataError(f"{path}: the table has no rows")
    return table


def column_of(table: pa.Table, names: Iterable[str]) -> str | None:
    """The table's column with the first of these names that it has, whatever its capitals and spaces."""
    ours = {re.sub(r"[\s_]+", "_", name.strip().casefold()): name for name in reversed(table.column_names)}
    return next((ours[name] for name in names if name in ours), None)


def column(path: Path, table: pa.Table, names: tuple[str, ...], what: str) -> str:
    found = column_of(table, names)
    if found is None:
        cure = f"rename one to {names[0]}"
        if table.num_columns == 1:  # TREC lines, too, of which the first is faulty
            cure = "separate columns by comma, semicolon or tab; a TREC line has 6 columns (a run) or 4 (qrels)"
        seen = ", ".join(map(repr, table.column_names[:8]))
        raise DataError(f"{path}: no column holds the {what}; the first line names {seen}; {cure}")
    return found


def ids_of(path: Path, table: pa.Table, name: str, kind: str = "") -> list[str]:
    """A column as text; integers that were stored as floats lose their ".0"."""
    if fault := field_fault(table[name]):
        raise DataError(f"{path}: column {name!r} can't be ids: {fault}")
    values = as_text(table[name]).to_pylist()
    for row, value in enumerate(values):
        if not value or not value.strip():
            raise DataError(f"{place(path, row, kind)}: column {name!r} is empty; an id is expected")
    return values


def _checked(path: Path, kind: str, rows: Iterable[tuple[Any, Any, Any]], good: Any, expected: str) -> Run:
    found: Run = {}
    for row, (query, product, value) in enumerate(rows):
        where = place(path, row, kind) if kind in (*FIRST_LINE, ".parquet") else path
        score = number(value)
        if not good(score):
            hint = "; write a decimal point" if re.fullmatch(r"-?\d+,\d+", str(value)) else ""
            raise DataError(
                f"{where}: query {query!r}, product {product!r}: {expected} is expected, not {value!r}{hint}"
            )
        products = found.setdefault(str(query), {})
        if str(product) in products:
            raise DataError(f"{where}: query {query!r} lists product {product!r} twice; keep one row")
        products[str(product)] = score
    return found
