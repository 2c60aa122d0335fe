"""Own tables (CSV, TSV, parquet, JSONL): one flat table, three tables in a folder, or saved splits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gcl_toolkit.errors import DataError
from gcl_toolkit.findings import bad_choices, bad_scores, numbers
from gcl_toolkit.ranked_data import SPLITS, RankedData, divide, four_way_split
from gcl_toolkit.sources.quarantine import obeyed
from gcl_toolkit.sources.rows import FORMATS, Tables, as_images, from_rows, read_file

STEMS = {"queries": ("queries",), "corpus": ("corpus", "products"), "qrels": ("qrels", "pairs")}
SCORES = ("score", "score_linear", "gain", "label")
"""The columns that are the score when none is named, the first that exists."""

_TEXT = ("query_id", "product_id", "query", "title", "image", "split", "division")

Source = str | Path | Mapping[str, str | Path]
Score = str | Mapping[str, float] | None


def load(path: Source, seed: int = 0, quarantine: Path | None = None, **options) -> dict[str, RankedData]:
    """The four splits: as saved, as a column `split` of the pairs says, or else drawn by `four_way_split`.

    Options as in `read_table`; `quarantine` is a file that names rows to leave out.
    """
    read = obeyed(tables(path, **options), quarantine)
    if set(read) & set(SPLITS):
        return {name: part.data() for name, part in read.items()}
    (whole,) = read.values()
    data = whole.data()
    return _given_splits(data, seed) if "split" in data.qrels.column_names else four_way_split(data, seed=seed)


def read_table(path: Source, columns: Mapping[str, str] | None = None, score: Score = None) -> RankedData:
    """The whole of a table, unsplit.

    path:    a file, one row a scored pair: `product_id`, `score`, `query` (and `query_id`; else the text is the id),
             fields of the query named `query_...`, of the pair named `score...`, `position` or `split`; every other
             column is a field of the product. Or a folder or a dict of three: queries, corpus (or products), qrels.
    columns: our name -> the name in the files, as in {"query": "search_term", "score": "clicks"}.
    score:   another score column, or several with their weights, summed: {"clicks": 1, "carts": 4}.
    Columns `image` and `..._image` are paths relative to the file's folder, bytes, or {bytes, path}.
    """
    read = tables(path, columns, score)
    if len(read) > 1:
        raise DataError(f"{path}: holds the splits {', '.join(read)}; read one of these folders, or load(path) all")
    return next(iter(read.values())).data()


def write(data: RankedData | Mapping[str, RankedData], folder: str | Path) -> None:
    """Save as queries.parquet, corpus.parquet, qrels.parquet and card.json; of splits each in a folder of its name."""
    folder = Path(folder)
    if isinstance(data, Mapping):
        for name, part in data.items():
            write(part, folder / name)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in STEMS:
        parquet.write_table(getattr(data, name), folder / f"{name}.parquet")
    (folder / "card.json").write_text(json.dumps({"name": data.name, "card": data.card}, indent=1), "utf-8")


def tables(path: Source, columns: Mapping[str, str] | None = None, score: Score = None) -> dict[str, Tables]:
    """What `read_table` and `load` read, before it is checked: by split if the folder holds saved splits."""
    if isinstance(path, Mapping):
        strange = set(path) ^ set(STEMS)
        if strange:
            raise DataError(f"the files are {', '.join(path)}; {', '.join(STEMS)} are expected")
        return {"": _read_three({name: Path(file) for name, file in path.items()}, "table", columns, score)}
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.is_file():
        return {"": _read_flat(path, columns, score)}
    splits = [name for name in SPLITS if _three(path / name)]
    if splits:
        return {name: _read_three(_three(path / name), name, columns, score) for name in splits}
    files = _three(path)
    if files:
        return {"": _read_three(files, path.name, columns, score)}
    flat = [file for file in sorted(path.iterdir()) if file.suffix in FORMATS]
    if len(flat) == 1:
        return {"": _read_flat(flat[0], columns, score)}
    raise DataError(
        f"{path}: holds {', '.join(f.name for f in flat) or 'no table'}; one flat table, or queries, corpus "
        f"(or products) and qrels are expected, as {', '.join(FORMATS)}"
    )


# -- reading -----------------------------------------------------------------------------------------------------------


def _three(folder: Path) -> dict[str, Path]:
    """The three files of a folder; empty unless all are there."""
    found = {}
    for name, stems in STEMS.items():
        files = [folder / f"{stem}{ending}" for stem in stems for ending in FORMATS]
        if file := next((file for file in files if file.exists()), None):
            found[name] = file
    return found if len(found) == len(STEMS) else {}


def _read_three(files: dict[str, Path], name: str, columns: Mapping[str, str] | None, score: Score) -> Tables:
    columns = dict(columns or {})
    read = {part: _renamed(read_file(file, _text(columns, score)), columns) for part, file in files.items()}
    absent = [theirs for ours, theirs in columns.items() if not any(ours in t.column_names for t in read.values())]
    if absent:
        raise DataError(f"{name}: column {absent[0]!r}, named in columns=, is in none of the files")
    read = {part: _with_images(table, files[part].parent) for part, table in read.items()}
    read["qrels"], problems = _with_score(read["qrels"], score)
    told = _card(files["qrels"].parent / "card.json")
    return Tables(**read, name=told.get("name", name), card=told.get("card", {}), problems=problems)


def _card(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: can't be read as JSON ({error}); mend or remove it") from None


def _read_flat(file: Path, columns: Mapping[str, str] | None, score: Score) -> Tables:
    columns = dict(columns or {})
    rows = read_file(file, _text(columns, score))
    absent = [theirs for theirs in columns.values() if theirs not in rows.column_names]
    if absent:
        raise DataError(f"{file}: column {absent[0]!r}, named in columns=, is missing; it has {_names(rows)}")
    rows = _renamed(rows, columns)
    missing = [c for c in ("query", "product_id") if c not in rows.column_names]
    if score is None and not set(SCORES) & set(rows.column_names):
        missing.append("score")
    if missing:
        raise DataError(
            f"{file}: column {' and '.join(map(repr, missing))} is missing; it has {_names(rows)}; "
            f"name the right one, as in columns={{{missing[0]!r}: '...'}}"
        )
    if "query_id" not in rows.column_names:
        rows = rows.append_column("query_id", rows["query"])
    rows, problems = _with_score(_with_images(rows, file.parent), score)
    ids, of_pair = ("query_id", "product_id"), ("position", "split", *SCORES, *_parts(score))
    of_query = [c for c in rows.column_names if c in ("query", "division") or (c.startswith("query_") and c not in ids)]
    of_product = [c for c in rows.column_names if c not in (*ids, *of_query, *of_pair) and not c.startswith("score_")]
    return from_rows(rows, file.name, of_query, of_product)._replace(problems=problems)


def _text(columns: Mapping[str, str], score: Score) -> tuple[str, ...]:
    """The columns of a CSV to read as they stand; a score too, so that a bad one can be quoted."""
    return (*(columns.get(c, c) for c in (*_TEXT, *SCORES)), *_parts(score))


def _names(table: pa.Table) -> str:
    return ", ".join(table.column_names)


def _renamed(table: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    ours = {theirs: name for name, theirs in columns.items()}
    kept = [c for c in table.column_names if c in ours or c not in columns]
    return table.select(kept).rename_columns([ours.get(c, c) for c in kept])


def _with_images(table: pa.Table, folder: Path) -> pa.Table:
    for i, name in enumerate(table.column_names):
        if name == "image" or name.endswith("_image"):
            table = table.set_column(i, name, as_images(table[name], folder.absolute()))
    return table


def _parts(score: Score) -> tuple[str, ...]:
    return () if score is None else (score,) if isinstance(score, str) else tuple(score)


def _with_score(rows: pa.Table, score: Score) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows with a column `score`, and what is wrong with the columns it is made of, and with `split`."""
    problems = [*bad_choices(rows, "qrels", "split", SPLITS)]
    if score is None:
        score = next((c for c in SCORES if c in rows.column_names), "score")
    if score != "score":
        problems += [fault for column in _parts(score) for fault in bad_scores(rows, column)]
    if not set(_parts(score)) <= set(rows.column_names):
        return rows, tuple(problems)
    if isinstance(score, str):
        return _put(rows, "score", rows[score]), tuple(problems)
    total = sum((weight * numbers(rows[c]) for c, weight in score.items()), np.zeros(rows.num_rows))
    return _put(rows, "score", pa.chunked_array([total])), tuple(problems)


def _put(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def _given_splits(data: RankedData, seed: int) -> dict[str, RankedData]:
    """The splits that the pairs' column `split` names; a product without a pair goes to either half by chance."""
    divided = data if "division" in data.queries.column_names else divide(data, seed)
    query, product, _ = data.pairs
    split = np.array(data.qrels["split"].to_pylist())
    rng = np.random.default_rng(seed)
    in_half = np.stack([rng.permutation(len(data.product_ids)) % 2 == half for half in (0, 1)])
    in_half[:, np.unique(product)] = False
    for half, names in enumerate((SPLITS[:2], SPLITS[2:])):
        in_half[half, product[np.isin(split, names)]] = True
    halves = [data.corpus.filter(pa.array(chosen)) for chosen in in_half]
    return {
        name: RankedData(
            divided.queries.take(pa.array(np.unique(query[split == name]))),
            halves[SPLITS.index(name) // 2],
            data.qrels.filter(pa.array(split == name)),
            name=name,
            card=data.card,
        )
        for name in SPLITS
        if (split == name).any()
    }
