"""Other tools' files and objects, in and out: TREC runs and qrels, BEIR folders, ranx.

A run is {query_id: {product_id: score}}, qrels are {query_id: {product_id: grade}}, as `metrics.measure` takes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.fields import is_missing
from gcl_toolkit.metrics import Grades
from gcl_toolkit.ranked_data import RankedData, divide, is_image

Run = dict[str, dict[str, float]]

# -- RankedData as dicts -----------------------------------------------------------------------------------------------


def qrels_of(data: RankedData) -> Run:
    """The scored pairs, queries in their order; a query without pairs is left out."""
    query, product, score = data.pairs
    query_ids, product_ids = data.query_ids, data.product_ids
    found: Run = {query_ids[row]: {} for row in np.unique(query)}
    for row, item, value in zip(query, product, score.tolist(), strict=True):
        found[query_ids[row]][product_ids[item]] = value
    return found


def run_of(data: RankedData, products_QxK: np.ndarray, scores_QxK: np.ndarray | None = None) -> Run:
    """Product rows (best first, -1 for none), as every search gives them, with their scores, or 1 / rank."""
    if scores_QxK is None:
        scores_QxK = np.broadcast_to(1 / np.arange(1, products_QxK.shape[1] + 1), products_QxK.shape)
    product_ids, found = data.product_ids, {}
    for query, rows_K, scores_K in zip(data.query_ids, products_QxK, scores_QxK, strict=True):
        kept_K = rows_K >= 0
        found[query] = dict(zip(product_ids[rows_K[kept_K]], scores_K[kept_K].tolist(), strict=True))
    return found


# -- TREC --------------------------------------------------------------------------------------------------------------


def read_trec_run(path: str | Path) -> Run:
    """Lines `query_id Q0 product_id rank score tag`. The score ranks, as in trec_eval; the rank is not read."""
    return _read_trec(Path(path), "query_id Q0 product_id rank score tag", 4, math.isnan, "a number")


def read_trec_qrels(path: str | Path) -> Run:
    """Lines `query_id 0 product_id grade`. A grade below 0 (TREC's "junk") is read as 0, as the metrics count it."""
    read = _read_trec(Path(path), "query_id 0 product_id grade", 3, lambda x: not math.isfinite(x), "a finite number")
    return {query: {product: max(grade, 0.0) for product, grade in graded.items()} for query, graded in read.items()}


def write_trec_run(run: Grades, path: str | Path, tag: str = "gcl") -> None:
    """Best first, of equal scores the one that the run names first, with the scores in full."""
    lines = []
    for query, scores in run.items():
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        lines += [f"{_word(query)} Q0 {_word(p)} {rank} {float(s)!r} {tag}" for rank, (p, s) in enumerate(ranked, 1)]
    _write_lines(path, lines)


def write_trec_qrels(qrels: Grades, path: str | Path) -> None:
    """trec_eval reads whole grades only; others are written as they are, for tools that read them."""
    _write_lines(
        path, (f"{_word(q)} 0 {_word(p)} {grade:.17g}" for q, graded in qrels.items() for p, grade in graded.items())
    )


def _read_trec(path: Path, layout: str, column: int, is_bad: Callable[[float], bool], expected: str) -> Run:
    found: Run = {}
    for number, line in _lines(path):
        parts = line.split()
        if len(parts) != len(layout.split()):
            raise DataError(f"{path} line {number}: {len(parts)} columns, {line!r}; {layout!r} is expected")
        query, product = parts[0], parts[2]
        value = _number(parts[column])
        if value is None or is_bad(value):
            raise DataError(f"{path} line {number}: {layout.split()[column]} {parts[column]!r}; {expected} is expected")
        if product in found.setdefault(query, {}):
            raise DataError(f"{path} line {number}: query {query!r} has product {product!r} twice; keep one line")
        found[query][product] = value
    return found


def _word(name: object) -> str:
    text = str(name)
    if len(text.split()) != 1:
        raise DataError(f"id {text!r}: TREC's columns are parted by white space; give ids without it, or write BEIR")
    return text


# -- BEIR --------------------------------------------------------------------------------------------------------------


def is_beir(folder: str | Path) -> bool:
    """Whether a folder has corpus.jsonl, queries.jsonl and qrels/."""
    folder = Path(folder)
    return all((folder / name).exists() for name in ("corpus.jsonl", "queries.jsonl", "qrels"))


def load(folder: str | Path, seed: int = 0) -> dict[str, RankedData]:
    """A BEIR folder as splits over its one corpus: qrels/train.tsv is in_domain; dev.tsv and test.tsv are novel_query,
    or zero_shot where there is nothing to train on, with their queries as the two divisions."""
    folder = Path(folder)
    held_out = [name for name in ("dev", "test") if (folder / "qrels" / f"{name}.tsv").exists()]
    train = (folder / "qrels" / "train.tsv").exists()
    if not held_out and not train:
        raise DataError(f"{folder}/qrels: none of train.tsv, dev.tsv, test.tsv is there; one at least is expected")
    splits = {"in_domain": divide(read_beir(folder, "train"), seed)} if train else {}
    if held_out:
        parts = [_in_division(read_beir(folder, name), name) for name in held_out]
        queries, qrels = (pa.concat_tables(getattr(part, table) for part in parts) for table in ("queries", "qrels"))
        name = "novel_query" if train else "zero_shot"
        splits[name] = RankedData(queries, parts[0].corpus, qrels, name, parts[0].card)
    return splits


def read_beir(folder: str | Path, split: str = "test") -> RankedData:
    """The queries of qrels/SPLIT.tsv with the whole corpus. `text` of a query becomes `query`; a product keeps `title`
    and `text`; what else is in a line, or under "metadata", becomes a column where it is text, number or
    truth value."""
    folder = Path(folder)
    if not is_beir(folder):
        raise DataError(f"{folder}: corpus.jsonl, queries.jsonl and qrels/ are expected of a BEIR folder")
    corpus = _beir_table(folder / "corpus.jsonl", "product_id", {})
    queries = _beir_table(folder / "queries.jsonl", "query_id", {"text": "query"})
    file = folder / "qrels" / f"{split}.tsv"
    qrels = _beir_qrels(file, set(queries["query_id"].to_pylist()), set(corpus["product_id"].to_pylist()))
    judged = pc.is_in(queries["query_id"], value_set=qrels["query_id"].combine_chunks())
    return RankedData(queries.filter(judged), corpus, qrels, folder.name, {"source": "BEIR", "path": str(folder)})


def write_beir(data: RankedData, folder: str | Path, split: str = "test") -> None:
    """corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. Fields but `query`, `title` and `text` go to "metadata";
    pictures are left out, BEIR has none. Its readers take whole grades only, so others are an error."""
    scores = data.pairs.score
    if (scores != np.round(scores)).any():
        seen = scores[scores != np.round(scores)][0]
        raise DataError(f"{data.name}: score {seen:g}; BEIR's grades are whole numbers: use weighting.rescale first")
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "corpus.jsonl", _beir_lines(data.corpus, {"title": "title", "text": "text"}))
    _write_lines(folder / "queries.jsonl", _beir_lines(data.queries, {"text": "query"}))
    pairs = zip(data.qrels["query_id"].to_pylist(), data.qrels["product_id"].to_pylist(), scores, strict=True)
    rows = [f"{_cell(query)}\t{_cell(product)}\t{score:.0f}" for query, product, score in pairs]
    _write_lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *rows])


