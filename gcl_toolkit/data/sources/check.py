"""Check: what a source holds, and everything that is wrong with it."""

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from gcl_toolkit.data.columns import is_image, is_text, numbers, present
from gcl_toolkit.data.findings import LEAVE_OUT, has_columns
from gcl_toolkit.data.pictures import check_size
from gcl_toolkit.data.ranked_data import RankedData, leaks
from gcl_toolkit.data.sources import quarantine as quarantining
from gcl_toolkit.data.sources import read_tables, resolve, splits_of
from gcl_toolkit.data.sources.quarantine import NO_FIELD, Suspect, suspects
from gcl_toolkit.data.sources.rows import Tables, fields_in
from gcl_toolkit.errors import DataError, UserError, counted, first_line

TINY, HUGE = 16, 1e6
_ODD_TEXT = {
    "a control character": r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
    "a replacement character, the trace of a wrong encoding": "\ufffd",
    "an invisible or direction-changing character": "[\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]",
    "UTF-8 read as Latin-1": "\u00c3[\u0080-\u00bf]|\u00e2\u20ac",
    "HTML": "&(amp|lt|gt|quot|#[0-9]+);",
}


def check(
    source: str | Path, decode: int | None = 1000, seed: int = 0, quarantine: Path | None = None, **options
) -> tuple[list[str], list[str]]:
    """Facts and problems of a source, one line each; faults of the data raise nothing.

    source:     a path or a name, with options as in `load`.
    decode:     how many images of a corpus to decode, drawn at random; None: all. A broken one counts as missing.
    quarantine: a file to write the rows to that can't be trained on, with their reasons.
    """
    try:
        module, options = resolve(source, options)
        if not hasattr(module, "tables"):
            raise UserError(f"{source} is generated, not read; write it with gcl data make, and check that folder")
        parts = read_tables(module, options)
    except DataError as error:
        return [], [str(error)]
    kind = module.__name__.rsplit(".", 1)[1]
    facts = [f"{source}: read as {kind}, {', '.join(parts) if set(parts) != {''} else 'unsplit'}"]
    facts += dict.fromkeys(f"{part.name}: {note}" for part in parts.values() for note in part.notes)
    problems, left_out, pictures, is_whole = list[str](), list[Suspect](), _Pictures(decode, seed), True
    for part in parts.values():
        faults = [] if part.qrels.num_rows else ["qrels: no rows; at least one scored pair is expected"]
        known = part.faults()
        is_whole = is_whole and not known
        faults += [*known, *_conflicts(part), *pictures.faults(part), *oddities(part)]
        bad = suspects(part, pictures.broken_rows(part))
        faults += _without_field(part, [suspect for suspect in bad if suspect.reason == NO_FIELD])
        problems += [part.located(f"{part.name}: {fault}") for fault in dict.fromkeys(faults)]
        facts += [f"{part.name}: {fact}" for fact in _facts(part)]
        left_out += bad
    facts.append(f"images decoded: {len(pictures.decoded):,}, broken: {len(pictures.broken):,}")
    facts += [f"{counted(count, 'image')} {oddity}" for oddity, count in pictures.odd.items()]
    if quarantine:
        quarantining.write(left_out, quarantine)
        facts.append(f"{counted(len(left_out), 'row')} written to {quarantine}")
    if is_whole:
        splits = splits_of(parts, options.get("seed", seed))
        facts += [f"{name} of the splits: {_size(data)}" for name, data in splits.items() if name not in parts]
        problems += [f"leak: {leak}" for leak in leaks(splits)]
    return facts, problems


def _facts(part: Tables) -> Iterator[str]:
    yield _size(part)
    if part.card.keys() == {"conflicts"}:  # of a flat table
        yield "rows of queries and corpus: the distinct ones as they first appear, counted from 0"
    for key, noun in (("query_id", "query"), ("product_id", "product")):
        if has_columns(part.qrels, key) and part.qrels.num_rows:
            counts = pc.value_counts(part.qrels[key].combine_chunks()).field("counts").to_numpy()
            yield f"pairs per {noun}: {counts.min():,} to {counts.max():,}, median {np.median(counts):g}"
    if len(score := _scores(part)):
        yield f"score: {score.min():g} to {score.max():g}, {len(np.unique(score)):,} distinct values"
    for table, key in ((part.queries, "query_id"), (part.corpus, "product_id")):
        for name in fields_in(table) if table.num_rows else ():
            missing = ~present(table[name])
            line = f"{name}: missing in {missing.sum():,} of {table.num_rows:,} ({missing.mean():.1%})"
            if missing.any() and len(fields_in(table)) > 1 and key in table.column_names:
                line += (
                    f", first {table[key][int(missing.argmax())].as_py()!r}; {name}=1 alone can't be trained on these"
                )
            yield line


def _scores(part: Tables) -> np.ndarray:
    """The finite ones."""
    score = numbers(part.qrels["score"]) if "score" in part.qrels.column_names else np.empty(0)
    return score[np.isfinite(score)]


