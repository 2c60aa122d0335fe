"""Check: what a table or folder holds, and everything that is wrong with it."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from gcl_toolkit import formats
from gcl_toolkit.errors import DataError, first_line
from gcl_toolkit.findings import findings, numbers, present
from gcl_toolkit.pictures import check_size
from gcl_toolkit.ranked_data import RankedData, is_image, leaks
from gcl_toolkit.sources import SOURCES, layout_of
from gcl_toolkit.sources.quarantine import suspects
from gcl_toolkit.sources.quarantine import write as write_quarantine
from gcl_toolkit.sources.rows import Tables

TINY, HUGE = 16, 1e6
_ODD_TEXT = {
    "a control character": r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
    "a replacement character, the trace of a wrong encoding": "\ufffd",
    "an invisible or direction-changing character": "[\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]",
    "UTF-8 read as Latin-1": "\u00c3[\u0080-\u00bf]|\u00e2\u20ac",
    "HTML": "&(amp|lt|gt|quot|#[0-9]+);",
}
_NOT_FIELDS = ("query_id", "product_id", "division")


def check(
    path: str | Path, images: int | None = 1000, seed: int = 0, quarantine: Path | None = None, **options
) -> tuple[list[str], list[str]]:
    """Facts and problems of the data at `path`, one line each; nothing raises for a fault of the data.

    quarantine: also write the rows that can't be trained on, with their reasons, to this file; loading with it leaves
             them out.

    images:  how many images of a corpus to decode, drawn at random; None decodes all. A broken one counts as missing.
    options: those of the source (`columns`, `score`, ... of a table).
    """
    if formats.is_beir(path):
        return _check_beir(path)
    try:
        source = layout_of(path)
        module = import_module(SOURCES[source])
        read = module.tables(path, **options)
    except DataError as error:
        return [], [str(error)]
    facts = [f"{path}: read as {source}, {', '.join(read) if set(read) != {''} else 'unsplit'}"]
    problems: list[str] = []
    broken, left_out = _Broken(images, seed), []
    for part in read.values():
        faults = [] if part.qrels.num_rows else ["qrels: no rows; at least one scored pair is expected"]
        faults += [*part.problems, *findings(part.queries, part.corpus, part.qrels)]
        faults += [*_conflicts(part), *broken.of(part.corpus), *_empty(part, broken.ids), *oddities(part)]
        left_out += suspects(part, broken.rows)
        problems += [f"{part.name}: {fault}" for fault in dict.fromkeys(faults)]
        facts += [f"{part.name}: {fact}" for fact in _facts(part)]
    facts.append(f"images decoded: {len(broken.seen):,}, broken: {len(broken.ids):,}")
    facts += [f"{count:,} images {kind}" for kind, count in broken.odd.items()]
    if quarantine:
        write_quarantine(left_out, quarantine)
        facts.append(
            f"{len(left_out):,} rows written to {quarantine}; gcl train --quarantine {quarantine} leaves them out"
        )
    if not any(part.problems or findings(*part[:3]) for part in read.values()):
        splits = module.load(path, seed=seed, **options)
        facts += [f"{name} of the splits: {_size(data)}" for name, data in splits.items() if name not in read]
        problems += [f"leak: {leak}" for leak in leaks(splits)]
    return facts, problems


def _check_beir(path: str | Path) -> tuple[list[str], list[str]]:
    try:
        splits = formats.load(path)
    except DataError as error:
        return [], [str(error)]
    facts = [f"{name}: {fact}" for name, data in splits.items() for fact in _facts(data)]
    return [f"{path}: read as BEIR, {', '.join(splits)}", *facts], [f"leak: {leak}" for leak in leaks(splits)]


def _facts(part: Tables | RankedData) -> Iterator[str]:
    yield _size(part)
    if {"query_id", "product_id"} <= set(part.qrels.column_names):
        for column, noun in (("query_id", "query"), ("product_id", "product")):
            counts = pc.value_counts(part.qrels[column].combine_chunks()).field("counts").to_numpy()
            if len(counts):
                yield f"pairs per {noun}: {counts.min():,} to {counts.max():,}, median {np.median(counts):g}"
    if "score" in part.qrels.column_names:
        score = numbers(part.qrels["score"])
        score = score[np.isfinite(score)]
        if len(score):
            yield f"score: {score.min():g} to {score.max():g}, {len(np.unique(score)):,} distinct values"
    for fields in (part.queries, part.corpus):
        for name in fields.column_names:
            if name not in _NOT_FIELDS and fields.num_rows:
                missing = int((~present(fields[name])).sum())
                yield f"{name}: missing in {missing:,} of {fields.num_rows:,} ({missing / fields.num_rows:.1%})"


def _size(part: Tables | RankedData) -> str:
    return f"{part.queries.num_rows:,} queries, {part.corpus.num_rows:,} products, {part.qrels.num_rows:,} pairs"


def _conflicts(part: Tables) -> Iterator[str]:
    for field, seen in part.card.get("conflicts", {}).items():
        yield f"column {field}: {seen['count']:,} ids have two values, first {seen['first']!r}; the first value is kept"
    if part.card.get("repeated_pairs"):
        yield f"{part.card['repeated_pairs']:,} rows repeat a pair of query and product; the best score is kept"


def _empty(part: Tables, broken: set[str]) -> Iterator[str]:
    """Rows with no field at all."""
    for fields, name, key in ((part.queries, "queries", "query_id"), (part.corpus, "corpus", "product_id")):
        columns = [c for c in fields.column_names if c not in _NOT_FIELDS]
        if key not in fields.column_names:
            continue
        whole = ~pc.is_in(pc.cast(fields[key], pa.string()), value_set=pa.array(broken, pa.string())).to_numpy()
        filled = [present(fields[c]) & (whole if is_image(fields[c]) else True) for c in columns]
        empty = ~np.any([np.zeros(fields.num_rows, bool), *filled], axis=0)
        if empty.any():
            row = int(empty.argmax())
            yield (
                f"{name} row {row}: {key} {str(fields[key][row])!r} has no field at all, {' and '.join(columns)} are "
                f"empty ({empty.sum():,} such rows); fill one or drop the row"
            )


class _Broken:
    """Products whose image doesn't decode; at most `count` a corpus are looked at, each product once."""

    def __init__(self, count: int | None, seed: int):
        self.count, self.rng = count, np.random.default_rng(seed)
        self.seen, self.ids = set[tuple[str, str]](), set[str]()
        self.rows: dict[int, str] = {}  # of the corpus looked at last
        self.odd: Counter[str] = Counter()

    def of(self, corpus: pa.Table) -> Iterator[str]:
        self.rows = {}
        for name in corpus.column_names:
            if is_image(corpus[name]) and "product_id" in corpus.column_names:
                yield from self._of_column(corpus, name)

    def _of_column(self, corpus: pa.Table, name: str) -> Iterator[str]:
        shuffled = self.rng.permutation(np.flatnonzero(present(corpus[name])))
        faults: dict[str, list[tuple[int, str]]] = {}
        products = corpus["product_id"].cast(pa.string()).to_pylist()
        rows = [row for row in shuffled if (name, products[row]) not in self.seen][: self.count]
        for row in rows:
            product = products[row]
            self.seen.add((name, product))
            image = corpus[name][row].as_py()
            fault = image_fault(image)
            if not fault:
                self.odd.update(image_oddities(image))
            else:
                kind, what = fault
                self.rows[int(row)] = f"{kind}: {what}"
                faults.setdefault(kind, []).append((int(row), what))
                self.ids.add(product)
        for kind, found in faults.items():
            row, what = min(found)
            yield (
                f"corpus row {row}: {name} of product {products[row]!r} {kind}: {what} "
                f"({len(found):,} of {len(rows):,} looked at); it counts as missing, fetch it again or leave it empty"
            )


