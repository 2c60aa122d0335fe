"""MarqoGS-10M as the tar has it: a CSV a split, a JSON a half of the products, ground truth for dev and test."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import as_images
from gcl_toolkit.data.sources.marqo_gs.rows import NEEDED, OPTIONAL, PART, check_columns, choose
from gcl_toolkit.data.tabular import open_file
from gcl_toolkit.errors import DataError

_TRUTH_SUFFIX = "_{!@#~}_"
"""Suffix of every query in the ground-truth files of the official evaluation."""


def tar_folders(path: Path) -> list[Path]:
    return [file.parent for file in sorted([*path.glob("corpus_[12].json"), *path.glob("marqo_gs_*/corpus_1.json")])]


def tar_folder(path: Path) -> Path:
    folders = sorted(set(tar_folders(path)))
    if len(folders) > 1:
        raise DataError(f"{path}: holds {', '.join(f.name for f in folders)}; give one of these folders")
    return folders[0]


def read_tar(folder: Path, queries: int | None, seed: int, fields: Iterable[str], images: str | Path | None):
    stems = {name: f"query_{q}_product_id_{d}" for name, (q, d) in PART.items()}
    rows = {
        name: _read_csv(folder / f"{stem}.csv") for name, stem in stems.items() if (folder / f"{stem}.csv").exists()
    }
    if not rows:
        raise DataError(f"{folder}: no query_0_product_id_0.csv or other split; is the folder complete?")
    divisions = {name: division for name in rows if (division := _read_division(folder / stems[name], rows[name]))}
    if queries is not None:
        chosen = choose((split["query"] for split in rows.values()), queries, seed)
        rows = {name: split.filter(pc.is_in(split["query"], value_set=chosen)) for name, split in rows.items()}
    corpora: dict[int, tuple[pa.Table, dict]] = {}
    for part in sorted({PART[name][1] for name in rows}):
        kept = None
        if queries is not None:
            kept = set().union(*(s["product_id"].to_pylist() for name, s in rows.items() if PART[name][1] == part))
        file = folder / f"corpus_{part + 1}.json"
        corpora[part] = _read_corpus(file, fields, Path(images) if images else folder, kept), {}
    return rows, corpora, divisions


def _read_csv(file: Path) -> pa.Table:
    opened = open_file(file, (*NEEDED, *OPTIONAL))
    check_columns(opened.names, str(file))
    return pa.Table.from_batches(opened.batches, opened.schema)


def _read_json(file: Path) -> dict:
    """Numbers are text, as written."""
    try:
        return json.loads(file.read_text("utf-8-sig"), parse_int=str, parse_float=str, parse_constant=lambda _: None)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; is the folder complete?") from None
    except ValueError as error:
        raise DataError(f"{file}: can't be read as JSON ({error}); is the file complete?") from None


def _read_corpus(file: Path, fields: Iterable[str], images: Path, kept: set | None) -> pa.Table:
    products = {key: entry for key, entry in _read_json(file).items() if kept is None or key in kept}

    def texts(name: str) -> pa.ChunkedArray:
        """Empty ones stay "", since the official evaluation embeds them."""
        values = (entry.get(name) for entry in products.values())
        return pa.chunked_array([pa.array((v if isinstance(v, str) else None for v in values), pa.string())])

    table = pa.table({"product_id": pa.array(products, pa.string())})
    if "title" in fields:
        table = table.append_column("title", texts("title"))
    if "image" in fields:
        paths = texts("image_local")
        first = next((p for p in paths.to_pylist() if p and p.strip()), None)
        if first and not (images / first).exists() and (images / Path(first).name).exists():
            paths = pc.replace_substring_regex(paths, r"^.*/", "")  # the picture archive is one flat folder
        table = table.append_column("image", as_images(paths, images))
    return table


def _read_division(stem: Path, rows: pa.Table) -> dict[str, str]:
    """Query text -> "dev" or "test", from the ground-truth files that exist; a text in both is "test"."""
    divisions: dict[str, str] = {}
    for division in ("dev", "test"):
        file = stem.parent / f"{stem.name}_gt_{division}.json"
        if file.exists():
            divisions |= {key.removesuffix(_TRUTH_SUFFIX): division for key in _read_json(file)}
    if divisions and not divisions.keys() & set(pc.unique(rows["query"]).to_pylist()):
        raise DataError(
            f"{stem}_gt_*.json: no key is a query of {stem.name}.csv, first key {next(iter(divisions))!r}; "
            "the text of the query is expected"
        )
    return divisions
