"""Opening a bundle: schema, sha256 and shapes are checked; typed texts are ranked from the stored embeddings."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.files import sha256
from gcl_toolkit.measure.metrics import Metric, parse

SCHEMA = 3
"""Bundles of schema 2, which hold models only, are read, too."""
DEPTH = 1000
"""Ranks that a bundle stores of a query, at most."""
ARRAYS = ("gram", "queries", "map", "ranking")
"""Arrays of a system's folder besides those of its fields."""
FIRST = ("graded", "gcl-matrix")
"""Compared first with the baseline where there is one: the default method, by its name now and in version 0.1."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,=-]*")
_ADVICE = "the bundle is damaged; make it again with `gcl bundle`"


# -- ranking -----------------------------------------------------------------------------------------------------------


def field_cosines(fields: Iterable[np.ndarray], query_D: np.ndarray, rows: slice, *, chunk: int = 2_048) -> np.ndarray:
    """Cosines of a query with `rows` of each field's embeddings (N x D float16): F x rows, float32, chunk by chunk."""
    parts = [slice(start, min(start + chunk, rows.stop)) for start in range(rows.start, rows.stop, chunk)]
    return np.array([np.concatenate([field[part].astype(np.float32) @ query_D for part in parts]) for field in fields])


def fused_cosines(cosines_FxN: np.ndarray, gram_NxFxF: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Cosine of a query with each product's fused embedding, from its cosines with the fields: N float32.

    s(w) = sum_f w_f s_f / sqrt(w' G w), where G holds the cosines between a product's fields. A missing field has
    s_f = 0 and zeros in G, so that its weight is dropped; NaN for a product without any field of weight > 0.
    """
    w_F = np.asarray(weights, np.float32)
    norm_N = np.sqrt(np.einsum("f,nfg,g->n", w_F, gram_NxFxF, w_F).clip(min=0))
    return np.divide(w_F @ cosines_FxN, norm_N, out=np.full(norm_N.shape, np.nan, np.float32), where=norm_N > 1e-6)


def best_first(cosines_N: np.ndarray, k: int | None = None) -> np.ndarray:
    """Row numbers by decreasing cosine; ties by row, NaN last. k: the first k only, without sorting the rest."""
    if k is None or k >= len(cosines_N):
        return np.argsort(-cosines_N, kind="stable")
    far_N = np.where(np.isnan(cosines_N), np.inf, -cosines_N)
    rows = np.flatnonzero(far_N <= np.partition(far_N, k - 1)[k - 1])
    return rows[np.argsort(far_N[rows], kind="stable")[:k]]


def ranked(
    fields: Iterable[np.ndarray], gram_NxFxF: np.ndarray, queries_QxD: np.ndarray, weights: Sequence[float], k: int
) -> np.ndarray:
    """The k best products of each query by `fused_cosines`: Q x min(k, N) int32, best first."""
    vectors_NxD = np.sum([w * f.astype(np.float32) for w, f in zip(weights, fields, strict=True)], axis=0)
    scale_N = fused_cosines(np.ones((len(weights), len(gram_NxFxF)), np.float32), gram_NxFxF, weights) / sum(weights)
    rows = np.empty((len(queries_QxD), min(k, len(vectors_NxD))), np.int32)
    for start in range(0, len(rows), 64):
        cosines_BxN = queries_QxD[start : start + 64] @ vectors_NxD.T * scale_N
        for row, cosines_N in enumerate(cosines_BxN, start):
            rows[row] = best_first(cosines_N, k)
    return rows


@dataclass(frozen=True, eq=False)
class Vectors:
    """A system's embeddings. fields: name -> default weight; map: positions of the products, then the queries, M x 2;
    kept: how much of the neighbourhoods the map preserves; weights: folder of the model, None if left out; query: the
    column with the queries' text, None if there is no single one."""

    fields: Mapping[str, float]
    embeddings_NxD: Mapping[str, np.ndarray]
    gram_NxFxF: np.ndarray
    queries_QxD: np.ndarray
    map_Mx2: np.ndarray
    kept: Mapping[str, Any]
    weights: Path | None
    query: str | None


@dataclass(frozen=True, eq=False)
class System:
    """Something that ranks. kind: "model", "baseline" or "run" (a ranking from a file); vectors: of a model; history:
    one row a logged step of its training, None if it was not trained; config: how it was made."""

    name: str
    about: str
    kind: str
    rank: Callable[[], np.ndarray]
    vectors: Vectors | None
    history: pd.DataFrame | None
    config: Mapping[str, Any]

    @cached_property
    def ranking_QxK(self) -> np.ndarray:
        """Item rows of every query, best first, int32, padded with -1; K is at most `DEPTH`."""
        return self.rank()


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """An open bundle. `items` has one row per product, `queries` one per query of a split, `qrels` one per scored pair,
    `slices` one per query and a column per way of slicing."""

    folder: Path
    manifest: dict[str, Any]
    items: pd.DataFrame
    queries: pd.DataFrame
    qrels: pd.DataFrame
    slices: pd.DataFrame
    systems: Mapping[str, System]

    @property
    def splits(self) -> list[str]:
        return list(self.manifest["splits"])

    @cached_property
    def pair(self) -> tuple[str, str]:
        """The system that is compared first, and the baseline (the same one if the bundle holds no other)."""
        return first_pair(self.systems, self.manifest["control"])

    @cached_property
    def metrics(self) -> dict[Metric, str]:
        """Metric -> its definition."""
        return {parse(name): definition for name, definition in self.manifest["metrics"].items()}

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
    """Open a bundle; schema, sha256 of every file, shapes and row numbers are checked, and no pickle is read.

    Raises UserError if there is no bundle, DataError with the file and the problem if it is damaged.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    for name, digest in manifest["files"].items():
        path = folder / name
        _expect(path.resolve().is_relative_to(folder.resolve()), path, "it is outside the bundle")
        _expect(path.is_file(), path, "the file is missing")
        _expect(sha256(path) == digest, path, f"its sha256 is not the manifest's ({str(digest)[:12]}...)")
    files = {folder / name for name in manifest["files"]}
    items = _table(folder / "items.parquet", files, "product_id", "thumbnail_start", "thumbnail_size")
    queries = _table(folder / "queries.parquet", files, "split", "query_id", "division")
    qrels = _table(folder / "qrels.parquet", files, "query", "item", "score")
    slices = _table(folder / "slices.parquet", files)
    qrels = qrels.sort_values(["query", "score", "item"], ascending=[True, False, True], kind="stable")
    for column, table in (("query", queries), ("item", items)):
        rows_exist = qrels[column].between(0, len(table) - 1).all()
        _expect(rows_exist, folder / "qrels.parquet", f"it refers to a row of {column} that doesn't exist")
    _expect(len(slices) == len(queries), folder / "slices.parquet", f"{len(slices)} rows, not {len(queries)}")
    for split, ranges in manifest["splits"].items():
        for name, table in (("items", items), ("queries", queries)):
            start, stop = ranges[name]
            _expect(0 <= start < stop <= len(table), folder, f"split {split!r} has {name} {start}..{stop}")
    sizes = len(items), len(queries)
    systems = {name: _system(folder, name, manifest, files, *sizes) for name in manifest["systems"]}
    return Bundle(folder, manifest, items, queries, qrels.reset_index(drop=True), slices, systems)


def first_pair(systems: Iterable[str], control: str | None) -> tuple[str, str]:
    """The system to compare first, and the baseline, which is `control` where it is among the systems."""
    names = list(systems)
    default = next((name for name in FIRST if name in names), names[0])
    if control in names:
        return next((name for name in (default, *names) if name != control), control), control
    return default, next((name for name in names if name != default), default)


def field_files(fields: Iterable[str]) -> dict[str, str]:
    """Field -> the file of its embeddings: FIELD.npy, or its number where that name is taken or not a file name."""
    usable = {field: _NAME.fullmatch(field) and field not in ARRAYS for field in fields}
    return {field: f"{field}.npy" if good else f"+{number}.npy" for number, (field, good) in enumerate(usable.items())}


def _expect(holds: Any, path: Path, problem: str) -> None:
    if not holds:
        raise DataError(f"{path}: {problem}; {_ADVICE}")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no bundle (manifest.json is missing); make one with `gcl bundle STUDY`")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); {_ADVICE}") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema not in (2, SCHEMA):
        raise DataError(f"{path}: schema is {schema!r}, expected {SCHEMA}; make the bundle again with `gcl bundle`")
    systems = "models" if schema == 2 else "systems"
    for key in ("files", "splits", systems, "metrics"):
        _expect(isinstance(manifest.get(key), dict) and manifest[key], path, f"{key!r} is missing")
    for name in manifest[systems]:
        _expect(_NAME.fullmatch(name), path, f"{name!r} is not a valid name of a system")
    defaults: dict[str, Any] = {"control": None, "unlisted": "irrelevant", "glossary": {}, "opening": {}}
    return {**defaults, "query": "query_id"} | (_upgraded(manifest) if schema == 2 else manifest)


def _upgraded(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 2 in the form of today."""
    models = manifest.pop("models")
    query = next((entry["query"] for entry in models.values() if entry["query"]), "query_id")
    parts = ("fields", "query", "encoder", "dimension", "weights", "map")
    systems = {
        name: {"about": entry["about"], "kind": "model", "config": entry["config"], "history": True}
        | {"vectors": {part: entry[part] for part in parts}}
        for name, entry in models.items()
    }
    return {**manifest, "systems": systems, "query": query}


def _table(path: Path, files: set[Path], *columns: str) -> pd.DataFrame:
    _expect(path in files, path, "it is not in the manifest")
    try:
        table = parquet.read_table(path).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} can't be read ({error}); {_ADVICE}") from None
    for column in columns:
        _expect(column in table.columns, path, f"column {column!r} is missing")
    return table


def _array(path: Path, files: set[Path], kind: type, *shape: int) -> np.ndarray:
    _expect(path in files, path, "it is not in the manifest")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} can't be read ({error}); {_ADVICE}") from None
    seen, expected = f"{array.dtype} {array.shape}", f"{np.dtype(kind)} {shape}"
    _expect(seen == expected, path, f"it holds {seen}, expected {expected}")
    return array


