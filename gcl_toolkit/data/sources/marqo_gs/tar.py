"""MarqoGS-10M as the tar has it: a CSV a split, a JSON a half of the products, ground truth for dev and test."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import takewhile
from operator import eq
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import as_images
from gcl_toolkit.data.sources.marqo_gs.rows import NEEDED, OPTIONAL, PART, choose
from gcl_toolkit.data.tabular import check_columns, open_file
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
    """(rows by split; corpus, conflicts and notes by half of the products; division of each query text by split)."""
    rows, divisions = _read_rows(folder, queries, seed)
    corpora: dict[int, tuple] = {}
    for part, file, kept in _corpora(folder, rows, queries):
        corpus, *notes = _read_corpus(_products(file, kept), file, fields, None if images is None else Path(images))
        corpora[part] = corpus, {}, *notes
    return rows, corpora, divisions


def picture_names(folder: Path, queries: int | None, seed: int) -> set[str]:
    """The file names of the products' pictures; with `queries`, of the products of as many queries."""
    rows, _ = _read_rows(folder, queries, seed)
    entries = (e for _, file, kept in _corpora(folder, rows, queries) for e in _products(file, kept).values())
    return {path.rpartition("/")[2] for entry in entries if isinstance(path := entry.get("image_local"), str) and path}


def _read_rows(folder: Path, queries: int | None, seed: int) -> tuple[dict[str, pa.Table], dict[str, dict]]:
    stems = {name: f"query_{q}_product_id_{d}" for name, (q, d) in PART.items()}
    files = {name: file for name, stem in stems.items() if (file := folder / f"{stem}.csv").exists()}
    rows = {name: _read_csv(file) for name, file in files.items()}
    if not rows:
        raise DataError(f"{folder}: no query_0_product_id_0.csv or other split; is the folder complete?")
    divisions = {name: division for name in rows if (division := _read_division(folder / stems[name], rows[name]))}
    if queries is not None:
        chosen = choose((split["query"] for split in rows.values()), queries, seed)
        rows = {name: split.filter(pc.is_in(split["query"], value_set=chosen)) for name, split in rows.items()}
    return rows, divisions


def _corpora(folder: Path, rows: dict[str, pa.Table], queries: int | None) -> Iterator[tuple[int, Path, set | None]]:
    """Each half of the products, its file, and the ids to keep of it; None for all."""
    for part in sorted({PART[name][1] for name in rows}):
        of_half = [split["product_id"].to_pylist() for name, split in rows.items() if PART[name][1] == part]
        yield part, folder / f"corpus_{part + 1}.json", None if queries is None else set().union(*of_half)


def _products(file: Path, kept: set | None) -> dict[str, dict]:
    return {key: entry for key, entry in _read_json(file).items() if kept is None or key in kept}


def _read_csv(file: Path) -> pa.Table:
    opened = open_file(file, (*NEEDED, *OPTIONAL))
    check_columns(opened.names, NEEDED, file)
    return pa.Table.from_batches(opened.batches, opened.schema)


def _read_json(file: Path) -> dict:
    """Numbers are text, as written."""
    try:
        return json.loads(file.read_text("utf-8-sig"), parse_int=str, parse_float=str, parse_constant=lambda _: None)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; is the folder complete?") from None
    except ValueError as error:
        raise DataError(f"{file}: can't be read as JSON ({error}); is the file complete?") from None


def _read_corpus(products: dict[str, dict], file: Path, fields: Iterable[str], images: Path | None) -> tuple:
    """The corpus and, with pictures, a note on how many of them were found."""

    def texts(name: str) -> list[str | None]:
        """Empty ones stay "", since the official evaluation embeds them."""
        values = (entry.get(name) for entry in products.values())
        return [value if isinstance(value, str) else None for value in values]

    table = pa.table({"product_id": pa.array(products, pa.string())})
    if "title" in fields:
        table = table.append_column("title", pa.array(texts("title"), pa.string()))
    if "image" not in fields:
        return (table,)
    paths, note = _on_this_machine([path and path.strip() for path in texts("image_local")], file, images)
    return table.append_column("image", as_images(pa.chunked_array([pa.array(paths, pa.string())]), Path())), note


def _on_this_machine(stated: list[str | None], file: Path, images: Path | None) -> tuple[list[str | None], str]:
    """Paths of the authors' machine as paths that exist here, by the longest suffix that both share, and a note.

    Searched are `images`; or else the corpus' folder and folders images* beside and above it. A picture that isn't
    there keeps the path where it is expected, so that it is reported when it is read.
    """
    names = Counter(path.rpartition("/")[2] for path in {*filter(None, stated)})
    here = file.parent.resolve()
    roots = [images.resolve()] if images else [here, *_near(here, "images*/")]
    places: dict[str, list[str]] = {}
    for root in roots:
        for folder, _, present in os.walk(root):
            for name in names.keys() & present:
                places.setdefault(name, []).append(folder)
    paths: list[str | None] = []
    folder, absent = str(roots[-1]), []
    for path in stated:
        place, _, name = (path or "").rpartition("/")
        same = places.get(name, [])
        best = max(same, key=partial(_shared, place)) if same[1:] else "".join(same)
        if best and (names[name] == 1 or _shared(place, best)):
            folder = best
        elif path and place and os.path.exists(path):
            folder = place
        elif path:
            absent.append(path)
        paths.append(path and f"{folder}/{name}")
    count = sum(map(bool, stated))
    if absent and len(absent) == count:
        tars = [tar for root in (here, *roots) for tar in _near(root, "images*.tar")]
        cure = f"unpack it: tar -xf {tars[0]} -C {tars[0].parent}" if tars else "name their folder with images=FOLDER"
        raise DataError(
            f"{file}: none of {count:,} pictures found, first {absent[0]}; searched: {', '.join(map(str, roots))}; "
            f"{cure}, or use titles alone with fields=title and --right title=1"
        )
    missing = f"; missing: {len(absent):,}, first {absent[0]}" if absent else ""
    return paths, f"{count - len(absent):,} of {count:,} pictures of {file.name} found, the last in {folder}{missing}"


def _near(folder: Path, pattern: str) -> Iterator[Path]:
    """What matches in the folder, beside it and one level above."""
    for place in (folder, *folder.parents[:2]):
        yield from sorted(place.glob(pattern))


def _shared(one: str, other: str) -> int:
    """The number of last folders that two paths share."""
    return sum(1 for _ in takewhile(bool, map(eq, reversed(one.split("/")), reversed(other.split("/")))))


def _read_division(stem: Path, rows: pa.Table) -> dict[str, str]:
    """Query text -> "dev" or "test", from the ground-truth files that exist; a text in both is "test"."""
    divisions: dict[str, str] = {}
    for division in ("dev", "test"):
        file = stem.parent / f"{stem.name}_gt_{division}.json"
        if file.exists():
            divisions |= {key.removesuffix(_TRUTH_SUFFIX): division for key in _read_json(file)}
    if divisions and not divisions.keys() & set(pc.unique(rows["query"]).to_pylist()):
        key = next(iter(divisions))
        raise DataError(
            f"{stem}_gt_*.json: no key is a query of {stem.name}.csv, as {key!r}; the text of the query is expected"
        )
    return divisions
