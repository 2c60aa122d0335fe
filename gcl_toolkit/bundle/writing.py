"""Making a bundle of a study: embed every product field by field and every query, measure, and write it all down."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from torch.nn.functional import normalize

from gcl_toolkit.batches import Inputs
from gcl_toolkit.bundle.reading import SCHEMA, best_first, field_cosines, fused_cosines, sha256
from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.evaluate import DEPTH, METRICS, measure_ranking
from gcl_toolkit.fields import is_missing
from gcl_toolkit.glossary import METHODS_MEAN, METRICS_MEAN, SPLITS_MEAN
from gcl_toolkit.model import GCLModel
from gcl_toolkit.pictures import open_image
from gcl_toolkit.ranked_data import RankedData, is_image
from gcl_toolkit.runs import load_model, read_steps, writable_folder, write_json
from gcl_toolkit.slices import slices
from gcl_toolkit.space import Plane, lay_out
from gcl_toolkit.study import TRAINED, World
from gcl_toolkit.summary import strongest_control

THUMBNAIL = 192
"""Longest side of a stored picture, pixels."""
AGREES = 0.01
"""How far a split's mean NDCG@10, measured on float16 embeddings, may lie from the study's."""


class _Part(NamedTuple):
    """A split's place: its data, and where its corpus and its queries start in the bundle's tables."""

    data: RankedData
    item: int
    query: int


def write_bundle(
    study: str | Path,
    world: World,
    out: str | Path,
    *,
    seed: int = 0,
    weights: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write the bundle of a study's trained models on one of its worlds; an older bundle at `out` is replaced.

    seed: which training of each method. weights: put the models themselves in, so that any text can be searched.
    Raises UserError when the study has no trained model on that world, DataError when `world` isn't its data.
    """
    runs = _runs(Path(study), world, seed)
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise UserError(f"{out} holds other files and no bundle; choose another output folder")
    beside = out.with_name(out.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    writable_folder(beside)
    progress("pictures and tables")
    parts = _parts(world)
    _write_tables(beside, parts)
    models = {}
    for method, run in runs.items():
        progress(f"embedding with {method}")
        models[method] = _write_model(beside / "models" / method, run, parts, weights)
    progress("maps")
    _write_maps(beside / "models", models)
    manifest = _manifest(beside, Path(study), world, parts, models)
    write_json(beside / "manifest.json", manifest | {"control": _control(runs)})
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)
    return out


def _runs(study: Path, world: World, seed: int) -> dict[str, Path]:
    if not (study / "study.json").is_file():
        raise UserError(f"{study} holds no study; study.json is expected: make one with `gcl demo` or `gcl compare`")
    folder = study / "runs" / world.name
    if not folder.is_dir():
        raise unknown("world of this study", world.name, [p.name for p in (study / "runs").iterdir()])
    runs = {method: folder / method / f"seed_{seed}" for method in TRAINED}
    found = {method: run for method, run in runs.items() if (run / "done.json").is_file()}
    if not found:
        raise UserError(f"{folder} has no finished training with seed {seed}; finish the study, or name another seed")
    return found


def _parts(world: World) -> dict[str, _Part]:
    """Splits with the same corpus share its rows."""
    starts: dict[bytes, int] = {}
    parts, items, queries = {}, 0, 0
    for split, data in world.evaluated().items():
        key = "\n".join(data.product_ids).encode()
        if key not in starts:
            starts[key], items = items, items + data.corpus.num_rows
        parts[split] = _Part(data, starts[key], queries)
        queries += data.queries.num_rows
    return parts


def _corpora(parts: dict[str, _Part]) -> list[pa.Table]:
    return [part.data.corpus for part in {part.item: part for part in reversed(parts.values())}.values()][::-1]


# -- tables ------------------------------------------------------------------------------------------------------------


