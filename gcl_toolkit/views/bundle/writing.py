"""Writing a bundle of a study: every product embedded field by field, every query, and what was measured."""

from __future__ import annotations

import io
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

from gcl_toolkit.data.fields import is_missing
from gcl_toolkit.data.pictures import open_image
from gcl_toolkit.data.ranked_data import RankedData, is_image
from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.files import sha256, writable_folder, write_json
from gcl_toolkit.measure.evaluate import DEPTH, METRICS, measure_ranking
from gcl_toolkit.measure.slices import slices
from gcl_toolkit.models.inputs import Inputs
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.studies import glossary
from gcl_toolkit.studies.results import read_results
from gcl_toolkit.studies.study import BASELINES, World, open_study
from gcl_toolkit.studies.summary import strongest_control
from gcl_toolkit.training.runs import load_model, read_config, read_steps
from gcl_toolkit.views.bundle.reading import ARRAYS, SCHEMA, best_first, field_cosines, field_files, fused_cosines
from gcl_toolkit.views.space import Plane, lay_out

THUMBNAIL = 192
"""Longest side of a stored picture, in pixels."""
TOLERANCE = 0.01
"""How much a split's mean NDCG@10, measured on float16 embeddings, may differ from the study's."""


class _Part(NamedTuple):
    """A split: its data, and the rows of its corpus and its queries in the bundle's tables."""

    data: RankedData
    items: slice
    queries: slice


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

    seed: which training run of each method. weights: include the models, so that any text can be searched.
    Raises UserError if the study has no trained model on that world, DataError if `world` isn't its data.
    """
    study, out = Path(study), Path(out)
    runs = _runs(study, world, seed)
    if out.exists() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise UserError(f"{out} holds other files but no bundle; choose another output folder")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    writable_folder(part)
    progress("pictures and tables")
    parts, models, plane = _parts(world), {}, None
    _write_tables(part, parts)
    for method, run in runs.items():
        progress(f"embedding with {method}")
        name = run.parent.name
        entry, layout = _write_model(part / "models" / name, run, parts, weights, plane)
        models[name], plane = {"about": glossary.meaning(method), **entry}, plane or layout
    write_json(part / "manifest.json", _manifest(part, study, world, parts, models) | {"control": _control(runs)})
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return out


def _runs(folder: Path, world: World, seed: int) -> dict[str, Path]:
    """Method -> folder of its finished run."""
    study = open_study(folder)
    worlds = sorted(path.name for path in (folder / "runs").glob("*"))
    if world.name not in worlds:
        raise unknown("world of this study", world.name, worlds)
    trained = [method for method in study.config.methods if method not in BASELINES]
    runs = {method: study.run_folder(world.name, method, seed) for method in trained}
    runs = {method: run for method, run in runs.items() if (run / "done.json").is_file()}
    if not runs:
        raise UserError(f"{folder} has no finished training run with seed {seed}; finish it or choose another seed")
    return runs


def _parts(world: World) -> dict[str, _Part]:
    """Splits with the same corpus share its rows."""
    spans: dict[tuple, slice] = {}
    parts, items, queries = {}, 0, 0
    for split, data in world.evaluated().items():
        products = tuple(data.product_ids)
        if products not in spans:
            spans[products], items = slice(items, items + len(products)), items + len(products)
        parts[split] = _Part(data, spans[products], slice(queries, queries + data.queries.num_rows))
        queries += data.queries.num_rows
    return parts


def _corpora(parts: dict[str, _Part]) -> list[pa.Table]:
    """The distinct corpora, in the order of their rows."""
    return list({part.items.start: part.data.corpus for part in parts.values()}.values())


# -- tables ------------------------------------------------------------------------------------------------------------


def _write_tables(folder: Path, parts: dict[str, _Part]) -> None:
    corpora = _corpora(parts)
    items = pa.concat_tables([_texts(corpus) for corpus in corpora], promote_options="default")
    with (folder / "thumbnails.bin").open("wb") as file:
        sizes = np.array([file.write(picture) for corpus in corpora for picture in _thumbnails(corpus)], int)
    for name, values in (("thumbnail_start", np.cumsum(sizes) - sizes), ("thumbnail_size", sizes)):
        items = items.append_column(name, pa.array(values, pa.int64()))
    queries, labels, qrels = [], [], []
    for split, (data, products, rows) in parts.items():
        queries.append(_texts(data.queries).add_column(0, "split", pa.array([split] * data.queries.num_rows)))
        labels.append(slices(data, "category" if "category" in data.corpus_fields else None).astype(str))
        query, product, score = data.pairs
        qrels.append(pa.table({"query": query + rows.start, "item": product + products.start, "score": score}))
    parquet.write_table(items, folder / "items.parquet")
    parquet.write_table(pa.concat_tables(queries, promote_options="default"), folder / "queries.parquet")
    parquet.write_table(pa.concat_tables(qrels), folder / "qrels.parquet")
    pd.concat(labels, ignore_index=True).to_parquet(folder / "slices.parquet")


def _texts(table: pa.Table) -> pa.Table:
    """The text columns but those that the bundle adds itself; the id is the first."""
    names = [column.name for column in table.schema if pa.types.is_string(column.type)]
    return table.select([name for name in names if name not in ("split", "thumbnail_start", "thumbnail_size")])


def _thumbnails(corpus: pa.Table) -> Iterator[bytes]:
    """The first image field of every row as WebP; empty if it is missing or can't be read."""
    column = next((corpus[name] for name in corpus.column_names if is_image(corpus[name])), pa.nulls(corpus.num_rows))
    for value in column:
        out = io.BytesIO()
        try:
            if not is_missing(value.as_py()):
                image = open_image(value.as_py())
                image.thumbnail((THUMBNAIL, THUMBNAIL))
                image.save(out, "WEBP", quality=85, method=4)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            out = io.BytesIO()
        yield out.getvalue()


