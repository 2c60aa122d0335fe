"""Any table that `gcl data check` passes goes through every command without a traceback, and keeps its ids."""

import contextlib
import datetime
import io
import json
import tempfile
import unicodedata
import uuid
import warnings
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import png
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from gcl_toolkit import cli
from gcl_toolkit.cli.studies import train_study
from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.sources import load
from gcl_toolkit.models.small import SmallEncoder
from gcl_toolkit.studies.study import StudyConfig
from gcl_toolkit.studies.worlds import specs_of
from gcl_toolkit.training.config import TrainConfig

IDS = {
    "words": lambda i: f"p{i}",
    "numbers": lambda i: i,
    "unsigned": lambda i: 2**64 - 1 - i,
    "leading zeros": lambda i: f"{i:05d}",
    "uuids": lambda i: str(uuid.UUID(int=i * 2**99 + 10**30)).upper(),
    "dates": lambda i: f"{i + 1:02d}-11-2025",
    "numerals": lambda i: ("1", "1.0", "1.00", "+1", "-1", "1e3", "1000", "01", "0x1", "1_0", "1,0", "Infinity")[i],
    "words of null": lambda i: ("null", "NULL", "NaN", "nan", "NA", "None", "true", "True", "#N/A", "-", "0", "\\N")[i],
    "spaces": lambda i: ("a", " a", "a ", "a  b", "a b", "A", "A B", "\ta", "a\tb", "a\nb", "a\u00a0b", "ab")[i],
    "formulas": lambda i: f"{'=+-@'[i % 4]}SUM(A{i})",
    "markup": lambda i: ("[/red]", "[red]", "<b>", "</script>", "a|b", "`a`", "$a$", "%{x}", "{}", ":a:", '"', "'")[i],
    "paths": lambda i: ("a/b", "../a", "/a", "C:\\a", ".", "..", "~", "a.jpg", "a?b=c", "a#b", "a=b", "a:b")[i],
    "accents": lambda i: unicodedata.normalize("NFD" if i % 2 else "NFC", f"caf\u00e9 {i // 2}"),
    "scripts": lambda i: ["हिन्दी", "ภาษาไทย", "日本語", "العربية", "👩\u200d👧", "ñandú"][i % 6] + str(i // 6),
    "long": lambda i: "x" * 400 + str(i),
}  # fmt: skip
TEXTS = (
    "red mug", "Mug [red] 300 ml", "Bowl [/clearance]", "<b>bold</b> & <script>alert(1)</script>", 'pan 12" steel',
    "'quoted', and; more", "two\nlines", "tab\there", "😀 👩‍👩‍👧", "हिन्दी कप", "ถ้วยสีแดง", "cafe\u0301",
    "=1+1", "42", "a|b|c", "%{y} ${x}",     "nan", "null", "007", "!!!", "x" * 3000, "word " * 200, "   ", "", None,
)  # fmt: skip
OTHERS = {
    "list": lambda i: [f"a{i}"],
    "lists of numbers": lambda i: [0.5, i],
    "object": lambda i: {"a": i, "b": None},
    "category": lambda i: f"kind {i % 3}",
    "integer": lambda i: i % 4,
    "fraction": lambda i: i / 4 if i % 5 else None,
    "NaN": lambda i: i / 4 if i % 5 else float("nan"),
    "boolean": lambda i: i % 2 == 0,
    "empty": lambda i: None,
    "date": lambda i: datetime.date(2025, 11, 1 + i),
    "time": lambda i: datetime.datetime(2025, 11, 1 + i, 12, 30),
    "duration": lambda i: datetime.timedelta(hours=i),
    "decimal": lambda i: Decimal(i) / 4,
    "bytes": lambda i: b"\xff\xfe%d" % i,
    "bytes of text": lambda i: b"text %d" % i,
}
NAMES = (
    "brand", "category", "Unnamed: 0", "__index_level_0__", "", "size (cm)",
    "größe", "[/red]", "<b>", "a=b", "a,b", "a+b", "a b",
    "id", "name", "text", "vector", "item", "items", "rank", "cosine", "split", "division", "position",
    "method", "metric", "thumbnail_start", "thumbnail_size", "query_language", "query_split", "query_division",
    "score_other", "score", "label", "gain", "image_url", "photo_image",
    "index", "level_0", "product", "data", "world", "seed", "Title", "map", "$meta", "__dict__", "self",
)  # fmt: skip


@st.composite
def tables(draw):
    """(kind, layout, rows of queries, of products, of pairs)."""
    kind = draw(st.sampled_from(["csv", "semicolon", "tsv", "jsonl", "parquet"]))
    count = draw(st.integers(6, 12))
    query_id, product_id = (IDS[draw(st.sampled_from([*IDS]))] for _ in range(2))
    letters = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cf", "Cn", "Co")), max_size=20)
    text = st.sampled_from(TEXTS) | letters
    queries = [{"query_id": query_id(i), "query": f"mug {i} {draw(text) or ''}".strip()} for i in range(count)]
    products = [{"product_id": product_id(i), "title": draw(text)} for i in range(count)]
    if draw(st.booleans()):
        for i, row in enumerate(products):
            row["kind"] = f"kind {i % 3}"
    else:
        for i, row in enumerate(products):
            row["title"] = f"{row['title'] or ''}{i}"
    image = draw(st.sampled_from([None, None, "path", "bytes", "struct"]))
    for i, row in enumerate(products if image else ()):
        if i % 4 != 1:
            row["image"] = _image(i, image, kind)
        else:
            row["image"] = None
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True)):
        value = OTHERS[draw(st.sampled_from([*OTHERS]))]
        of_query = name.startswith("query") or (name == "division" and draw(st.booleans()))
        for i, row in enumerate(queries if of_query else products):
            row.setdefault(name, value(i))
    pairs = [
        {"query_id": query["query_id"], "product_id": product["product_id"], "score": 1 + (q * p) % 7 / 2}
        for q, query in enumerate(queries) for p, product in enumerate(products) if (q + p) % 3
    ]  # fmt: skip
    return kind, draw(st.sampled_from(["flat", "three"])), draw(st.booleans()), queries, products, pairs


