"""Runs and qrels as dicts, and as TREC files. BEIR folders are a source, `sources.beir`.

A run is {query_id: {product_id: score}}, qrels are {query_id: {product_id: grade}}, as `metrics.measure`, ranx and
pytrec_eval take them (the latter two with integer grades).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from gcl_toolkit.data.columns import number
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.tabular import lines
from gcl_toolkit.errors import DataError

Run = dict[str, dict[str, float]]
Grades = Mapping[str, Mapping[str, float]]

# -- RankedData as dicts -----------------------------------------------------------------------------------------------


def qrels_of(data: RankedData) -> Run:
    """The scored pairs, queries in their order; a query without pairs is left out."""
    query, product, score = data.pairs
    query_ids, product_ids = data.query_ids, data.product_ids
    qrels: Run = {query_ids[row]: {} for row in np.unique(query)}
    for row, item, value in zip(query, product, score.tolist(), strict=True):
        qrels[query_ids[row]][product_ids[item]] = value
    return qrels


def run_of(data: RankedData, products_QxK: np.ndarray, scores_QxK: np.ndarray | None = None) -> Run:
    """Product rows of a search (best first, -1 for none) with their scores; default: 1 / rank."""
    if scores_QxK is None:
        scores_QxK = np.broadcast_to(1 / np.arange(1, products_QxK.shape[1] + 1), products_QxK.shape)
    product_ids, run = data.product_ids, {}
    for query, rows_K, scores_K in zip(data.query_ids, products_QxK, scores_QxK, strict=True):
        kept_K = rows_K >= 0
        run[query] = dict(zip(product_ids[rows_K[kept_K]], scores_K[kept_K].tolist(), strict=True))
    return run


# -- TREC --------------------------------------------------------------------------------------------------------------


def read_trec_run(path: str | Path) -> Run:
    """Lines `query_id Q0 product_id rank score tag`. The score ranks, as in trec_eval; the rank is not read."""
    return _read_trec(Path(path), "query_id Q0 product_id rank score tag", 4, math.isnan, "a number")


def read_trec_qrels(path: str | Path) -> Run:
    """Lines `query_id 0 product_id grade`. A grade below 0 ("junk" in TREC) is read as 0, as the metrics count it."""
    read = _read_trec(Path(path), "query_id 0 product_id grade", 3, lambda x: not math.isfinite(x), "a finite number")
    return {query: {product: max(grade, 0.0) for product, grade in graded.items()} for query, graded in read.items()}


def write_trec_run(run: Grades, path: str | Path, tag: str = "gcl") -> None:
    """Best first, with all digits of the scores; equal scores keep the order of the run."""
    rows = []
    for query, scores in run.items():
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        rows += [f"{_word(query)} Q0 {_word(p)} {rank} {float(s)!r} {tag}" for rank, (p, s) in enumerate(ranked, 1)]
    _write_lines(path, rows)


def write_trec_qrels(qrels: Grades, path: str | Path) -> None:
    """Grades that are not integers are written too, though trec_eval doesn't read them."""
    pairs = ((query, product, grade) for query, graded in qrels.items() for product, grade in graded.items())
    _write_lines(path, (f"{_word(query)} 0 {_word(product)} {grade:.17g}" for query, product, grade in pairs))


def _read_trec(path: Path, layout: str, column: int, is_bad: Callable[[float], bool], expected: str) -> Run:
    run: Run = {}
    for at, line in lines(path):
        parts = line.split()
        if len(parts) != len(layout.split()):
            raise DataError(f"{path} line {at}: {len(parts)} columns, {line!r}; {layout!r} is expected")
        query, product, value = parts[0], parts[2], number(parts[column])
        if is_bad(value):
            raise DataError(f"{path} line {at}: {layout.split()[column]} {parts[column]!r}; {expected} is expected")
        if product in run.setdefault(query, {}):
            raise DataError(f"{path} line {at}: query {query!r} lists product {product!r} twice; keep one line")
        run[query][product] = value
    return run


def _word(name: object) -> str:
    text = str(name)
    if len(text.split()) != 1:
        raise DataError(f"id {text!r}: TREC separates columns by white space; rename the ids, or write BEIR")
    return text


def _write_lines(path: str | Path, rows: Iterable[str]) -> None:
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{row}\n" for row in rows)