def _in_division(data: RankedData, division: str) -> RankedData:
    column = pa.array([division] * data.queries.num_rows, pa.string())
    return RankedData(data.queries.append_column("division", column), data.corpus, data.qrels, data.name, data.card)


def _beir_table(path: Path, id_column: str, renamed: dict[str, str]) -> pa.Table:
    columns: dict[str, list] = {id_column: []}
    for row, (number, line) in enumerate(_lines(path)):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path} line {number}: no JSON ({error}); is the file whole?") from None
        if not isinstance(entry, dict) or is_missing(entry.get("_id")):
            raise DataError(f"{path} line {number}: {line[:60]!r}; an object with an _id is expected")
        columns[id_column].append(str(entry.pop("_id")))
        extra = entry.pop("metadata", None)
        entry = {**(extra if isinstance(extra, dict) else {}), **{renamed.get(n, n): v for n, v in entry.items()}}
        for name, value in entry.items():
            if isinstance(value, str | bool | int | float) and name not in ("query_id", "product_id", "division"):
                column = columns.setdefault(name, [])
                column += [None] * (row - len(column)) + [value]
    for values in columns.values():
        values += [None] * (len(columns[id_column]) - len(values))
    return pa.table({name: _column(path, name, values) for name, values in columns.items()})


def _column(path: Path, name: str, values: list) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise DataError(f"{path}: {name!r} is text in one line and a number in another; one kind is expected") from None