def image_fault(image: dict) -> tuple[str, str] | None:
    """What keeps an image ({bytes, path}) from being decoded, as kind and detail; None if nothing does."""
    data, path = image["bytes"], image["path"]
    if not data:
        if "://" in path:
            return "is an address, a file is expected", path
        if not Path(path).is_file():
            return "is not there", path
        data = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as opened:
                check_size(*opened.size)
                opened.verify()
            with Image.open(io.BytesIO(data)) as opened:
                opened.load()
    except DataError as error:
        return "is too large", str(error)
    except UnidentifiedImageError:
        return "can't be decoded", "its form is none that Pillow knows"
    except Exception as error:  # a decoder of a broken file may raise anything
        return "can't be decoded", first_line(error)
    return None


def image_oddities(image: dict) -> Iterator[str]:
    """What is strange about an image that decodes: each is read, perhaps not as it was meant."""
    with Image.open(io.BytesIO(image["bytes"] or Path(image["path"]).read_bytes())) as opened:
        if min(opened.size) < TINY:
            yield f"have a side below {TINY} pixels"
        if opened.mode == "CMYK":
            yield "are in CMYK; their colours are converted without a profile"
        if opened.getexif().get(0x0112, 1) != 1:
            yield "are rotated by EXIF, which training doesn't do; turn them upright"


def oddities(part: Tables) -> Iterator[str]:
    """Texts and scores that are valid, but hardly meant."""
    if "score" in part.qrels.column_names:
        score = numbers(part.qrels["score"])
        score = score[np.isfinite(score)]
        if len(score) > 1 and score.min() == score.max():
            yield f"qrels: every score is {score[0]:g}; there is no order to learn"
        if len(score) and score.max() > HUGE:
            yield f"qrels: the highest score is {score.max():g}, hardly one; {HUGE:g} is the most that is expected"
    for fields, name in ((part.queries, "queries"), (part.corpus, "corpus")):
        for column in fields.column_names:
            kind_of = fields[column].type
            if (pa.types.is_string(kind_of) or pa.types.is_large_string(kind_of)) and column not in _NOT_FIELDS:
                for kind, pattern in _ODD_TEXT.items():
                    odd = pc.fill_null(pc.match_substring_regex(fields[column], pattern), False).to_numpy()
                    if odd.any():
                        row = int(odd.argmax())
                        text = fields[column][row].as_py()
                        yield f"{name} row {row}: {column} {text!r} holds {kind} ({odd.sum():,} such rows); clean it"
