"""Rankings of any systems, and qrels, as RankedData and one array of product rows a system."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl_toolkit.data.columns import as_text, put
from gcl_toolkit.data.formats import Grades
from gcl_toolkit.data.judgements import GRADES, Judgements
from gcl_toolkit.data.ranked_data import Pairs, RankedData
from gcl_toolkit.data.run_files import PRODUCT, QUERY, column, column_of, ids_of, read_qrels, read_rows, read_run
from gcl_toolkit.data.sources.rows import usable_fields
from gcl_toolkit.data.tabular import place
from gcl_toolkit.errors import DataError, UserError, counted, unknown

DEPTH = 1000
"""Ranks of a query that are compared; those below are left out."""
MOST = 5
"""Systems that are compared at a time."""
TEXT = ("query", "text", "title")
PICTURE = ("image", "picture", "picture_path", "image_path", "thumbnail", "photo")
TITLE = ("title", "name", "product_title", "product_name")
"""Names of columns; the first that a table has is taken."""


def read_systems(
    runs: Sequence[str],
    qrels: str | Path,
    products: str | Path | None = None,
    queries: str | Path | None = None,
    judgements: str | Path | None = None,
) -> tuple[RankedData, dict[str, np.ndarray]]:
    """`systems` of files. runs: paths or NAME=path; judgements: of `Judgements`, which replace the qrels' grades."""
    paths = named(runs)
    graded = read_qrels(qrels)
    if judgements:
        if not Path(judgements).is_file():
            raise DataError(f"{judgements}: no such file")
        graded = with_judgements(graded, Judgements(judgements))
    return systems({name: read_run(path) for name, path in paths.items()}, graded, products, queries, Path(qrels).stem)


def named(runs: Sequence[str]) -> dict[str, Path]:
    """System -> file, of paths and NAME=path. A file is named as it is called, with its folder where two are alike."""
    pairs = [("", run) if Path(run).is_file() or "=" not in run else run.split("=", 1) for run in runs]
    stems = [name or Path(path).name.split(".")[0] for name, path in pairs]
    names = [
        f"{Path(path).absolute().parent.name}-{stem}" if not name and stems.count(stem) > 1 else stem
        for stem, (name, path) in zip(stems, pairs, strict=True)
    ]
    names = [re.sub(r"[^\w.,=-]", "_", name, flags=re.ASCII).lstrip(".,=-") or "run" for name in names]
    if repeated := [name for name in names if names.count(name) > 1]:
        first, second = [run for run, name in zip(runs, names, strict=True) if name == repeated[0]][:2]
        raise UserError(f"{first} and {second} have the same name; give each run once, named as in NAME=path")
    if not 2 <= len(names) <= MOST:
        raise UserError(f"{counted(len(names), 'run')} given; 2 to {MOST} can be compared")
    return {name: Path(path) for name, (_, path) in zip(names, pairs, strict=True)}


def with_judgements(qrels: Grades, judgements: Judgements, judge: str = "") -> dict[str, dict[str, float]]:
    """The qrels with people's grades in the place of theirs, and added to them.

    judge: the name of a language model, whose grades are added instead, only for pairs that the qrels leave open.
    """
    merged = {query: dict(graded) for query, graded in qrels.items()}
    scale = grade_scale(max((grade for graded in qrels.values() for grade in graded.values()), default=0.0))
    table = judgements.grades(lambda name: name == judge) if judge else judgements.grades()
    if judge and not len(table):
        raise unknown("judge", judge, judgements.last()["judge"].unique())
    for query, product, grade in table.itertuples(index=False):
        graded = merged.setdefault(query, {})
        graded[product] = graded.get(product, float(grade * scale)) if judge else float(grade * scale)
    return merged


def rows_of(data: RankedData, qrels: Grades) -> Pairs:
    """The qrels of the queries (by id or text) and products of `data` as row numbers."""
    query_of, product_of = ({name: row for row, name in enumerate(ids)} for ids in (data.query_ids, data.product_ids))
    if "query" in data.query_fields:
        query_of = {text: row for row, text in enumerate(data.queries["query"].to_pylist())} | query_of
    found = [
        (query_of[query], product_of[product], grade)
        for query, graded in qrels.items()
        if query in query_of
        for product, grade in graded.items()
        if product in product_of
    ]
    query, product, grade = np.array(found, float).reshape(-1, 3).T
    return Pairs(query.astype(int), product.astype(int), grade)