def _image(number, form, kind):
    if form == "path" or kind not in ("jsonl", "parquet"):
        return f"{number}.png"
    if kind == "jsonl":
        return {"bytes": None, "path": f"{number}.png"}
    return png(number) if form == "bytes" else {"bytes": png(number), "path": None}


def write(folder, kind, layout, with_query_id, queries, products, pairs):
    """The path of the table, or of the folder with three."""
    for i in range(len(products)):
        (folder / f"{i}.png").write_bytes(png(i))
    if layout == "three":
        for name, rows in (("queries", queries), ("corpus", products), ("qrels", pairs)):
            _write(folder / name, kind, rows)
        return folder
    by_query, by_product = {row["query_id"]: row for row in queries}, {row["product_id"]: row for row in products}
    rows = [{**by_query[pair["query_id"]], **by_product[pair["product_id"]], **pair} for pair in pairs]
    return _write(folder / "table", kind, [r if with_query_id else {**r, "query_id": r["query"]} for r in rows])


def _write(path, kind, rows):
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if kind == "parquet":
        arrays = {name: _array(name, values) for name, values in columns.items()}
        parquet.write_table(pa.table(arrays), path := path.with_suffix(".parquet"))
    elif kind == "jsonl":
        path = path.with_suffix(".jsonl")
        path.write_text("".join(f"{json.dumps(row, default=str, ensure_ascii=False)}\n" for row in rows), "utf-8")
    else:
        path, delimiter = (
            path.with_suffix(".tsv" if kind == "tsv" else ".csv"),
            {"semicolon": ";", "tsv": "\t"}.get(kind, ","),
        )
        texts = {
            name: pa.array([None if v is None else str(v) for v in values], pa.string())
            for name, values in columns.items()
        }
        csv.write_csv(pa.table(texts), path, csv.WriteOptions(delimiter=delimiter))
    return path


def _array(name, values):
    if name in ("query_id", "product_id") and isinstance(values[0], int):
        return pa.array(values, pa.uint64())
    array = pa.array(values)
    return array.dictionary_encode() if name == "category" and pa.types.is_string(array.type) else array


