"""A bundle of any size from random numbers, without torch and without training: for speed, memory and load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import png

from gcl_toolkit.views.bundle.reading import SCHEMA, ranked, sha256

METRICS = {"NDCG@10": "as ever", "AP": "as ever"}


def make(folder: Path, products: int, queries: int = 50, dimension: int = 32, models=("a", "b")) -> Path:
    """One split "zero_shot"; every query has 20 scored products, every product the same picture."""
    rng, picture = np.random.default_rng(0), png(5, 16)
    folder.mkdir(parents=True)
    (folder / "thumbnails.bin").write_bytes(picture)
    items = {"product_id": [f"p{n}" for n in range(products)], "title": [f"mug number {n}" for n in range(products)]}
    items |= {"category": [f"kind {n % 24}" for n in range(products)]}
    items |= {"thumbnail_start": np.zeros(products, int), "thumbnail_size": np.full(products, len(picture))}
    asked = {"query_id": [f"q{n}" for n in range(queries)], "query": [f"query {n}" for n in range(queries)]}
    pairs = np.sort([rng.choice(products, 20, replace=False) for _ in range(queries)])
    scores = {
        "query": np.repeat(np.arange(queries), 20),
        "item": pairs.ravel(),
        "score": np.tile(np.arange(81.0, 101), queries),
    }
    tables = {"items": items, "queries": {"split": "zero_shot", **asked, "division": "test"}, "qrels": scores}
    for name, table in {**tables, "slices": {"words": ["2"] * queries}}.items():
        pd.DataFrame(table).to_parquet(folder / f"{name}.parquet")
    for model in models:
        _model(folder / "systems" / model, rng, products, queries, dimension)
    kept = {"method": "PCA", "products_kept": 0.1, "queries_kept": 0.1, "chance": 0.01}
    vectors = {"fields": {"image": 0.5, "title": 0.5}, "query": "query", "encoder": "none"}
    vectors |= {"dimension": dimension, "weights": False, "map": kept}
    entry = {"about": "random", "kind": "model", "depth": min(products, 1000), "history": True, "config": {}}
    entry["vectors"] = vectors
    manifest = {
        "schema": SCHEMA, "made": "2026-11-22", "study": {}, "world": "random", "card": {}, "title": "title",
        "splits": {"zero_shot": {"about": "", "items": [0, products], "queries": [0, queries]}},
        "systems": dict.fromkeys(models, entry), "metrics": METRICS, "control": None, "query": "query",
        "files": {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _model(folder: Path, rng, products: int, queries: int, dimension: int) -> None:
    folder.mkdir(parents=True)
    fields = []
    for name in ("image", "title"):
        vectors = rng.normal(size=(products, dimension)).astype(np.float32)
        fields.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        np.save(folder / f"{name}.npy", fields[-1].astype(np.float16))
    gram = np.einsum("fnd,gnd->nfg", fields, fields).astype(np.float32)
    asked = rng.normal(size=(queries, dimension)).astype(np.float32)
    np.save(folder / "gram.npy", gram)
    np.save(folder / "queries.npy", asked / np.linalg.norm(asked, axis=1, keepdims=True))
    np.save(folder / "map.npy", rng.normal(size=(products + queries, 2)).astype(np.float32) / 3)
    rows = ranked([np.float16(field) for field in fields], gram, np.load(folder / "queries.npy"), (0.5, 0.5), 1000)
    np.save(folder / "ranking.npy", rows)
    history = {"step": [1, 2], "loss": [2.0, 1.0], "logit_scale": [14.0, 15.0], "learning_rate": [0.1, 0.1]}
    pd.DataFrame(history).to_parquet(folder / "history.parquet")
