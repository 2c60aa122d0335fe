"""Opening a bundle: schema, sha256 and shapes are checked; products are ranked from the stored embeddings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.metrics import Metric, parse

SCHEMA = 2
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_AGAIN = "the bundle is damaged: make it again with `gcl bundle`"


# -- ranking -----------------------------------------------------------------------------------------------------------


def field_cosines(fields: Iterable[np.ndarray], query_D: np.ndarray, rows: slice, *, chunk: int = 2_048) -> np.ndarray:
    """Cosines of a query with `rows` of each field's embeddings (N x D float16): F x rows, float32, chunk by chunk."""
    parts = [slice(start, min(start + chunk, rows.stop)) for start in range(rows.start, rows.stop, chunk)]
    return np.array([np.concatenate([field[part].astype(np.float32) @ query_D for part in parts]) for field in fields])


def fused_cosines(cosines_FxN: np.ndarray, gram_NxFxF: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Cosine of a query with each product's fused embedding, from its cosines with the fields alone: N float32.

    s(w) = sum_f w_f s_f / sqrt(w' G w), where G holds the cosines of a product's fields with each other; with fields
    image and title and weights w, 1 - w this is (w sI + (1-w) sT) / sqrt(w^2 + (1-w)^2 + 2w(1-w)c). A missing field
    has s_f = 0 and zeros in G, so that its weight is dropped; NaN for a product without any field of weight > 0.
    """
    w_F = np.asarray(weights, np.float32)
    norm_N = np.sqrt(np.einsum("f,nfg,g->n", w_F, gram_NxFxF, w_F).clip(min=0))
    return np.divide(w_F @ cosines_FxN, norm_N, out=np.full(norm_N.shape, np.nan, np.float32), where=norm_N > 1e-6)


def best_first(cosines_N: np.ndarray, k: int | None = None) -> np.ndarray:
    """Row numbers by falling cosine; equal ones by row, NaN last. k: the first k only, without sorting the rest."""
    if k is None or k >= len(cosines_N):
        return np.argsort(-cosines_N, kind="stable")
    far_N = np.where(np.isnan(cosines_N), np.inf, -cosines_N)
    rows = np.flatnonzero(far_N <= np.partition(far_N, k - 1)[k - 1])
    return rows[np.argsort(far_N[rows], kind="stable")[:k]]


@dataclass(frozen=True, eq=False)
class Ranker:
    """A model's part of a bundle. fields: name -> default weight; map: the products', then the queries' places, M x 2;
    kept: what the map keeps of the neighbourhoods; weights: folder of the model, None when left out."""

    name: str
    about: str
    fields: Mapping[str, float]
    embeddings_NxD: Mapping[str, np.ndarray]
    gram_NxFxF: np.ndarray
    queries_QxD: np.ndarray
    map_Mx2: np.ndarray
    kept: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: pd.DataFrame
    history: pd.DataFrame
    weights: Path | None


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """An open bundle; `items`, `queries` and `qrels` have a row a product, a query of a split, a scored pair; `slices`
    a row a query and a column a way of slicing."""

    folder: Path
    manifest: dict[str, Any]
    items: pd.DataFrame
    queries: pd.DataFrame
    qrels: pd.DataFrame
    slices: pd.DataFrame
    models: Mapping[str, Ranker]

    @property
    def splits(self) -> list[str]:
        return list(self.manifest["splits"])

    @cached_property
    def metrics(self) -> dict[Metric, str]:
        """Metric -> its definition."""
        return {parse(name): told for name, told in self.manifest["metrics"].items()}

    def items_of(self, split: str) -> slice:
        return slice(*self._ranges(split)["items"])

    def queries_of(self, split: str) -> slice:
        return slice(*self._ranges(split)["queries"])

    def judged(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """(item rows, scores) of a query row, best first; equal scores by row."""
        low, high = np.searchsorted(self.qrels["query"].to_numpy(), [query, query + 1])
        pairs = self.qrels.iloc[low:high]
        return pairs["item"].to_numpy(), pairs["score"].to_numpy()

    def thumbnail(self, item: int) -> bytes:
        """The picture of an item as WebP; empty when it has none."""
        start, size = self.items["thumbnail_start"].iat[item], self.items["thumbnail_size"].iat[item]
        return self._thumbnails[start : start + size].tobytes()

    @cached_property
    def _thumbnails(self) -> np.ndarray:
        path = self.folder / "thumbnails.bin"
        return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)

    def _ranges(self, split: str) -> dict[str, list[int]]:
        if split not in self.manifest["splits"]:
            raise unknown("split", split, self.splits)
        return self.manifest["splits"][split]


def read_bundle(folder: str | Path) -> Bundle:
    """Open a bundle: schema, sha256 of every file, shapes and row numbers are checked; no pickle is read.

    Raises UserError where there is no bundle, DataError naming the file and what is wrong with it.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    for name, expected in manifest["files"].items():
        _check_file(folder, name, expected)
    items, queries, qrels, slices = (
        _table(folder, f"{name}.parquet", columns, manifest)
        for name, columns in (
            ("items", ("product_id", "thumbnail_start", "thumbnail_size")),
            ("queries", ("split", "query_id", "division")),
            ("qrels", ("query", "item", "score")),
            ("slices", ()),
        )
    )
    qrels = qrels.sort_values(["query", "score", "item"], ascending=[True, False, True], kind="stable")
    for column, table in (("query", queries), ("item", items)):
        _expect(
            qrels[column].between(0, len(table) - 1).all(),
            folder / "qrels.parquet",
            f"it names a row of {column} that doesn't exist",
        )
    _expect(len(slices) == len(queries), folder / "slices.parquet", f"{len(slices)} rows, not {len(queries)}")
    for split, ranges in manifest["splits"].items():
        for name, table in (("items", items), ("queries", queries)):
            start, stop = ranges[name]
            _expect(0 <= start < stop <= len(table), folder, f"split {split!r} has {name} {start}..{stop}")
    models = {name: _ranker(folder, name, manifest, len(items), len(queries)) for name in manifest["models"]}
    return Bundle(folder, manifest, items, queries, qrels.reset_index(drop=True), slices, models)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no bundle; manifest.json is expected: make one with `gcl bundle STUDY`")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); {_AGAIN}") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{path}: schema is {schema!r}, but this program reads {SCHEMA}; make it again: `gcl bundle`")
    for key in ("files", "splits", "models", "metrics"):
        _expect(isinstance(manifest.get(key), dict) and manifest[key], path, f"{key!r} is missing")
    fields = [field for model in manifest["models"].values() for field in model["fields"]]
    for name in (*manifest["models"], *fields):
        _expect(_NAME.fullmatch(name) is not None, path, f"{name!r} is no name for a model or a field")
    return manifest


def _check_file(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    _expect(path.resolve().is_relative_to(folder.resolve()), path, "it lies outside of the bundle")
    _expect(path.is_file(), path, "there is no such file")
    found = sha256(path)
    _expect(found == expected, path, f"sha256 is {found[:12]}..., the manifest says {str(expected)[:12]}...")


def _table(folder: Path, name: str, columns: Sequence[str], manifest: dict) -> pd.DataFrame:
    _expect(name in manifest["files"], folder / name, "it is not in the manifest")
    try:
        table = parquet.read_table(folder / name).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder / name} can't be read ({error}); {_AGAIN}") from None
    missing = [column for column in columns if column not in table.columns]
    _expect(not missing, folder / name, f"column {missing and missing[0]!r} is missing")
    return table


def _array(folder: Path, name: str, kind: type, shape: tuple[int, ...], manifest: dict) -> np.ndarray:
    _expect(name in manifest["files"], folder / name, "it is not in the manifest")
    try:
        array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{folder / name} can't be read ({error}); {_AGAIN}") from None
    seen, wanted = f"{array.dtype} {array.shape}", f"{np.dtype(kind)} {shape}"
    _expect(seen == wanted, folder / name, f"it holds {seen}, {wanted} is expected")
    return array


def _ranker(folder: Path, name: str, manifest: dict, items: int, queries: int) -> Ranker:
    said, place = manifest["models"][name], f"models/{name}"
    fields, dimension = said["fields"], said["dimension"]
    metrics = _table(folder, f"{place}/metrics.parquet", tuple(manifest["metrics"]), manifest)
    _expect(len(metrics) == queries, folder / place / "metrics.parquet", f"{len(metrics)} rows, not {queries}")
    return Ranker(
        name,
        said["about"],
        fields,
        {f: _array(folder, f"{place}/{f}.npy", np.float16, (items, dimension), manifest) for f in fields},
        _array(folder, f"{place}/gram.npy", np.float32, (items, len(fields), len(fields)), manifest),
        _array(folder, f"{place}/queries.npy", np.float32, (queries, dimension), manifest),
        _array(folder, f"{place}/map.npy", np.float32, (items + queries, 2), manifest),
        said["map"],
        said["config"],
        metrics,
        _table(folder, f"{place}/history.parquet", ("step", "loss"), manifest),
        folder / place / "weights" if said["weights"] else None,
    )


def _expect(holds: Any, path: Path, seen: str) -> None:
    if not holds:
        raise DataError(f"{path}: {seen}; {_AGAIN}")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
