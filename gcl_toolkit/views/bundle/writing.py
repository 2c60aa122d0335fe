"""Writing a bundle of a study: every product embedded field by field, every query, and every ranking."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch.nn.functional import normalize

from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.measure.baselines import BM25, oracle_top_k, random_top_k, texts
from gcl_toolkit.measure.evaluate import measure_ranking
from gcl_toolkit.measure.metrics import NDCG
from gcl_toolkit.models.inputs import Inputs
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.studies import glossary
from gcl_toolkit.studies.results import read_results
from gcl_toolkit.studies.study import BASELINES, Study, World, open_study
from gcl_toolkit.studies.summary import strongest_control
from gcl_toolkit.training.runs import load_model, read_config, read_steps
from gcl_toolkit.views.bundle.parts import (
    NO_MODEL,
    Part,
    corpora,
    parts_of,
    replacing,
    write_manifest,
    write_ranking,
    write_tables,
)
from gcl_toolkit.views.bundle.reading import DEPTH, field_files, ranked
from gcl_toolkit.views.space import Plane, lay_out

TOLERANCE = 0.01
"""How much a split's mean NDCG@10, measured on float16 embeddings, may differ from the study's."""


def write_bundle(
    study: str | Path,
    world: World,
    out: str | Path,
    *,
    seed: int = 0,
    weights: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write the bundle of a study on one of its worlds: its trained models, BM25 and its other baselines without a
    model; an older bundle at `out` is replaced.

    seed: which training run of each method. weights: include the models, so that any text can be searched.
    Raises UserError if the study has no trained model on that world, DataError if `world` isn't its data.
    """
    opened, out = open_study(Path(study)), Path(out)
    runs = _runs(opened, world, seed)
    with replacing(out) as part:
        progress("pictures and tables")
        parts, systems, plane = parts_of(world.evaluated()), {}, None
        write_tables(part, parts)
        for method, run in runs.items():
            progress(f"embedding with {method}")
            name = run.parent.name
            entry, layout = _write_model(part / "systems" / name, run, parts, weights, plane)
            systems[name], plane = {"about": glossary.in_words(method), **entry}, plane or layout
        for name in dict.fromkeys(["bm25", *opened.config.methods]):
            if name in BASELINES and name != "untrained":
                rankings = _baseline(name, opened, parts, seed)
                depth = write_ranking(part / "systems" / name, parts, rankings)
                systems[name] = {"about": glossary.in_words(name), "kind": "baseline", "depth": depth} | NO_MODEL
        path = opened.folder / "results.json"
        results = read_results(path) if path.is_file() else None
        made = {"command": results.command, "date": results.date} if results else {}
        about = {"study": made, "world": world.name, "unlisted": "irrelevant"}
        write_manifest(part, parts, systems, control=_control(runs), **about)
    return out


def _runs(study: Study, world: World, seed: int) -> dict[str, Path]:
    """Method -> folder of its finished run."""
    folder = study.folder
    worlds = sorted(path.name for path in (folder / "runs").glob("*"))
    if world.name not in worlds:
        raise unknown("world of this study", world.name, worlds)
    trained = [method for method in study.config.methods if method not in BASELINES]
    runs = {method: study.run_folder(world.name, method, seed) for method in trained}
    runs = {method: run for method, run in runs.items() if (run / "done.json").is_file()}
    if not runs:
        raise UserError(f"{folder} has no finished training run with seed {seed}; finish it or choose another seed")
    return runs


def _baseline(name: str, study: Study, parts: dict[str, Part], seed: int) -> dict[str, np.ndarray]:
    """A baseline's ranking of each split, as the study ranks."""
    if name == "random":
        sizes = {split: (part.data.queries.num_rows, part.data.corpus.num_rows) for split, part in parts.items()}
        return {split: random_top_k(*size, DEPTH, seed) for split, size in sizes.items()}
    if name == "oracle":
        return {split: oracle_top_k(part.data, DEPTH) for split, part in parts.items()}
    corpus_at = {items.start: data.corpus for data, items, _ in parts.values()}
    indices = {start: BM25(texts(corpus, study.config.right)) for start, corpus in corpus_at.items()}
    return {
        split: indices[items.start].top_k(texts(data.queries, study.config.left), DEPTH)
        for split, (data, items, _) in parts.items()
    }


