"""BEIR folders, in and out: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; and the same three tables in parquet, in a
folder or on the hub, as MTEB and M-BEIR publish them, with texts and pictures."""

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import as_text, is_image, numbers, put
from gcl_toolkit.data.fields import is_missing
from gcl_toolkit.data.findings import NOT_FIELDS
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.sources.download import local_or_hub
from gcl_toolkit.data.sources.rows import Tables, first_values, usable_fields
from gcl_toolkit.data.tabular import check_columns, json_lines, json_table, read_file
from gcl_toolkit.errors import DataError

QRELS = ("query_id", "product_id", "score")
SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""Split -> names of its qrels; the first that exists is read."""
_PARQUET = re.compile(
    r"(?:([\w.]+)-)?(corpus|query|queries|qrels|default|data)(?:/([\w-]+?))?(-\d+-of-\d+(?:-\w+)?)?\.parquet"
)
"""Subset, table, split and number in a path: en-corpus/test-00000-of-00001.parquet, query-00000-of-00001.parquet."""
_TABLES = {"query": "queries", "default": "qrels", "data": "qrels"}
"""Other names of the tables."""
_NAMES = dict.fromkeys(("query-id", "query_id"), "query_id") | dict.fromkeys(("corpus-id", "corpus_id"), "product_id")

Files = dict[str, dict[str, list[Path]]]
"""Table (corpus, queries, qrels) -> split -> files."""


def recognizes(path: Path) -> bool:
    """Whether a folder has corpus.jsonl, queries.jsonl and qrels/, or these as numbered parquet files."""
    return _is_jsonl(path) or any(len(files) == 3 for files in _parquet(path).values())


def tables(path: str | Path, subset: str = "", fields: str | None = None) -> dict[str, Tables]:
    """The splits over their one corpus: the qrels of train are in_domain; those of dev (or validation) and test are
    novel_query, or zero_shot without train, with their queries as the two divisions.

    path:   a folder, or a data set on the hub, such as "mteb/nfcorpus" or "MRBench/mbeir_fashion200k_task0".
    subset: of several in parquet, as in en-corpus, en-queries and en-qrels.
    fields: the product fields to read, as "title+text"; default: all.
    """
    names = [*dict.fromkeys((*_TABLES, *_TABLES.values(), "corpus"))]
    prefix = f"{subset}-" if subset else ""
    folder = local_or_hub(path, [f"{prefix}{name}{end}" for name in names for end in ("-*", "/*", ".jsonl")])
    qrels = _qrels(folder, subset)
    read = {split: name for split, names in SPLITS.items() if (name := next((n for n in names if n in qrels), None))}
    if not read:
        raise DataError(f"{folder}: qrels of train, dev, validation or test are expected; it has {_listed(qrels)}")
    parts = dict(zip(read, _read(folder, [*read.values()], subset, fields), strict=True))
    unread = [name for name in qrels if name not in read.values()]
    notes = (f"qrels that are not read: {_listed(unread)}",) if unread else ()
    splits = {"in_domain": replace(parts["train"], name="in_domain")} if "train" in parts else {}
    held_out = [_in_division(parts[name], name) for name in ("dev", "test") if name in parts]
    if held_out:
        name = "novel_query" if splits else "zero_shot"
        queries, pairs = (pa.concat_tables([getattr(p, t) for p in held_out]) for t in ("queries", "qrels"))
        splits[name] = replace(held_out[0], queries=queries, qrels=pairs, name=name)
    first = next(iter(splits))
    return splits | {first: replace(splits[first], notes=splits[first].notes + notes)}


def read_beir(folder: str | Path, split: str = "test") -> RankedData:
    """The queries of qrels/SPLIT.tsv with the full corpus. `text` of a query becomes `query`; a product keeps `title`
    and `text`; other texts and numbers of a line, or of its "metadata", become columns."""
    return _read(Path(folder), [split])[0].data()


def write_beir(data: RankedData, folder: str | Path, split: str = "test") -> None:
    """corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. Fields other than `query`, `title` and `text` go to "metadata";
    images are left out, since BEIR has none. Scores must be integers."""
    scores = data.pairs.score
    if (scores != np.round(scores)).any():
        seen = scores[scores != np.round(scores)][0]
        raise DataError(f"{data.name}: score {seen:g}; BEIR's grades are integers: use weighting.rescale first")
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_side(data.corpus, folder / "corpus.jsonl", {"title": "title", "text": "text"})
    _write_side(data.queries, folder / "queries.jsonl", {"text": "query"})
    rows = zip(*(data.qrels[name].to_pylist() for name in QRELS[:2]), scores.astype(int), strict=True)
    with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("query-id", "corpus-id", "score"), *rows])


def _is_jsonl(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("corpus.jsonl", "queries.jsonl", "qrels"))


def _parquet(folder: Path) -> dict[str, Files]:
    """Subset -> its parquet files; a file that names no split belongs to test."""
    subsets: dict[str, Files] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]):
        match = _PARQUET.fullmatch(file.relative_to(folder).as_posix())
        if match and (match[3] or match[4]):
            files = subsets.setdefault(match[1] or "", {}).setdefault(_TABLES.get(match[2], match[2]), {})
            files.setdefault(match[3] or "test", []).append(file)
    return subsets


def _qrels(folder: Path, subset: str) -> list[str]:
    """The splits of the qrels."""
    if _is_jsonl(folder):
        return sorted(file.stem for file in (folder / "qrels").iterdir())
    subsets = _parquet(folder)
    if len(subsets.get(subset, ())) < 3:
        others = [name for name, files in subsets.items() if len(files) == 3 and name]
        expected = f"subset={' or subset='.join(others)} is" if others else "corpus, queries and qrels are"
        raise DataError(f"{folder}: {expected} expected, as jsonl and tsv or as parquet")
    return [*subsets[subset]["qrels"]]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _read(folder: Path, splits: list[str], subset: str = "", fields: str | None = None) -> list[Tables]:
    """The judged queries of each split, over one corpus."""
    if _is_jsonl(folder):
        corpus, notes = _read_side(folder / "corpus.jsonl", "product_id", {})
        queries, query_notes = _read_side(folder / "queries.jsonl", "query_id", {"text": "query"})
        files = [folder / "qrels" / f"{split}.jsonl" for split in splits]
        qrels = [_read_qrels(file if file.exists() else file.with_suffix(".tsv")) for file in files]
    elif subset in (subsets := _parquet(folder)):
        sides = subsets[subset]
        corpus, notes = _parquet_side(sides["corpus"], "product_id", {}, fields.split("+") if fields else None)
        queries, query_notes = _parquet_side(sides["queries"], "query_id", {"text": "query"}, None)
        qrels = [_parquet_qrels(sides["qrels"][split]) for split in splits]
    else:
        raise DataError(f"{folder}: corpus.jsonl, queries.jsonl and qrels/ are expected in a BEIR folder")
    card = {"source": "BEIR", "path": str(folder), **_licence(folder)}
    judged = [pc.is_in(queries["query_id"], value_set=pairs["query_id"].combine_chunks()) for pairs in qrels]
    return [
        Tables(queries.filter(rows), corpus, pairs, folder.name, card, notes=query_notes + notes)
        for rows, pairs in zip(judged, qrels, strict=True)
    ]


def _parquet_qrels(files: list[Path]) -> pa.Table:
    table = _renamed(_concatenated(files), _NAMES)
    check_columns(table.column_names, QRELS, files[0])
    return put(table.select(QRELS), "query_id", as_text(table["query_id"]).cast(pa.string()))


def _parquet_side(
    files: dict[str, list[Path]], key: str, renamed: dict[str, str], fields: list[str] | None
) -> tuple[pa.Table, tuple[str, ...]]:
    """One row for each id in the files of all splits; without columns that describe the row."""
    wanted = None if fields is None else [*fields, "_id", "id", *_NAMES]
    table = _renamed(_concatenated(chain.from_iterable(files.values()), wanted), {"_id": key, "id": key, **renamed})
    table = table.select([name for name in table.column_names if name not in ("modality", "metadata")])
    if key not in table.column_names:
        first = next(iter(files.values()))[0]
        raise DataError(f"{first}: column _id or id is expected; it has {_listed(table.column_names)}")
    table, notes = usable_fields(table, Path())
    return (table if len(files) == 1 else first_values(table, key)[0]), notes


def _concatenated(files: Iterable[Path], columns: Collection[str] | None = None) -> pa.Table:
    return pa.concat_tables([read_file(file, columns) for file in files], promote_options="permissive")


def _renamed(table: pa.Table, names: dict[str, str]) -> pa.Table:
    return table.rename_columns([names.get(name, name) for name in table.column_names])


def _licence(folder: Path) -> dict[str, str]:
    """What the data card of a data set on the hub states."""
    readme = folder / "README.md"
    match = readme.exists() and re.search(r"^license:[\s\[-]*([\w.-]+)", readme.read_text("utf-8"), re.MULTILINE)
    return {"licence": match[1]} if match else {}


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


def _write_side(table: pa.Table, path: Path, top: dict[str, str]) -> None:
    """top: BEIR's name -> our column."""
    id_column, *kept = [name for name in table.column_names if not is_image(table[name])]
    others = [name for name in kept if name not in (*top.values(), "division")]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in table.select([id_column, *kept]).to_pylist():
            entry = {"_id": row[id_column], **{name: row.get(ours) or "" for name, ours in top.items()}}
            entry["metadata"] = {name: row[name] for name in others if not is_missing(row[name])}
            file.write(f"{json.dumps(entry, ensure_ascii=False)}\n")
