"""Results that stand beside published ones: the ground truth, keys, cut-offs and ties of marqo-ai/GCL's evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.evaluate import measure_ranking
from gcl_toolkit.formats import Run, qrels_of, read_trec_run, run_of
from gcl_toolkit.metrics import AP, ERR, NDCG, RBP, RR, Grades, Precision, Recall, measure
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData
from gcl_toolkit.runs import writable_folder, write_json
from gcl_toolkit.search import top_k
from gcl_toolkit.sources.marqo_gs import layout, tar_folder
from gcl_toolkit.sources.marqo_gs.rows import PART
from gcl_toolkit.weighting import rescale

CUTOFFS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200, 500, 1000)
TOP_K = 1000
KEY_END = "_{!@#~}_"
"""What the official script ends every query with."""


def ground_truth(data: RankedData) -> Grades:
    """What the official script judges by: grades as whole numbers 1..100 over the split, at most 2,000 queries drawn
    in proportion to the sums of their grades (the same ones), and the best 1,000 products of each."""
    drawn = measure_ranking(np.empty((data.queries.num_rows, 0), int), data, [], form="official").index
    column = data.qrels.column_names.index("score")
    grade = pa.chunked_array([rescale(data.pairs.score)])
    graded = qrels_of(replace(data, qrels=data.qrels.set_column(column, "score", grade)))
    best = {query: sorted(graded[query].items(), key=lambda pair: -pair[1])[:TOP_K] for query in drawn}
    return {query: {product: int(grade) for product, grade in pairs} for query, pairs in best.items()}


def stored_truth(path: str | Path, data: RankedData, division: str) -> Grades | None:
    """The ground truth that MarqoGS's tar has for a division ("dev", "test") of a split; None where there is none."""
    if not Path(path).is_dir() or layout(path) != "tar" or data.name not in PART:
        return None
    query_part, product_part = PART[data.name]
    file = tar_folder(Path(path)) / f"query_{query_part}_product_id_{product_part}_gt_{division}.json"
    if not file.is_file():
        return None
    id_of = dict(zip(data.queries["query"].to_pylist(), data.query_ids, strict=True))
    truth = {}
    for key, graded in _read_json(file).items():
        query = key.removesuffix(KEY_END)
        if query not in id_of:
            raise DataError(f"{file}: {key!r} is no query of {data.name}; read the data with all its queries")
        truth[id_of[query]] = graded
    return truth


def retrieve(model: GCLModel, data: RankedData, truth: Grades) -> Run:
    """The best 1,000 products of the corpus for each query of the ground truth."""
    row_of = {query: row for row, query in enumerate(data.query_ids)}
    chosen = data.take_queries(np.array([row_of[query] for query in truth]))
    scores, rows = top_k(model.embed(chosen.queries, "left"), model.embed(data.corpus, "right"), TOP_K)
    return run_of(chosen, rows, scores)


def read_run(path: str | Path) -> Run:
    """A run in TREC's format, or the official script's retrieval.json."""
    return _read_json(Path(path)) if Path(path).suffix == ".json" else read_trec_run(path)


def output(truth: Grades, run: Grades) -> dict[str, dict[str, Any]]:
    """The content of the official output.json: a mean for each metric and cut-off, and the summary.

    As there, nDCG, MAP, recall and P order equal scores as trec_eval does, the others keep the run's order, and only
    those computed by the beir package are rounded, to 5 decimals. "hole" is the share of the first k that no query of
    the ground truth knows; "acc" whether there is a relevant one. A query that the run lacks counts 0.
    """
    by_trec = {"mAP": ("MAP", AP), "ndcg": ("NDCG", NDCG), "precision": ("P", Precision), "recall": ("Recall", Recall)}
    trec = measure(truth, run, [m @ k for _, m in by_trec.values() for k in CUTOFFS], ties="trec").mean()
    told: dict[str, dict[str, Any]] = {
        key: {f"{name}@{k}": round(float(trec[str(metric @ k)]), 5) for k in CUTOFFS}
        for key, (name, metric) in by_trec.items()
    }
    users = {"mERR": ERR, "mRBP7": RBP(0.7), "mRBP8": RBP(0.8), "mRBP9": RBP(0.9)}
    given = measure(truth, run, [*(RR @ k for k in CUTOFFS), *users.values()])
    first = {k: given[str(RR @ k)] for k in CUTOFFS}
    told["mrr"] = {f"MRR@{k}": round(float(first[k].mean()), 5) for k in CUTOFFS}
    told["hole"] = {f"Hole@{k}": round(value, 5) for k, value in _holes(truth, run).items()}
    told["acc"] = {f"Accuracy@{k}": round(float((first[k] > 0).mean()), 5) for k in CUTOFFS}
    told["summary"] = {
        f"mAP@{TOP_K}": [told["mAP"][f"MAP@{TOP_K}"]],
        f"mrr@{TOP_K}": [told["mrr"][f"MRR@{TOP_K}"]],
        "NDCG@10": [told["ndcg"]["NDCG@10"]],
        **{name: float(given[str(metric)].mean()) for name, metric in users.items()},
    }
    return told


def write(truth: Grades, run: Grades, folder: str | Path) -> dict[str, dict[str, Any]]:
    """Write output.json and output.csv (the summary), and gt_results.json and retrieval.json: with these the official
    script, run with --metric-only on the folder, measures the same ranking. Returns the output."""
    folder, told = writable_folder(folder), output(truth, run)
    for name, content in (("gt_results", truth), ("retrieval", run), ("output", told)):
        write_json(folder / f"{name}.json", content)
    pd.DataFrame(told["summary"]).to_csv(folder / "output.csv", index=False)
    return told


def _holes(truth: Grades, run: Grades) -> dict[int, float]:
    known = {product for graded in truth.values() for product in graded}
    holes_QxK = np.zeros((len(truth), TOP_K))
    for row, query in enumerate(truth):
        scores = run.get(query, {})
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)[:TOP_K]
        holes_QxK[row, : len(ranked)] = [product not in known for product in ranked]
    return {k: float(holes_QxK[:, :k].mean()) for k in CUTOFFS}


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except ValueError as error:
        raise DataError(f"{path}: can't be read as JSON ({error}); is the file whole?") from None