def grade_scale(highest: float) -> float:
    """What a grade of 0..4 is multiplied by among scores up to `highest`: 1 if they reach 2 to 4, else highest / 4, so
    that 4 is the largest score."""
    return 1.0 if 2 <= highest <= GRADES[-1] or not highest else highest / GRADES[-1]


def systems(
    runs: Mapping[str, Grades],
    qrels: Grades,
    products: str | Path | None = None,
    queries: str | Path | None = None,
    name: str = "runs",
) -> tuple[RankedData, dict[str, np.ndarray]]:
    """Judged queries, products and scores as RankedData, and each system's ranking: Q x K int32 corpus rows, best
    first, padded with -1, K at most `DEPTH`; equal scores keep the order of the file.

    The queries are those that the qrels judge and some run ranks; one that a run lacks is an empty ranking. The corpus
    is the union of the product table, the qrels and the runs.
    products: a table with product_id, and optionally title, picture path and any attributes. queries: a table with
    query_id and query, the text. Raises DataError where ids don't match.
    """
    texts = _query_texts(queries) if queries else {}
    qrels = _by_id(qrels, runs, texts)
    empty = pa.table({"product_id": pa.array([], pa.string())})
    rows, notes = _products(Path(products)) if products else (empty, ())
    known = set(rows["product_id"].to_pylist())
    judged = {product for graded in qrels.values() for product in graded}
    _check_alike("product", judged, "the qrels", known, "the product table")
    for system, run in runs.items():
        _check_alike("query", run, f"the run {system}", qrels, "the qrels")
        if not any(query in run for query in qrels):
            shown = f"{_some(run)} in the run {system}, {_some(qrels)} in the qrels"
            raise DataError(f"no query is in both: {shown}; ids must agree")
        found = {product for query in run if query in qrels for product in run[query]}
        _check_alike("product", found, f"the run {system}", known | judged, "the qrels and the product table")
        if not found & judged:
            raise DataError(f"the run {system} ranks no judged product: {_some(found)}, in the qrels {_some(judged)}")
    kept = [query for query in qrels if any(query in run for run in runs.values())]
    ranked = dict.fromkeys(product for run in runs.values() for query in kept for product in run.get(query, ()))
    others = [product for product in dict.fromkeys(sorted(judged)) | ranked if product not in known]
    extra = pa.table({"product_id": pa.array(others, pa.string())})
    corpus = pa.concat_tables([rows, extra], promote_options="default")
    data = _ranked_data(kept, qrels, corpus, texts, name, [*notes, *_notes(runs, qrels, kept, known, ranked, texts)])
    return data, {system: _rows(run, kept, data) for system, run in runs.items()}


def _rows(run: Grades, queries: list[str], data: RankedData) -> np.ndarray:
    row_of = {product: row for row, product in enumerate(data.product_ids)}
    depth = min(max((len(run.get(query, ())) for query in queries), default=0), DEPTH)
    rows_QxK = np.full((len(queries), depth), -1, np.int32)
    for row, query in enumerate(queries):
        if scores := run.get(query):
            order = np.argsort(-np.fromiter(scores.values(), float, len(scores)), kind="stable")[:depth]
            rows_QxK[row, : len(order)] = np.fromiter((row_of[product] for product in scores), int, len(scores))[order]
    return rows_QxK


def _ranked_data(
    kept: list[str], qrels: Grades, corpus: pa.Table, texts: Mapping[str, str], name: str, notes: list[str]
) -> RankedData:
    if not texts and any(" " in query for query in kept):  # Quepid's and OpenSearch's ids are the texts
        texts = dict(zip(kept, kept, strict=True))
    queries = {"query_id": kept} | ({"query": [texts.get(query) for query in kept]} if texts else {})
    pairs = [(query, product, grade) for query in kept for product, grade in qrels[query].items()]
    columns = dict(zip(("query_id", "product_id", "score"), map(list, zip(*pairs, strict=True)), strict=True))
    return RankedData(pa.table(queries), corpus, pa.table(columns), name, {"notes": notes} if notes else {})