def _beir_qrels(path: Path, queries: set[str], products: set[str]) -> pa.Table:
    rows = []
    for number, line in _lines(path):
        parts = line.split("\t")
        if number == 1 and _number(parts[-1]) is None:
            continue
        if len(parts) != 3:
            raise DataError(f"{path} line {number}: {len(parts)} columns, {line!r}; query-id, corpus-id and score")
        score = _number(parts[2])
        if score is None or not math.isfinite(score):
            raise DataError(f"{path} line {number}: score {parts[2]!r}; a finite number is expected")
        for value, known, where in ((parts[0], queries, "queries.jsonl"), (parts[1], products, "corpus.jsonl")):
            if value not in known:
                raise DataError(f"{path} line {number}: {value!r} is not an _id of {where}")
        rows.append((parts[0], parts[1], max(score, 0.0)))
    query, product, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "query_id": pa.chunked_array([pa.array(query, pa.string())]),
            "product_id": pa.array(product, pa.string()),
            "score": pa.array(scores, pa.float64()),
        }
    )


def _beir_lines(table: pa.Table, top: dict[str, str]) -> Iterator[str]:
    """top: BEIR's name -> our column."""
    id_column = table.column_names[0]
    others = [c for c in table.column_names[1:] if c not in (*top.values(), "division") and not is_image(table[c])]
    for row in table.select([c for c in table.column_names if not is_image(table[c])]).to_pylist():
        entry = {"_id": row[id_column], **{name: row.get(ours) or "" for name, ours in top.items()}}
        extra = {name: row[name] for name in others if not is_missing(row[name])}
        yield json.dumps({**entry, "metadata": extra}, ensure_ascii=False)


def _cell(name: str) -> str:
    if any(sign in name for sign in "\t\r\n"):
        raise DataError(f"id {name!r}: a tab or a line end can't stand in a BEIR qrels file; give ids without them")
    return name


# -- ranx --------------------------------------------------------------------------------------------------------------


def to_ranx(qrels: Grades, run: Grades | None = None) -> Any:
    """A `ranx.Qrels`, or of a run (`to_ranx(qrels, run)`) the pair (Qrels, Run). ranx takes whole grades only."""
    try:
        import ranx
    except ImportError:
        raise UserError("ranx is not installed; pip install ranx") from None
    for query, graded in qrels.items():
        for product, grade in graded.items():
            if grade != round(grade):
                raise DataError(f"query {query!r}, product {product!r}: grade {grade:g}; ranx takes whole grades only")
    made = ranx.Qrels({str(q): {str(p): round(g) for p, g in graded.items()} for q, graded in qrels.items()})
    if run is None:
        return made
    return made, ranx.Run({str(q): {str(p): float(s) for p, s in scores.items()} for q, scores in run.items()})


def from_ranx(made: Any) -> Run:
    """The dict of a `ranx.Qrels` or a `ranx.Run`."""
    return {query: {product: float(v) for product, v in values.items()} for query, values in made.to_dict().items()}


# -- helpers -----------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of every line that isn't empty."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as text ({error}); UTF-8 is expected") from None


def _write_lines(path: str | Path, lines) -> None:
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