def _size(part: Tables | RankedData) -> str:
    tables = (part.queries, "query"), (part.corpus, "product"), (part.qrels, "pair")
    return ", ".join(counted(table.num_rows, noun) for table, noun in tables)


def _conflicts(part: Tables) -> Iterator[str]:
    for field, seen in part.card.get("conflicts", {}).items():
        ids = f"{counted(seen['count'], 'id')} with two values, first {seen['first']!r}"
        yield f"column {field}: {ids}; the first value is kept"
    if part.card.get("repeated_pairs"):
        yield f"pairs repeated in {counted(part.card['repeated_pairs'], 'row')}; the best score is kept"


def _without_field(part: Tables, bad: list[Suspect]) -> Iterator[str]:
    for name, key in (("queries", "query_id"), ("corpus", "product_id")):
        rows = [suspect for suspect in bad if suspect.table == name]
        if rows:
            yield (
                f"{name} row {rows[0].row}: {key} {rows[0].id!r} has no field at all, "
                f"{' and '.join(fields_in(getattr(part, name)))} are empty ({counted(len(rows), 'such row')}); "
                f"fill one, {LEAVE_OUT}"
            )


class _Pictures:
    """Decodes images, at most `count` of a corpus, each product once."""

    def __init__(self, count: int | None, seed: int):
        self.count, self.rng = count, np.random.default_rng(seed)
        self.decoded = set[tuple[str, str]]()
        self.broken: dict[tuple[str, str], str] = {}
        self.odd: Counter[str] = Counter()

    def faults(self, part: Tables) -> Iterator[str]:
        for name in part.corpus.column_names:
            if is_image(part.corpus[name]) and has_columns(part.corpus, "product_id"):
                yield from self._faults_of_column(part.corpus[name], name, part.corpus["product_id"].to_pylist())

    def broken_rows(self, part: Tables) -> dict[int, str]:
        """Corpus row -> what is wrong with its picture."""
        if not self.broken or not has_columns(part.corpus, "product_id"):
            return {}
        faults = {product: fault for (_, product), fault in self.broken.items()}
        products = part.corpus["product_id"].to_pylist()
        return {row: faults[product] for row, product in enumerate(products) if product in faults}

    def _faults_of_column(self, images, name: str, products: list[str]) -> Iterator[str]:
        shuffled = self.rng.permutation(np.flatnonzero(present(images)))
        rows = [int(row) for row in shuffled if (name, products[row]) not in self.decoded][: self.count]
        faults: dict[str, list[tuple[int, str]]] = {}
        for row in rows:
            self.decoded.add((name, products[row]))
            image = images[row].as_py()
            if fault := image_fault(image):
                self.broken[name, products[row]] = ": ".join(fault)
                faults.setdefault(fault[0], []).append((row, fault[1]))
            else:
                self.odd.update(image_oddities(image))
        for kind, broken in faults.items():
            row, detail = min(broken)
            yield (
                f"corpus row {row}: {name} of product {products[row]!r} {kind}: {detail} ({len(broken):,} of "
                f"{counted(len(rows), 'image')} tried); it counts as missing, fetch it again or leave it empty"
            )


def image_fault(image: dict) -> tuple[str, str] | None:
    """Why an image ({bytes, path}) can't be decoded, as kind and detail; None if it can."""
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
        return "can't be decoded", "Pillow doesn't know its format"
    except Exception as error:  # a decoder of a broken file may raise anything
        return "can't be decoded", first_line(error)
    return None


def image_oddities(image: dict) -> Iterator[str]:
    """What is unusual about an image that decodes: it is read, but perhaps not as intended."""
    with Image.open(io.BytesIO(image["bytes"] or Path(image["path"]).read_bytes())) as opened:
        if min(opened.size) < TINY:
            yield f"with a side below {TINY} pixels"
        if opened.mode == "CMYK":
            yield "in CMYK; their colours are converted without a profile"


def oddities(part: Tables) -> Iterator[str]:
    """Texts and scores that are valid, but probably not intended."""
    score = _scores(part)
    if len(score) > 1 and score.min() == score.max():
        yield f"qrels: every score is {score[0]:g}; there is no order to learn"
    if len(score) and score.max() > HUGE:
        yield f"qrels: the highest score is {score.max():g}; at most {HUGE:g} is expected"
    for table, name in ((part.queries, "queries"), (part.corpus, "corpus")):
        for column in fields_in(table):
            for kind, pattern in _ODD_TEXT.items() if is_text(table[column]) else ():
                odd = pc.fill_null(pc.match_substring_regex(table[column], pattern), False).to_numpy()
                if odd.any():
                    row = int(odd.argmax())
                    text, such = table[column][row].as_py(), counted(odd.sum(), "such row")
                    yield f"{name} row {row}: {column} {text!r} contains {kind} ({such}); clean it"