def _write_model(
    folder: Path, run: Path, parts: dict[str, Part], weights: bool, like: Plane | None
) -> tuple[dict[str, Any], Plane]:
    """Write a model's folder; its entry in the manifest, and its map, aligned with the map `like`."""
    folder.mkdir(parents=True)
    model = load_model(run).eval()
    plane, rankings = _write_vectors(folder, model, parts, like)
    _check_agreement({s: measure_ranking(r, parts[s].data, [NDCG @ 10]) for s, r in rankings.items()}, run)
    pd.DataFrame(read_steps(run)).to_parquet(folder / "history.parquet")
    if weights:
        model.save(folder / "weights")
    vectors = {
        "fields": dict(model.right),
        "query": next(iter(model.left)) if len(model.left) == 1 else None,
        "encoder": model.encoder.spec["name"],
        "dimension": model.dimension,
        "weights": weights,
        "map": {name: getattr(plane, name) for name in ("method", "products_kept", "queries_kept", "chance")},
    }
    config = {name: value for name, value in read_config(run).items() if name != "arguments"}  # has local paths
    depth = write_ranking(folder, parts, rankings)
    return {"kind": "model", "depth": depth, "vectors": vectors, "history": True, "config": config}, plane


def _write_vectors(
    folder: Path, model: GCLModel, parts: dict[str, Part], like: Plane | None
) -> tuple[Plane, dict[str, np.ndarray]]:
    """Write a model's arrays; its map, and each split's ranking by the numbers that are stored."""
    embedded = [_field_embeddings(model, corpus) for corpus in corpora(parts)]
    fields = {field: np.concatenate([corpus[field] for corpus in embedded]) for field in model.right}
    pairs = [np.einsum("nd,nd->n", f, g, dtype=np.float32) for f in fields.values() for g in fields.values()]
    gram_NxFxF = np.stack(pairs, axis=1).reshape(-1, len(fields), len(fields))
    queries_QxD = np.concatenate([model.embed(part.data.queries, "left") for part in parts.values()])
    products_NxD = np.sum([weight * fields[name].astype(np.float32) for name, weight in model.right.items()], axis=0)
    products_NxD /= np.linalg.norm(products_NxD, axis=1, keepdims=True).clip(1e-9)
    plane = lay_out(products_NxD, queries_QxD, like)
    points_Mx2 = np.concatenate([plane.products, plane.queries])
    arrays = {"gram.npy": gram_NxFxF, "queries.npy": queries_QxD, "map.npy": points_Mx2}
    for file, array in (arrays | {file: fields[field] for field, file in field_files(fields).items()}).items():
        np.save(folder / file, array, allow_pickle=False)
    weights = [*model.right.values()]
    return plane, {
        split: ranked([f[items] for f in fields.values()], gram_NxFxF[items], queries_QxD[rows], weights, DEPTH)
        for split, (_, items, rows) in parts.items()
    }


def _field_embeddings(model: GCLModel, table: pa.Table) -> dict[str, np.ndarray]:
    """Field -> L2-normalised embeddings of every product: N x D float16, zero where the field is missing."""
    inputs = Inputs(model.encoder, table, model.right, side="right")
    embedded = {field: np.empty((table.num_rows, model.dimension), np.float16) for field in model.right}
    with torch.inference_mode():
        for rows in np.split(np.arange(table.num_rows), range(256, table.num_rows, 256)):
            values, present = inputs.rows(rows)
            for field, value in values.items():
                encoded_BxD = model.encoder.encode(value.to(model.device), "right", field)
                vectors_BxD = normalize(encoded_BxD.float(), dim=-1).cpu()
                embedded[field][rows] = vectors_BxD * present[field][:, None]
    return embedded


def _check_agreement(measured: dict[str, pd.DataFrame], run: Path) -> None:
    """Raise DataError if the study measured other values, that is, on other data. measured: split -> NDCG@10."""
    table = pd.concat([values.assign(split=split) for split, values in measured.items()]).reset_index()
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


def _control(runs: dict[str, Path]) -> str | None:
    """The control to compare the other models with; None in a study without one."""
    try:
        return strongest_control(pd.concat([pd.read_parquet(run / "per_query.parquet") for run in runs.values()]))
    except UserError:
        return None