# -- models ------------------------------------------------------------------------------------------------------------


def _write_model(
    folder: Path, run: Path, parts: dict[str, _Part], weights: bool, like: Plane | None
) -> tuple[dict[str, Any], Plane]:
    """Write a model's folder; its entry in the manifest, and its map, aligned with the map `like`."""
    folder.mkdir(parents=True)
    model = load_model(run).eval()
    corpora = [_field_embeddings(model, corpus) for corpus in _corpora(parts)]
    fields = {field: np.concatenate([corpus[field] for corpus in corpora]) for field in model.right}
    pairs = [np.einsum("nd,nd->n", f, g, dtype=np.float32) for f in fields.values() for g in fields.values()]
    gram_NxFxF = np.stack(pairs, axis=1).reshape(-1, len(fields), len(fields))
    queries_QxD = np.concatenate([model.embed(part.data.queries, "left") for part in parts.values()])
    products_NxD = np.sum([weight * fields[name].astype(np.float32) for name, weight in model.right.items()], axis=0)
    products_NxD /= np.linalg.norm(products_NxD, axis=1, keepdims=True).clip(1e-9)
    plane = lay_out(products_NxD, queries_QxD, like)
    arrays = zip(ARRAYS, (gram_NxFxF, queries_QxD, np.concatenate([plane.products, plane.queries])), strict=True)
    named = [(f"{name}.npy", array) for name, array in arrays]
    for name, array in [*named, *((file, fields[field]) for field, file in field_files(fields).items())]:
        np.save(folder / name, array, allow_pickle=False)
    table = _measured(fields, gram_NxFxF, queries_QxD, [*model.right.values()], parts)
    _check_agreement(table, run)
    table.drop(columns="split").to_parquet(folder / "metrics.parquet")
    pd.DataFrame(read_steps(run)).to_parquet(folder / "history.parquet")
    if weights:
        model.save(folder / "weights")
    return {
        "fields": dict(model.right),
        "query": next(iter(model.left)) if len(model.left) == 1 else None,
        "encoder": model.encoder.spec["name"],
        "dimension": model.dimension,
        "weights": weights,
        "config": {name: value for name, value in read_config(run).items() if name != "arguments"},  # has local paths
        "map": {name: getattr(plane, name) for name in ("method", "products_kept", "queries_kept", "chance")},
    }, plane


