"""A bundle of three rankings of another shop, with unjudged products: "new" is better on mugs, worse on lamps."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from conftest import png

from gcl_toolkit.data.ranked_data import IMAGE, RankedData
from gcl_toolkit.views.bundle.parts import write_runs

QUERIES, LAMPS, PRODUCTS, DEPTH = 90, 30, 40, 20
NOISE = {"new": (6.0, 0.5), "elastic": (3.0, 3.0), "third": (3.1, 3.1)}
"""System -> noise of its scores for lamps, and for mugs."""


def _grades() -> np.ndarray:
    """Of every pair, judged or not; the best products of a query are of its kind."""
    grade_QxN = np.random.default_rng(0).integers(0, 4, (QUERIES, PRODUCTS)).astype(float)
    for rows, products in ((slice(LAMPS), slice(PRODUCTS // 2)), (slice(LAMPS, None), slice(PRODUCTS // 2, None))):
        grade_QxN[rows, products] += 4.0 * (grade_QxN[rows, products] == 3)
    return grade_QxN


def rankings() -> dict[str, np.ndarray]:
    rng, lamp_Q1 = np.random.default_rng(1), np.arange(QUERIES)[:, None] < LAMPS
    noise = {name: np.where(lamp_Q1, *sizes) * rng.normal(size=(QUERIES, PRODUCTS)) for name, sizes in NOISE.items()}
    return {name: np.argsort(-(_grades() + each), axis=1)[:, :DEPTH] for name, each in noise.items()}


def data() -> RankedData:
    """Seven of ten pairs are judged."""
    query, product = np.nonzero(np.random.default_rng(2).random((QUERIES, PRODUCTS)) < 0.7)
    kind = {True: "lamp", False: "mug"}
    texts = [f"{kind[q < LAMPS]} number {q}" for q in range(QUERIES)]
    products = {
        "product_id": [f"p{p}" for p in range(PRODUCTS)],
        "title": [f"product <b>{p}</b>" for p in range(PRODUCTS)],
        "category": [kind[p < PRODUCTS // 2] for p in range(PRODUCTS)],
        "image": pa.array([{"bytes": png(9 * p, 40), "path": None} for p in range(PRODUCTS)], IMAGE),
    }
    qrels = {
        "query_id": [f"q{q}" for q in query],
        "product_id": [f"p{p}" for p in product],
        "score": _grades()[query, product],
    }
    queries = pa.table({"query_id": [f"q{q}" for q in range(QUERIES)], "query": texts})
    return RankedData(queries, pa.table(products), pa.table(qrels), "shop of others", {})


def make(folder: Path) -> Path:
    return write_runs(data(), rankings(), folder, control="elastic", category="category")
