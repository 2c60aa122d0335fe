"""Your own tables (CSV, TSV, parquet, JSONL): one flat table, three tables in a folder, or saved splits."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gcl_toolkit.data.columns import numbers, put
from gcl_toolkit.data.findings import bad_choices, bad_scores
from gcl_toolkit.data.ranked_data import SPLITS, RankedData
from gcl_toolkit.data.sources.rows import Tables, first_values, usable_fields
from gcl_toolkit.data.tabular import FORMATS, read_file
from gcl_toolkit.errors import DataError

STEMS = {"queries": ("queries",), "corpus": ("corpus", "products"), "qrels": ("qrels", "pairs")}
SCORES = ("score", "score_linear", "gain", "label")
"""The columns that are the score when none is named; the first that exists is taken."""

Source = str | Path | Mapping[str, str | Path]
Columns = Mapping[str, str] | None
Score = str | Mapping[str, float] | None


def recognizes(path: Path) -> bool:
    """Any path: an error names what is wrong with it."""
    return True


def read_table(path: Source, columns: Columns = None, score: Score = None, fields: str | None = None) -> RankedData:
    """All of a table as one RankedData, without splitting it; arguments as in `tables`."""
    parts = tables(path, columns, score, fields)
    if len(parts) > 1:
        raise DataError(f"{path}: holds the splits {', '.join(parts)}; read one of these folders, or load(path) all")
    return next(iter(parts.values())).data()


def tables(path: Source, columns: Columns = None, score: Score = None, fields: str | None = None) -> dict[str, Tables]:
    """The tables at a path, by split if the folder holds saved splits.

    path:    a file with one row for each scored pair: `product_id`, `score`, `query` (and `query_id`; default: the
             text), fields of the query named `query_...`, of the pair named `score...`, `position` or `split`; every
             other column is a field of the product. Or a folder or dict of three: queries, corpus (or products), qrels.
    columns: our name -> the name in the files, as in {"query": "search_term", "score": "clicks"}.
    score:   another score column, or several with their weights, summed: {"clicks": 1, "carts": 4}.
    fields:  the product fields to keep, as "title+brand"; default: all.
    Columns `image` and `..._image` are paths relative to the file's folder, bytes, or {bytes, path}.
    """
    parts = _tables(path, dict(columns or {}), score)
    return {name: _keep_fields(part, fields.split("+")) for name, part in parts.items()} if fields else parts


def write(data: RankedData | Mapping[str, RankedData], folder: str | Path) -> None:
    """Save as queries.parquet, corpus.parquet, qrels.parquet and card.json; splits in a folder of their name each."""
    folder = Path(folder)
    if isinstance(data, Mapping):
        for name, part in data.items():
            write(part, folder / name)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in STEMS:
        parquet.write_table(getattr(data, name), folder / f"{name}.parquet")
    (folder / "card.json").write_text(json.dumps({"name": data.name, "card": data.card}, indent=1), "utf-8")


def _tables(path: Source, columns: dict[str, str], score: Score) -> dict[str, Tables]:
    if isinstance(path, Mapping):
        if set(path) != set(STEMS):
            raise DataError(f"the files are {', '.join(path)}; {', '.join(STEMS)} are expected")
        return {"": _read_three({name: Path(file) for name, file in path.items()}, "table", columns, score)}
    path = Path(path)
    if not path.is_dir():
        return {"": _read_flat(path, columns, score)}
    splits = [name for name in SPLITS if _three(path / name)]
    if splits:
        return {name: _read_three(_three(path / name), name, columns, score) for name in splits}
    if files := _three(path):
        return {"": _read_three(files, path.name, columns, score)}
    flat = [file for file in sorted(path.iterdir()) if file.suffix in FORMATS]
    if len(flat) == 1:
        return {"": _read_flat(flat[0], columns, score)}
    raise DataError(
        f"{path}: the folder holds {', '.join(f.name for f in flat) or 'no table'}; expected is one flat table, or "
        f"queries, corpus (or products) and qrels, as {', '.join(FORMATS)}"
    )


def _three(folder: Path) -> dict[str, Path]:
    """The three files of a folder; empty unless it has all of them."""
    files = {
        name: [file for stem in stems for ending in FORMATS if (file := folder / f"{stem}{ending}").exists()]
        for name, stems in STEMS.items()
    }
    return {name: candidates[0] for name, candidates in files.items()} if all(files.values()) else {}


def _read_three(files: dict[str, Path], name: str, columns: dict[str, str], score: Score) -> Tables:
    parts = {part: _renamed(read_file(file), columns) for part, file in files.items()}
    for ours, theirs in columns.items():
        if not any(ours in part.column_names for part in parts.values()):
            raise DataError(f"{name}: column {theirs!r}, named in columns=, is in none of the files")
    queries, query_notes = usable_fields(parts["queries"], files["queries"].parent)
    corpus, notes = usable_fields(parts["corpus"], files["corpus"].parent)
    qrels, problems = _with_score(parts["qrels"], score)
    saved = _card(files["qrels"].parent / "card.json")
    mended = ("conflicts", "repeated_pairs")  # reported when the folder was imported
    card = {key: value for key, value in saved.get("card", {}).items() if key not in mended}
    kinds = {part: file.suffix.lower() for part, file in files.items()}
    return Tables(queries, corpus, qrels, saved.get("name", name), card, problems, query_notes + notes, kinds)


def _card(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: can't be read as JSON ({error}); fix or remove it") from None


def _read_flat(file: Path, columns: dict[str, str], score: Score) -> Tables:
    rows = read_file(file)
    for theirs in columns.values():
        if theirs not in rows.column_names:
            raise DataError(f"{file}: column {theirs!r}, named in columns=, is missing; it has {_names(rows)}")
    rows = _renamed(rows, columns)
    missing = [c for c in ("query", "product_id") if c not in rows.column_names]
    if score is None and not set(SCORES) & set(rows.column_names):
        missing.append("score")
    if missing:
        raise DataError(
            f"{file}: column {' and '.join(map(repr, missing))} is missing; it has {_names(rows)}; "
            f"name the right one: columns={{{missing[0]!r}: NAME}}, or gcl data import with --columns {missing[0]} NAME"
        )
    if "query_id" not in rows.column_names:
        rows = rows.append_column("query_id", rows["query"])
    rows, problems = _with_score(rows, score)
    ids = ("query_id", "product_id")
    of_pair = {"position", "split", *SCORES, *_parts(score), *(c for c in rows.column_names if c.startswith("score_"))}
    rows, notes = usable_fields(rows, file.parent, raw=of_pair)
    for name in ("query", *ids):
        if name not in rows.column_names:
            raise DataError(f"{file}: {next(note for note in notes if repr(name) in note)}")
    of_query = [c for c in rows.column_names if c in ("query", "division") or (c.startswith("query_") and c not in ids)]
    of_product = [c for c in rows.column_names if c not in (*ids, *of_query, *of_pair)]
    queries, query_conflicts = first_values(rows.select(["query_id", *of_query]), "query_id")
    corpus, conflicts = first_values(rows.select(["product_id", *of_product]), "product_id")
    qrels, card = rows.drop_columns(of_query + of_product), {"conflicts": query_conflicts | conflicts}
    return Tables(queries, corpus, qrels, file.name, card, problems, notes, {"qrels": file.suffix.lower()})


def _names(table: pa.Table) -> str:
    return ", ".join(table.column_names)


def _renamed(table: pa.Table, columns: dict[str, str]) -> pa.Table:
    ours = {theirs: name for name, theirs in columns.items()}
    kept = [c for c in table.column_names if c in ours or c not in columns]
    return table.select(kept).rename_columns([ours.get(c, c) for c in kept])


def _parts(score: Score) -> tuple[str, ...]:
    return () if score is None else (score,) if isinstance(score, str) else tuple(score)


def _with_score(rows: pa.Table, score: Score) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows with a column `score`, and the faults of `split` and of the columns that the score is made of."""
    problems = [*bad_choices(rows, "qrels", "split", SPLITS)]
    if score is None:
        score = next((c for c in SCORES if c in rows.column_names), "score")
    if score != "score":
        problems += [fault for column in _parts(score) for fault in bad_scores(rows, column)]
    if not set(_parts(score)) <= set(rows.column_names):
        return rows, tuple(problems)
    if isinstance(score, str):
        return put(rows, "score", rows[score]), tuple(problems)
    total = sum((weight * numbers(rows[c]) for c, weight in score.items()), np.zeros(rows.num_rows))
    return put(rows, "score", pa.chunked_array([total])), tuple(problems)


def _keep_fields(part: Tables, fields: list[str]) -> Tables:
    absent = [name for name in fields if name not in part.corpus.column_names]
    if absent:
        raise DataError(f"{part.name}: field {absent[0]!r} is not a product column; it has {_names(part.corpus)}")
    return replace(part, corpus=part.corpus.select(["product_id", *fields]))