def gcl(*arguments):
    """(exit status, all output) of a command; any other exception is a failure."""
    status, out = 0, io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code or 0
    assert status in (0, 1, 2), out.getvalue()
    return status, out.getvalue()


def passes(*arguments):
    status, out = gcl(*arguments)
    assert status == 0, f"gcl {' '.join(map(str, arguments))}\n{out}"
    return out


@pytest.fixture(scope="module", autouse=True)
def tiny_encoder():
    """The small encoder, shrunk."""
    defaults = SmallEncoder.__init__.__kwdefaults__
    kept = {**defaults}
    defaults.update(dimension=8, image_size=16, width=8)
    yield
    defaults.update(kept)


def goes_through(table, index=False):
    """Checks the property for a table; returns whether data check passed it."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)  # notes on long texts and the like
        folder = Path(folder)
        (folder / "source").mkdir()
        source = write(folder / "source", *table)
        status, checked = gcl("data", "check", source)
        if status:
            assert "problem: " in checked
            assert gcl("data", "import", source, folder / "data")[0] in (0, 2)
            return False
        passes("data", "import", source, folder / "data")
        data = load(folder / "data")
        _, layout, with_query_id, queries, products, _ = table
        query_key = "query_id" if layout == "three" or with_query_id else "query"
        for part, ids, expected in (
            ("queries", "query_ids", {str(row[query_key]) for row in queries}),
            ("corpus", "product_ids", {str(row["product_id"]) for row in products}),
        ):
            assert {value for split in data.values() for value in getattr(split, ids)} == expected, part
        _use(folder, data, index)
        return True


def _use(folder, data, index):
    right = ",".join(f"{name}=1" for name in data["in_domain"].corpus_fields if not set(name) & set("=,"))
    few = ("--steps", 3, "--batch", 8)
    passes("train", "--data", folder / "data", "--right", right, *few, "--out", folder / "run")
    passes("evaluate", folder / "run", "--division", "all", "--out", folder / "table.parquet")
    shown = passes("search", folder / "run", "mug [/red] 1", "--k", 50)
    assert len(shown.splitlines()) > 4
    specs = specs_of(str(folder / "data"))
    config = StudyConfig(("bm25", "clip"), train=TrainConfig(steps=2, batch=8), right=Fields.parse(right))
    train_study([spec.open() for spec in specs], config, folder / "study", jobs=1)
    passes("bundle", folder / "study")
    items = parquet.read_table(folder / "study" / "bundle" / "items.parquet")["product_id"].to_pylist()
    assert {*items} == {value for split in data.values() for value in split.product_ids}
    passes("export", folder / "run", folder / "export", "--no-onnx", "--embeddings", folder / "data")
    if index:
        passes("index", folder / "run", "--out", folder / "index", "--also", "parquet")


COMMON = {
    "derandomize": True, "database": None, "deadline": None, "print_blob": False,
    "phases": [Phase.generate],  # shrinking takes minutes
    "suppress_health_check": [*HealthCheck],
}  # fmt: skip


@settings(max_examples=15, **COMMON)
@given(tables())
def test_any_table_that_passes_the_check_goes_through(table):
    goes_through(table)


@pytest.mark.slow
@settings(max_examples=300, **COMMON)
@given(tables())
def test_many_tables_go_through(table):
    goes_through(table, index=True)


def test_a_field_may_have_any_name():
    """Names that files, functions and the bundle's own columns have, too."""
    fields = ("a/b", "map", "self", "split", "thumbnail_start", "[/red]")
    queries = [{"query_id": f"q{i}", "query": f"mug {i}"} for i in range(8)]
    products = [
        {"product_id": f"p{i}", "title": f"mug {i}", **dict.fromkeys(fields, f"kind {i % 3}")} for i in range(8)
    ]
    pairs = [
        {"query_id": f"q{q}", "product_id": f"p{p}", "score": 1.0 + (q * p) % 7} for q in range(8) for p in range(8)
    ]
    assert goes_through(("jsonl", "three", True, queries, products, pairs), index=True)