def _system(folder: Path, name: str, manifest: dict, files: set[Path], items: int, queries: int) -> System:
    entry = manifest["systems"][name]
    place = folder / ("models" if manifest["schema"] == 2 else "systems") / name
    vectors = _vectors(place, entry["vectors"], files, items, queries) if entry["vectors"] else None
    history = _table(place / "history.parquet", files, "step", "loss") if entry["history"] else None
    if manifest["schema"] == 2:
        assert vectors  # all systems were models
        rank = partial(_reranked, vectors, manifest["splits"], queries)
    else:
        path, problem = place / "ranking.npy", "it refers to a row of item that doesn't exist"
        stored_QxK = _array(path, files, np.int32, queries, entry["depth"])
        _expect(stored_QxK.min(initial=0) >= -1 and stored_QxK.max(initial=0) < items, path, problem)
        rank = partial(np.asarray, stored_QxK)
    return System(name, entry["about"], entry["kind"], rank, vectors, history, entry["config"])


def _vectors(place: Path, entry: dict, files: set[Path], items: int, queries: int) -> Vectors:
    fields, dimension = entry["fields"], entry["dimension"]
    return Vectors(
        fields,
        {f: _array(place / name, files, np.float16, items, dimension) for f, name in field_files(fields).items()},
        _array(place / "gram.npy", files, np.float32, items, len(fields), len(fields)),
        _array(place / "queries.npy", files, np.float32, queries, dimension),
        _array(place / "map.npy", files, np.float32, items + queries, 2),
        entry["map"],
        place / "weights" if entry["weights"] else None,
        entry["query"],
    )


def _reranked(vectors: Vectors, splits: dict[str, Any], queries: int) -> np.ndarray:
    """The ranking of a bundle of schema 2, which stores none."""
    rows_QxK = np.full((queries, DEPTH), -1, np.int32)
    for ranges in splits.values():
        items, asked = slice(*ranges["items"]), slice(*ranges["queries"])
        fields = (field[items] for field in vectors.embeddings_NxD.values())
        weights = [*vectors.fields.values()]
        found = ranked(fields, vectors.gram_NxFxF[items], vectors.queries_QxD[asked], weights, DEPTH)
        rows_QxK[asked, : found.shape[1]] = found + items.start
    return rows_QxK