def _products(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    table = read_rows(path)
    key = column(path, table, PRODUCT, "product")
    renamed = {key: "product_id"} | {
        column_of(table, names) or ours: ours for ours, names in (("title", TITLE), ("image", PICTURE))
    }
    table = table.rename_columns([renamed.get(name, name) for name in table.column_names])
    ids = ids_of(path, table, "product_id")
    first = dict(zip(reversed(ids), range(len(ids) - 1, -1, -1), strict=True))
    if len(first) < len(ids):
        row = next(row for row, product in enumerate(ids) if first[product] < row)
        raise DataError(f"{place(path, row)}: product {ids[row]!r} appears twice; keep one row a product")
    table = put(table, "product_id", pa.array(ids, pa.string()))
    return usable_fields(table, path.parent)


def _query_texts(path: str | Path) -> dict[str, str]:
    table, path = read_rows(Path(path)), Path(path)
    key = column(path, table, QUERY, "query's id")
    text = column(path, table, tuple(name for name in TEXT if name != key), "query's text")
    found: dict[str, str] = {}
    for row, (query, words) in enumerate(zip(ids_of(path, table, key), as_text(table[text]).to_pylist(), strict=True)):
        if found.setdefault(query, words) != words:
            raise DataError(f"{place(path, row)}: query {query!r} has two texts; keep one row a query")
    return found


def _by_id(qrels: Grades, runs: Mapping[str, Grades], texts: Mapping[str, str]) -> Grades:
    """The qrels by query id, where they name queries by their text and the runs don't."""
    if not texts or any(query in run for run in runs.values() for query in qrels):
        return qrels
    id_of = {text: query for query, text in texts.items()}
    if twice := next((text for query, text in texts.items() if text in qrels and id_of[text] != query), None):
        raise DataError(f"the qrels name queries by text, but two queries are {twice!r}; give the qrels by query_id")
    return {id_of.get(query, query): graded for query, graded in qrels.items()}


def _check_alike(what: str, ids: Collection[str], where: str, known: Collection[str], known_where: str) -> None:
    """Raise where more than 1 % of the ids would match if they were written alike, as 007 and 7."""
    plain = {_plain(name): name for name in known}
    alike = [(name, plain[_plain(name)]) for name in ids if name not in known and _plain(name) in plain]
    if len(alike) > len(ids) / 100:
        name, other = alike[0]
        raise DataError(
            f"{what} {name!r} of {where} is {other!r} in {known_where} ({counted(len(alike), 'such id')}): they differ "
            "in leading zeros, case, white space or a '.0'; write ids alike, as text"
        )


def _plain(name: str) -> str:
    return name.strip().casefold().removesuffix(".0").lstrip("0")


def _notes(
    runs: Mapping[str, Grades],
    qrels: Grades,
    kept: list[str],
    known: Collection[str],
    ranked: Collection[str],
    texts: Mapping[str, str],
) -> list[str]:
    notes = [f"left out: {counted(len(qrels) - len(kept), 'judged query')} in no run"] * (len(kept) < len(qrels))
    if texts and (bare := [query for query in kept if query not in texts]):
        notes.append(f"{len(bare):,} of {len(kept):,} queries have no text, such as {bare[0]!r}")
    for system, run in runs.items():
        if missing := sum(query not in run for query in kept):
            notes.append(f"{system} ranks nothing for {missing:,} of {len(kept):,} queries, where it counts 0")
        if unjudged := sum(query not in qrels for query in run):
            notes.append(f"left out: {counted(unjudged, 'query')} of {system} without judgements")
        if any(len(row) > DEPTH for row in run.values()):
            notes.append(f"of {system}, ranks below {DEPTH:,} are left out")
    if known and (absent := [product for product in ranked if product not in known]):
        notes.append(f"not in the product table: {counted(len(absent), 'ranked product')}, such as {min(absent)!r}")
    return notes


def _some(ids: Iterable[str]) -> str:
    return ", ".join(map(repr, islice(ids, 3)))
