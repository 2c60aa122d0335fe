"""BEIR folders, in and out: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import is_image, numbers, put
from gcl_toolkit.data.fields import is_missing
from gcl_toolkit.data.findings import NOT_FIELDS
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.sources.rows import Tables, usable_fields
from gcl_toolkit.data.tabular import json_lines, json_table, read_file
from gcl_toolkit.errors import DataError

QRELS = ("query_id", "product_id", "score")
FILES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""Split -> names of its file in qrels/; the first that exists is read."""


def recognizes(path: Path) -> bool:
    """Whether a folder has corpus.jsonl, queries.jsonl and qrels/."""
    return all((path / name).exists() for name in ("corpus.jsonl", "queries.jsonl", "qrels"))


def tables(path: str | Path) -> dict[str, Tables]:
    """The splits of a folder over its one corpus: qrels/train.tsv is in_domain; dev.tsv (or validation.tsv) and
    test.tsv are novel_query, or zero_shot without train.tsv, with their queries as the two divisions."""
    folder = Path(path)
    files = {
        split: [f for n in names if (f := folder / "qrels" / f"{n}.tsv").exists()] for split, names in FILES.items()
    }
    parts = {split: _read(folder, found[0].stem) for split, found in files.items() if found}
    if not parts:
        raise DataError(f"{folder}/qrels: train.tsv, dev.tsv, validation.tsv or test.tsv is expected; it has none")
    read = {found[0] for found in files.values() if found}
    unread = [file.name for file in sorted((folder / "qrels").iterdir()) if file not in read]
    notes = (f"files of qrels/ that are not read: {', '.join(unread)}",) if unread else ()
    splits = {"in_domain": replace(parts["train"], name="in_domain")} if "train" in parts else {}
    held_out = [_in_division(parts[name], name) for name in ("dev", "test") if name in parts]
    if held_out:
        name = "novel_query" if splits else "zero_shot"
        queries, qrels = (pa.concat_tables([getattr(p, t) for p in held_out]) for t in ("queries", "qrels"))
        splits[name] = replace(held_out[0], queries=queries, qrels=qrels, name=name)
    first = next(iter(splits))
    return splits | {first: replace(splits[first], notes=splits[first].notes + notes)}


def read_beir(folder: str | Path, split: str = "test") -> RankedData:
    """The queries of qrels/SPLIT.tsv with the full corpus. `text` of a query becomes `query`; a product keeps `title`
    and `text`; other texts and numbers of a line, or of its "metadata", become columns."""
    return _read(Path(folder), split).data()


def write_beir(data: RankedData, folder: str | Path, split: str = "test") -> None:
    """corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. Fields other than `query`, `title` and `text` go to "metadata";
    images are left out, since BEIR has none. Scores must be integers."""
    scores = data.pairs.score
    if (scores != np.round(scores)).any():
        seen = scores[scores != np.round(scores)][0]
        raise DataError(f"{data.name}: score {seen:g}; BEIR's grades are integers: use weighting.rescale first")
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, table, top in (
        ("corpus", data.corpus, {"title": "title", "text": "text"}),
        ("queries", data.queries, {"text": "query"}),
    ):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in _json_lines(table, top))
    rows = zip(
        data.qrels["query_id"].to_pylist(), data.qrels["product_id"].to_pylist(), scores.astype(int), strict=True
    )
    with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("query-id", "corpus-id", "score"), *rows])


def _read(folder: Path, split: str) -> Tables:
    if not recognizes(folder):
        raise DataError(f"{folder}: corpus.jsonl, queries.jsonl and qrels/ are expected in a BEIR folder")
    corpus, notes = _read_side(folder / "corpus.jsonl", "product_id", {})
    queries, query_notes = _read_side(folder / "queries.jsonl", "query_id", {"text": "query"})
    qrels = _read_qrels(folder / "qrels" / f"{split}.tsv")
    judged = pc.is_in(queries["query_id"], value_set=qrels["query_id"].combine_chunks())
    card = {"source": "BEIR", "path": str(folder)}
    return Tables(queries.filter(judged), corpus, qrels, folder.name, card, notes=query_notes + notes)


def _in_division(part: Tables, division: str) -> Tables:
    column = pa.array([division] * part.queries.num_rows, pa.string())
    return replace(part, queries=put(part.queries, "division", column))


def _read_side(path: Path, id_column: str, renamed: dict[str, str]) -> tuple[pa.Table, tuple[str, ...]]:
    def entries() -> Iterator[dict]:
        for number, entry in json_lines(path):
            if is_missing(entry.get("_id")):
                raise DataError(f"{path} line {number}: an object with an _id is expected; it has {', '.join(entry)}")
            metadata = entry.pop("metadata", None)
            row = {id_column: entry.pop("_id"), **(metadata if isinstance(metadata, dict) else {})}
            row |= {renamed.get(name, name): value for name, value in entry.items() if name not in NOT_FIELDS}
            yield row

    return usable_fields(json_table(entries()), path.parent)


def _read_qrels(path: Path) -> pa.Table:
    table = read_file(path)
    if len(table.column_names) != 3:
        names = ", ".join(table.column_names)
        raise DataError(f"{path} line 1: {names}; query-id, corpus-id and score, separated by tabs, are expected")
    try:
        float(table.column_names[2])
        table = read_file(path, header=QRELS)  # a file without a header line
    except ValueError:
        table = table.rename_columns(QRELS)
    score = numbers(table["score"])
    return table if np.isnan(score).any() else put(table, "score", pa.chunked_array([np.maximum(score, 0)]))


def _json_lines(table: pa.Table, top: dict[str, str]) -> Iterator[str]:
    """top: BEIR's name -> our column."""
    id_column = table.column_names[0]
    kept = [name for name in table.column_names if not is_image(table[name])]
    others = [name for name in kept[1:] if name not in (*top.values(), "division")]
    for row in table.select(kept).to_pylist():
        entry = {"_id": row[id_column], **{name: row.get(ours) or "" for name, ours in top.items()}}
        extra = {name: row[name] for name in others if not is_missing(row[name])}
        yield json.dumps({**entry, "metadata": extra}, ensure_ascii=False)