def _write_tables(folder: Path, parts: dict[str, _Part]) -> None:
    corpora = _corpora(parts)
    items = pa.concat_tables([_texts(corpus, "product_id") for corpus in corpora], promote_options="default")
    with (folder / "thumbnails.bin").open("wb") as file:
        sizes = [file.write(picture) for corpus in corpora for picture in _thumbnails(corpus)]
    starts = np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0, int)
    for name, values in (("thumbnail_start", starts), ("thumbnail_size", sizes)):
        items = items.append_column(name, pa.array(values, pa.int64()))
    parquet.write_table(items, folder / "items.parquet")
    queries = []
    for split, (data, *_) in parts.items():
        table = _texts(data.queries, "query_id")
        if "division" not in table.column_names:
            table = table.append_column("division", pa.nulls(table.num_rows, pa.string()))
        queries.append(table.add_column(0, "split", pa.array([split] * table.num_rows)))
    parquet.write_table(pa.concat_tables(queries, promote_options="default"), folder / "queries.parquet")
    cut = [slices(part.data, _category(part.data)).astype(str) for part in parts.values()]
    pd.concat(cut, ignore_index=True).to_parquet(folder / "slices.parquet")
    pairs = [(part, part.data.pairs) for part in parts.values()]
    qrels = {
        "query": np.concatenate([p.query + part.query for part, p in pairs]),
        "item": np.concatenate([p.product + part.item for part, p in pairs]),
        "score": np.concatenate([p.score for _, p in pairs]),
    }
    parquet.write_table(pa.table(qrels), folder / "qrels.parquet")


def _category(data: RankedData) -> str | None:
    return "category" if "category" in data.corpus_fields else None


def _texts(table: pa.Table, key: str) -> pa.Table:
    """The id and every column of text."""
    texts = [name for name in table.column_names if name != key and pa.types.is_string(table[name].type)]
    return table.select([key, *texts])


def _thumbnails(corpus: pa.Table) -> Iterator[bytes]:
    """The first image field of every row as WebP, empty where there is none or it can't be read."""
    column = next((corpus[name] for name in corpus.column_names if is_image(corpus[name])), None)
    for row in range(corpus.num_rows):
        value = None if column is None else column[row].as_py()
        try:
            image = None if value is None or is_missing(value) else open_image(value)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            image = None
        out = io.BytesIO()
        if image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            image.save(out, "WEBP", quality=85, method=4)
        yield out.getvalue()


# -- models ------------------------------------------------------------------------------------------------------------


def _write_model(folder: Path, run: Path, parts: dict[str, _Part], weights: bool) -> dict[str, Any]:
    folder.mkdir(parents=True)
    model = load_model(run).eval()
    corpora = [field_embeddings(model, corpus) for corpus in _corpora(parts)]
    fields = {field: np.concatenate([corpus[field] for corpus in corpora]) for field in model.right}
    pairs = [np.einsum("nd,nd->n", f, g, dtype=np.float32) for f in fields.values() for g in fields.values()]
    gram_NxFxF = np.stack(pairs, axis=1).reshape(-1, len(fields), len(fields))
    queries_QxD = np.concatenate([model.embed(part.data.queries, "left") for part in parts.values()])
    for name, array in (*fields.items(), ("gram", gram_NxFxF), ("queries", queries_QxD)):
        np.save(folder / f"{name}.npy", array, allow_pickle=False)

    def rank(query: int, rows: slice) -> np.ndarray:
        cosines_FxN = field_cosines(fields.values(), queries_QxD[query], rows)
        return best_first(fused_cosines(cosines_FxN, gram_NxFxF[rows], [*model.right.values()]))[:DEPTH]

    table = _measured(rank, parts)
    _check_agreement(table, run)
    table.drop(columns="split").to_parquet(folder / "metrics.parquet")
    pd.DataFrame(read_steps(run)).to_parquet(folder / "history.parquet")
    if weights:
        model.save(folder / "weights")
    return {
        "about": METHODS_MEAN.get(folder.name, ""),
        "fields": dict(model.right),
        "query": next(iter(model.left)) if len(model.left) == 1 else None,
        "encoder": model.encoder.spec["name"],
        "dimension": model.dimension,
        "weights": weights,
        "config": json.loads((run / "config.json").read_text()),
    }