def _measured(fields, gram_NxFxF, queries_QxD, weights, parts: dict[str, _Part]) -> pd.DataFrame:
    """Every metric of every query, from the numbers that the bundle stores."""
    tables = []
    for split, (data, items, queries) in parts.items():
        ranked = []
        for query_D in queries_QxD[queries]:
            cosines_FxN = field_cosines(fields.values(), query_D, items)
            ranked.append(best_first(fused_cosines(cosines_FxN, gram_NxFxF[items], weights))[:DEPTH])
        tables.append(measure_ranking(np.stack(ranked), data, METRICS).assign(split=split))
    return pd.concat(tables).reset_index()


def _field_embeddings(model: GCLModel, table: pa.Table, *, batch: int = 256) -> dict[str, np.ndarray]:
    """Field -> L2-normalised embeddings of every product: N x D float16, zero where the field is missing."""
    inputs = Inputs(model.encoder, table, model.right, side="right")
    parts: dict[str, list[np.ndarray]] = {field: [] for field in model.right}
    with torch.inference_mode():
        for start in range(0, table.num_rows, batch):
            values, present = inputs.rows(np.arange(start, min(start + batch, table.num_rows)))
            for field, value in values.items():
                encoded_NxD = model.encoder.encode(value.to(model.device), "right", field)
                vectors_NxD = normalize(encoded_NxD.float(), dim=-1).cpu()
                parts[field].append((vectors_NxD * present[field][:, None]).numpy().astype(np.float16))
    return {field: np.concatenate(part) for field, part in parts.items()}


def _check_agreement(table: pd.DataFrame, run: Path) -> None:
    """Raise DataError if the study measured other values, that is, on other data."""
    study, advice = pd.read_parquet(run / "per_query.parquet"), "give the data that the study was made on"
    both = table.merge(study[["split", "query_id", "NDCG@10"]], on=["split", "query_id"], suffixes=("", " of study"))
    if not len(both) == len(table) == len(study):
        counts = f"the study measured {len(study):,} queries, the data has {len(table):,}, {len(both):,} are in both"
        raise DataError(f"{run}: {counts}; {advice}")
    means = both.groupby("split")[["NDCG@10", "NDCG@10 of study"]].mean()
    for split, (mean, expected) in means.iterrows():
        if abs(mean - expected) > TOLERANCE:
            raise DataError(
                f"{run}: NDCG@10 in {split} is {mean:.3f} on this data, {expected:.3f} in the study; {advice}"
            )


# -- manifest ----------------------------------------------------------------------------------------------------------


def _manifest(folder: Path, study: Path, world: World, parts: dict[str, _Part], models: dict) -> dict[str, Any]:
    path = study / "results.json"
    results = read_results(path) if path.is_file() else None
    data = next(iter(parts.values())).data
    return {
        "schema": SCHEMA,
        "made": date.today().isoformat(),
        "study": {"command": results.command, "date": results.date} if results else {},
        "world": world.name,
        "card": data.card,
        "title": next((n for n in ("title", "name") if n in data.corpus.column_names), "product_id"),
        "splits": {
            split: {
                "about": glossary.SPLITS.get(split, ""),
                "items": [items.start, items.stop],
                "queries": [queries.start, queries.stop],
            }
            for split, (_, items, queries) in parts.items()
        },
        "models": models,
        "metrics": {str(metric): glossary.METRICS[str(metric)] for metric in METRICS},
        "files": {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()},
    }


def _control(runs: dict[str, Path]) -> str | None:
    """The control to compare the other models with; None in a study without one."""
    try:
        return strongest_control(pd.concat([pd.read_parquet(run / "per_query.parquet") for run in runs.values()]))
    except UserError:
        return None
