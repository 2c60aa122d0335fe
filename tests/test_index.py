import socket
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from gcl_toolkit import DataError, UserError
from gcl_toolkit.measure.search import top_k
from gcl_toolkit.serving.index import MilvusIndex, write_faiss, write_vectors
from gcl_toolkit.serving.parity import parity

pytest.importorskip("pymilvus", reason="the vector store is not installed: pip install 'gcl-toolkit[index]'")

COUNT, DIMENSION = 1200, 16
HOSTILE = 'a "quoted" \'one\' \\ \n"] or product_id != "'
CATEGORIES = ["mug", HOSTILE, None, "Zubehör 杯子", 'category == "mug"', ""]
RARE = (7, 70, 700)


def unit(count: int, seed: int) -> np.ndarray:
    """Unit vectors around twelve centres, as embeddings lie."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(12, DIMENSION))
    vectors = centres[rng.integers(0, 12, count)] + 0.5 * rng.normal(size=(count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = unit(COUNT, 0), unit(40, 1)
CORPUS = pa.table(
    {
        "product_id": [f"p{i}" for i in range(COUNT)],
        "category": [CATEGORIES[i % len(CATEGORIES)] for i in range(COUNT)],
        "brand": ["rare" if i in RARE else "common" for i in range(COUNT)],
        "price": [None if i == 5 else i / 4 for i in range(COUNT)],
        "stock": list(range(COUNT)),
        "sold": [i % 2 == 0 for i in range(COUNT)],
    }
)
IDS = CORPUS["product_id"].to_numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def flat(folder):
    with MilvusIndex.build(folder / "flat.db", VECTORS, CORPUS) as index:
        yield index


def exact(k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    scores, rows = top_k(QUERIES, VECTORS, k)
    return scores, IDS[rows]


def test_the_flat_index_is_exact_search(flat, caplog):
    scores, ids = flat.search(QUERIES, 25)
    assert (ids == exact(25)[1]).all()
    assert scores == pytest.approx(exact(25)[0], abs=1e-5)
    assert (flat.size, flat.dimension, flat.kind) == (COUNT, DIMENSION, "FLAT")
    assert not caplog.records


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        *(({"category": value}, lambda row, value=value: row["category"] == value) for value in CATEGORIES if value),
        ({"category": None}, lambda row: not row["category"]),
        ({"brand": "rare"}, lambda row: row["brand"] == "rare"),
        ({"price": 2.5}, lambda row: row["price"] == 2.5),
        ({"price": None}, lambda row: row["price"] is None),
        ({"stock": [3, 9, -1]}, lambda row: row["stock"] in (3, 9)),
        ({"product_id": ["p3", "p4"]}, lambda row: row["stock"] in (3, 4)),
        ({"sold": True, "category": ["mug", HOSTILE]}, lambda row: row["sold"] and row["category"] in ("mug", HOSTILE)),
        ({"brand": HOSTILE}, lambda row: False),
    ],
)
def test_a_filter_keeps_what_it_names_and_nothing_else(flat, where, expected):
    kept = [row["product_id"] for row in CORPUS.to_pylist() if expected(row)]
    _, ids = flat.search(QUERIES[:2], COUNT, where)
    for found in ids:
        assert sorted(product for product in found if product is not None) == sorted(kept)


@pytest.mark.parametrize("kind", ["IVF_FLAT", "HNSW"])
def test_approximate_kinds_are_near_and_filter_rightly(folder, kind):
    with MilvusIndex.build(folder / f"{kind}.db", VECTORS, CORPUS, kind=kind, columns=["brand"]) as index:
        queries, best = dict(enumerate(QUERIES)), dict(enumerate(exact()[1]))
        report = parity(index, queries, best, {0: {best[0][0]: 1.0}})
        assert report.kind == kind
        assert 0.9 <= report.recall <= 1
        _, ids = index.search(QUERIES, 10, {"brand": "rare"})  # three of 1,200, wherever they lie
        assert all({p for p in found if p} == {f"p{row}" for row in RARE} for found in ids)
        assert index.columns == ["brand"]


def test_an_approximate_kind_is_really_built_with_our_options(folder):
    """Random directions are hard for lists of near vectors; perfect recall would mean that everything was scanned."""
    rng = np.random.default_rng(5)
    vectors, queries = (rng.normal(size=(count, 32)).astype(np.float32) for count in (3000, 100))
    corpus = pa.table({"product_id": [str(row) for row in range(3000)]})
    with MilvusIndex.build(folder / "hard.db", vectors, corpus, kind="IVF_FLAT") as index:
        found, best = index.search(queries, 10)[1], top_k(queries, vectors, 10)[1].astype(str)
        assert 0.2 < np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, best, strict=True)]) < 0.9
        assert index.client.describe_index("products", "vector")["params"] == {"nlist": 76}


def test_a_store_is_opened_again_and_replaced(folder):
    path = folder / "again.db"
    MilvusIndex.build(path, VECTORS[:20], CORPUS.slice(0, 20)).close()
    MilvusIndex.build(path, VECTORS[:30], CORPUS.slice(0, 30)).close()
    MilvusIndex.build(path, VECTORS[:5], CORPUS.slice(0, 5), collection="other").close()
    with MilvusIndex(path) as index:
        assert index.size == 30
        scores, ids = index.search(VECTORS[3:4], 40)
        assert ids[0, 0] == "p3"
        assert [product is None for product in ids[0]] == [False] * 30 + [True] * 10
        assert np.isneginf(scores[0, 30:]).all()
    with pytest.raises(UserError, match=r"no collection 'mugs'; it has .*other"):
        MilvusIndex(path, "mugs")


def test_the_same_code_talks_to_a_server(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(folder / "served"), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        with MilvusIndex.build(f"http://127.0.0.1:{port}", VECTORS, CORPUS) as index:
            assert index.search(QUERIES[:3], 5)[1].tolist() == exact(5)[1][:3].tolist()
            assert set(index.search(QUERIES[:1], 201, {"category": HOSTILE})[1][0]) == {None, *IDS[1::6]}
    finally:
        server.terminate()
        server.wait()


class Always:
    """An index that returns the same products for every query."""

    kind, size = "TOY", 4

    def search(self, queries, k):
        return np.ones((1, 3)), np.array([["a", "b", None]], object)


def test_parity_counts_what_the_index_misses():
    exact = {"q": ["a", "b", "c", "d"], "r": ["x", "a"]}
    report = parity(Always(), {"q": np.zeros(2), "r": np.zeros(2)}, exact, {"q": {"c": 1.0}, "r": {"a": 1.0}, "s": {}})
    assert report.recall == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert report.ndcg == pytest.approx((0 + 1) / 2)
    assert report.ndcg_exact == pytest.approx((1 / 2 + 1 / np.log2(3)) / 2)
    assert 0 <= report.p50 <= report.p99
    assert str(report).startswith("TOY, 4 products: recall@10 0.5000, NDCG@10 0.5000 (exact 0.5655)")
    assert np.isnan(parity(Always(), {"q": np.zeros(2)}, exact, {}).ndcg)
    with pytest.raises(UserError, match="no queries"):
        parity(Always(), {}, exact, {})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda path: MilvusIndex.build(path, VECTORS, CORPUS, kind="TREE"), "unknown kind of index 'TREE'"),
        (lambda path: MilvusIndex.build(path, VECTORS, CORPUS, kind="DISKANN"), "DISKANN needs a Milvus cluster"),
        (lambda path: MilvusIndex.build(path, VECTORS[1:], CORPUS), "1,199 vectors for 1,200 products"),
        (lambda path: MilvusIndex.build(path, VECTORS, CORPUS, columns=["colour"]), "unknown column to store 'colour'"),
        (lambda path: MilvusIndex.build(path.with_suffix(".sqlite"), VECTORS, CORPUS), "neither a Milvus Lite file"),
    ],
)
def test_mistakes_in_building_are_reported(tmp_path, wrong, words):
    with pytest.raises(UserError, match=words):
        wrong(tmp_path / "wrong.db")


def test_what_milvus_can_t_store_is_reported(tmp_path):
    named = CORPUS.slice(0, 2).select(["product_id", "brand"]).rename_columns(["product_id", "brand name"])
    with pytest.raises(DataError, match="column 'brand name' can't be a field"):
        MilvusIndex.build(tmp_path / "a.db", VECTORS[:2], named, columns=["brand name"])
    with pytest.warns(UserWarning, match="not stored: 'brand name'"):
        MilvusIndex.build(tmp_path / "a.db", VECTORS[:2], named).close()
    long = pa.table({"product_id": ["p0", "p1"], "text": ["short", "ü" * 40_000]})
    with pytest.raises(DataError, match="corpus row 1: text has over 65,535 bytes"):
        MilvusIndex.build(tmp_path / "a.db", VECTORS[:2], long)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"colour": "red"}, "unknown column to filter by 'colour'; known: brand, category"),
        ({'brand == "x" or brand': "red"}, "unknown column to filter by"),
        ({"brand": "a\x00b"}, "control character"),
        ({"price": float("inf")}, "filter value inf"),
        ({"brand": ["common", None]}, "filter value None"),
    ],
)
def test_mistakes_in_filters_are_reported(flat, where, words):
    with pytest.raises(UserError, match=words):
        flat.search(QUERIES[:1], 3, where)


def test_queries_of_another_dimension_are_refused(flat):
    with pytest.raises(UserError, match=r"queries have the shape \(1, 9\); queries x 16 is expected"):
        flat.search(np.zeros((1, 9)))


@pytest.mark.parametrize("kind", ["FLAT", "IVF_FLAT", "HNSW"])
def test_a_faiss_file_finds_the_rows(tmp_path, kind):
    faiss = pytest.importorskip("faiss")
    write_faiss(VECTORS, tmp_path / "products.faiss", kind)
    index = faiss.read_index(str(tmp_path / "products.faiss"))
    scores, rows = index.search(QUERIES, 10)
    best_scores, best = top_k(QUERIES, VECTORS, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, best, strict=True)])
    assert shared == 1 if kind == "FLAT" else shared > 0.9
    assert scores[:, 0] == pytest.approx(best_scores[:, 0], abs=0.1)
    with pytest.raises(UserError, match="unknown kind of FAISS index 'DISKANN'"):
        write_faiss(VECTORS, tmp_path / "products.faiss", "DISKANN")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_are_written_as_lists(tmp_path, dtype):
    write_vectors(VECTORS, IDS, tmp_path / "vectors.parquet", dtype)
    table = parquet.read_table(tmp_path / "vectors.parquet")
    assert table["product_id"].to_pylist() == IDS.tolist()
    vectors = np.array(table["vector"].to_pylist(), dtype)
    assert vectors.dtype == dtype
    assert (vectors == VECTORS.astype(dtype)).all()
    assert pa.types.is_float16(table["vector"].type.value_type) == (dtype == "float16")
    with pytest.raises(UserError, match="unknown type of vectors 'int8'"):
        write_vectors(VECTORS, IDS, tmp_path / "vectors.parquet", "int8")
    with pytest.raises(UserError, match="1,200 vectors for 3 ids"):
        write_vectors(VECTORS, IDS[:3], tmp_path / "vectors.parquet")