def _write_maps(folder: Path, models: dict[str, dict[str, Any]]) -> None:
    """Every model's map, aligned to the first one's; what it keeps goes into the model's facts."""
    first: Plane | None = None
    for name, said in models.items():
        fields = [w * np.load(folder / name / f"{f}.npy").astype(np.float32) for f, w in said["fields"].items()]
        products_NxD = np.sum(fields, axis=0)
        products_NxD /= np.linalg.norm(products_NxD, axis=1, keepdims=True).clip(1e-9)
        plane = lay_out(products_NxD, np.load(folder / name / "queries.npy"), first)
        first = first or plane
        np.save(folder / name / "map.npy", np.concatenate([plane.products, plane.queries]), allow_pickle=False)
        facts = ("method", "products_kept", "queries_kept", "chance")
        said["map"] = {fact: getattr(plane, fact) for fact in facts}


def field_embeddings(model: GCLModel, table: pa.Table, *, batch: int = 256) -> dict[str, np.ndarray]:
    """Field -> L2-normalised embeddings of every product: N x D float16, zero where the field is missing."""
    inputs = Inputs(model.encoder, table, model.right, side="right")
    parts: dict[str, list[np.ndarray]] = {field: [] for field in model.right}
    with torch.inference_mode():
        for start in range(0, table.num_rows, batch):
            values, present = inputs.rows(np.arange(start, min(start + batch, table.num_rows)))
            for field, value in values.items():
                encode = model.encoder.encode_images if value.dim() == 4 else model.encoder.encode_texts
                vectors_NxD = normalize(encode(value.to(model.device)).float(), dim=-1).cpu()
                parts[field].append((vectors_NxD * present[field][:, None]).numpy().astype(np.float16))
    return {field: np.concatenate(part) for field, part in parts.items()}


def _measured(rank: Callable[[int, slice], np.ndarray], parts: dict[str, _Part]) -> pd.DataFrame:
    """Every metric of every query, from the very numbers that the bundle holds."""
    tables = []
    for split, (data, item, query) in parts.items():
        rows = slice(item, item + data.corpus.num_rows)
        ranked_QxK = np.stack([rank(query + row, rows) for row in range(data.queries.num_rows)])
        tables.append(measure_ranking(ranked_QxK, data, METRICS).assign(split=split))
    return pd.concat(tables).reset_index()


def _check_agreement(table: pd.DataFrame, run: Path) -> None:
    """The study measured the same models; when its numbers differ, it wasn't on this data."""
    study = pd.read_parquet(run / "per_query.parquet")
    keys = ["split", "query_id"]
    both = table.merge(study[[*keys, "NDCG@10"]], on=keys, suffixes=("", " of study"))
    if len(both) != len(table) or len(both) != len(study):
        raise DataError(
            f"{run}: the study measured {len(study):,} queries, the data has {len(table):,}, "
            f"{len(both):,} are in both; give the data that the study was made on"
        )
    means = both.groupby("split")[["NDCG@10", "NDCG@10 of study"]].mean()
    off = (means["NDCG@10"] - means["NDCG@10 of study"]).abs()
    if off.max() > AGREES:
        split = off.idxmax()
        raise DataError(
            f"{run}: NDCG@10 in {split} is {means['NDCG@10'][split]:.3f} on this data, "
            f"{means['NDCG@10 of study'][split]:.3f} in the study; give the data that the study was made on"
        )


# -- manifest ----------------------------------------------------------------------------------------------------------


def _manifest(folder: Path, study: Path, world: World, parts: dict[str, _Part], models: dict) -> dict[str, Any]:
    results = study / "results.json"
    told = json.loads(results.read_text()) if results.is_file() else {}
    data = next(iter(parts.values())).data
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "schema": SCHEMA,
        "made": date.today().isoformat(),
        "study": {key: told[key] for key in ("command", "date") if key in told},
        "world": world.name,
        "card": data.card,
        "title": next((n for n in ("title", "name") if n in data.corpus.column_names), "product_id"),
        "splits": {
            split: {
                "about": SPLITS_MEAN.get(split, ""),
                "items": [part.item, part.item + part.data.corpus.num_rows],
                "queries": [part.query, part.query + part.data.queries.num_rows],
            }
            for split, part in parts.items()
        },
        "models": models,
        "metrics": {str(metric): METRICS_MEAN[str(metric)] for metric in METRICS},
        "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }


def _control(runs: dict[str, Path]) -> str | None:
    """The control that the other models should be compared with; None in a study without one."""
    try:
        return strongest_control(pd.concat([pd.read_parquet(run / "per_query.parquet") for run in runs.values()]))
    except UserError:
        return None
