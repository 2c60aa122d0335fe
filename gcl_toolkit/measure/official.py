"""Results comparable with published ones: marqo-ai/GCL's evaluation, with its keys, ground truth, inputs and ties."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from PIL import Image

from gcl_toolkit.data.formats import Run, read_trec_run, run_of
from gcl_toolkit.data.pictures import check_size
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.sources import spelt
from gcl_toolkit.data.sources.marqo_gs import layout, tar_folder
from gcl_toolkit.data.sources.marqo_gs.rows import PART, WORSE
from gcl_toolkit.data.weighting import rescale
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.files import writable_folder, write_json
from gcl_toolkit.measure.evaluate import retrieved
from gcl_toolkit.measure.metrics import AP, ERR, NDCG, RBP, RR, Grades, Precision, Recall, measure
from gcl_toolkit.models.inputs import Inputs
from gcl_toolkit.models.model import GCLModel

CUTOFFS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200, 500, 1000)
KEY_END = "_{!@#~}_"
"""Suffix of every query field in the script's keys of queries."""


@dataclass(frozen=True)
class Protocol:
    """The settings of the script, by its names."""

    top_k: int = 1000
    """With --official: products retrieved for each query."""
    top_q: int = 2000
    """With --official: queries drawn where no ground truth is stored; -1 for all."""
    truth: tuple[Path, ...] = ()
    """With --official: a ground-truth file, as the script's gt_results.json, for each --split in its order."""

    def __post_init__(self):
        if self.top_k < 10:
            raise UserError(f"top_k is {self.top_k}; at least 10 is expected, since the summary has NDCG@10")
        if self.top_q < 1 and self.top_q != -1:
            raise UserError(f"top_q is {self.top_q}; a number of queries, or -1 for all, is expected")

    @property
    def cutoffs(self) -> list[int]:
        return [k for k in CUTOFFS if k <= self.top_k]


# -- keys and ground truth ---------------------------------------------------------------------------------------------


def keys_of(data: RankedData, fields: Sequence[str] = ()) -> list[str]:
    """The script's key of each query: its left fields (by default all), each followed by `KEY_END`."""
    columns = [data.queries[name].to_pylist() for name in fields or data.query_fields]
    return ["".join(f"{value}{KEY_END}" for value in values) for values in zip(*columns, strict=True)]


def with_keys(grades: Grades, data: RankedData, fields: Sequence[str] = ()) -> dict[str, Mapping[str, float]]:
    """A run or a ground truth by the script's keys; it may have the query ids instead."""
    key_of = dict(zip(data.query_ids, keys_of(data, fields), strict=True))
    return {str(key_of.get(query, query)): scores for query, scores in grades.items()}


def truths(
    parts: Mapping[str, RankedData],
    source: str,
    division: str = "test",
    protocol: Protocol = Protocol(),
    fields: Sequence[str] = (),
) -> dict[str, Grades]:
    """The ground truth of each split that has one: from the protocol's files, from MarqoGS's tar, or computed."""
    if protocol.truth:
        if len(protocol.truth) != len(parts):
            raise UserError(
                f"{len(protocol.truth)} ground-truth files for the splits {', '.join(parts)}; give one for each --split"
            )
        files = zip(parts, protocol.truth, strict=True)
        return {name: with_keys(_read_grades(file), parts[name], fields) for name, file in files}
    truth = {}
    for name, part in parts.items():
        if (graded := stored_truth(spelt(source)[0], part, division)) is not None:
            truth[name] = graded
        elif (chosen := part.only(division)).qrels.num_rows:
            truth[name] = ground_truth(chosen, protocol, fields)
    return truth


def stored_truth(path: str | Path, data: RankedData, division: str) -> Grades | None:
    """The ground truth in MarqoGS's tar for a division ("dev", "test") of a split; None if there is none."""
    if not Path(path).is_dir() or layout(path) != "tar" or data.name not in PART:
        return None
    query_part, product_part = PART[data.name]
    file = tar_folder(Path(path)) / f"query_{query_part}_product_id_{product_part}_gt_{division}.json"
    return _read_grades(file) if file.is_file() else None


def ground_truth(data: RankedData, protocol: Protocol = Protocol(), fields: Sequence[str] = ()) -> Grades:
    """What the script computes: grades rescaled to integers 1..100 over the split, `top_q` queries drawn in proportion
    to their sums of grades (the same ones), and the best `top_k` pairs of each. A pair that the source lists twice
    counts twice in the sum and has its last, worst grade."""
    pairs = _listed_pairs(data, fields)
    pairs["grade"] = rescale(pairs["grade"]).astype(int)
    sums = pairs.groupby("query")["grade"].sum()
    count = min(protocol.top_q, len(sums)) if protocol.top_q > 0 else len(sums)
    chances = (sums / sums.sum()).to_numpy()
    drawn = sums.iloc[np.random.RandomState(1).choice(len(sums), count, replace=False, p=chances)]  # as in pandas
    truth: dict[str, dict[str, int]] = {query: {} for query in drawn.sort_values(ascending=False).index}
    ranked = pairs[pairs["query"].isin(drawn.index)].sort_values("grade", ascending=False, kind="stable")
    best = ranked.groupby("query").head(protocol.top_k)
    for query, product, grade in zip(best["query"], best["product"], best["grade"].tolist(), strict=True):
        truth[query][product] = grade
    return truth


def _listed_pairs(data: RankedData, fields: Sequence[str]) -> pd.DataFrame:
    """query (by key), product, grade: a row for each pair and for each of its repetitions in the source."""
    query, product, grade = data.pairs
    if not len(query):
        raise UserError(f"{data.name} has no scored pairs; check the qrels, or choose another --division")
    if WORSE in data.qrels.column_names:
        worse = data.qrels[WORSE].combine_chunks()
        again = pc.list_parent_indices(worse).to_numpy()
        query, product = (np.concatenate([rows, rows[again]]) for rows in (query, product))
        grade = np.concatenate([grade, pc.list_flatten(worse).to_numpy()])
    keys = np.array(keys_of(data, fields), object)
    return pd.DataFrame({"query": keys[query], "product": data.product_ids[product], "grade": grade})


# -- retrieval ---------------------------------------------------------------------------------------------------------


class ScriptInputs(Inputs):
    """Rows as the script reads them: pictures resized by Pillow and not turned by EXIF; empty texts embedded, of the
    first field also missing ones (as "None"); no prefixes for E5."""

    def _add_texts(self, name: str, side: str) -> None:
        texts = self._table[name].to_pylist()
        is_first = name == next(iter(self.fields))
        self._present[name] = torch.tensor([is_first or text is not None for text in texts], dtype=torch.bool)
        self._values[name] = self.encoder.tokens([*map(str, texts)], "").int()

    def _pixels(self, value: dict) -> np.ndarray:
        with Image.open(BytesIO(value["bytes"]) if value.get("bytes") else value["path"]) as image:
            check_size(*image.size)
            return self.encoder.pillow_pixels(image)


def retrieve(
    model: GCLModel, parts: Mapping[str, RankedData], truth: Mapping[str, Grades], top_k: int = 1000
) -> Iterator[tuple[str, Run]]:
    """The name of each split with a ground truth, and the best products for each query there, by the same keys."""
    chosen = {}
    for name in truth:
        data = parts[name]
        row_of = dict(zip(reversed(keys_of(data, [*model.left])), reversed(range(data.queries.num_rows)), strict=True))
        if unknown := [key for key in truth[name] if key not in row_of]:
            raise DataError(
                f"{len(unknown):,} of {len(truth[name]):,} queries of the ground truth are not in {name}, such as "
                f"{unknown[0]!r}; load the data with all queries, or give the ground truth of this split"
            )
        chosen[name] = data.take_queries(np.array([row_of[key] for key in truth[name]]))
    for name, part, scores, rows in retrieved(model, chosen, top_k, ScriptInputs):
        yield name, dict(zip(truth[name], run_of(part, rows, scores).values(), strict=True))


def stored(
    path: Path, parts: Mapping[str, RankedData], truth: Mapping[str, Grades]
) -> Iterator[tuple[str, dict[str, Mapping[str, float]]]]:
    """As `retrieve`, from a file: a run for each split of which the file has queries and products."""
    run = read_run(path)
    products = {product for scores in run.values() for product in scores}
    for name, graded in truth.items():
        keyed = with_keys(run, parts[name])
        if graded.keys() & keyed.keys() and not products.isdisjoint(parts[name].product_ids):
            yield name, keyed


def read_run(path: str | Path) -> Run:
    """A run in TREC's format, or the script's retrieval.json."""
    return _read_grades(Path(path)) if Path(path).suffix == ".json" else read_trec_run(path)


# -- metrics and files -------------------------------------------------------------------------------------------------


def output(truth: Grades, run: Grades, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, dict[str, Any]]:
    """The content of the official output.json: a mean for each metric and cut-off, and the summary.

    As in the script, nDCG, MAP, recall and P order equal scores like trec_eval, the others keep the run's order, and
    all but those of the summary's users are rounded to 5 decimals. "hole" is the share of the first k products that no
    query of the ground truth has, "acc" whether one is relevant. A query missing from the run counts 0.
    """
    last = cutoffs[-1]
    by_trec = {"mAP": ("MAP", AP), "ndcg": ("NDCG", NDCG), "precision": ("P", Precision), "recall": ("Recall", Recall)}
    trec = measure(truth, run, [m @ k for _, m in by_trec.values() for k in cutoffs], ties="trec").mean()
    users = {"mERR": ERR, "mRBP7": RBP(0.7), "mRBP8": RBP(0.8), "mRBP9": RBP(0.9)}
    given = measure(truth, run, [*(RR @ k for k in cutoffs), *users.values()])
    holes_QxK = _holes(truth, run, last)
    columns = {
        **{key: (name, {k: trec[str(metric @ k)] for k in cutoffs}) for key, (name, metric) in by_trec.items()},
        "mrr": ("MRR", {k: given[str(RR @ k)].mean() for k in cutoffs}),
        "hole": ("Hole", {k: holes_QxK[:, :k].mean() for k in cutoffs}),
        "acc": ("Accuracy", {k: (given[str(RR @ k)] > 0).mean() for k in cutoffs}),
    }
    result: dict[str, dict[str, Any]] = {
        key: {f"{name}@{k}": round(float(value), 5) for k, value in values.items()}
        for key, (name, values) in columns.items()
    }
    result["summary"] = {
        f"mAP@{last}": [result["mAP"][f"MAP@{last}"]],
        f"mrr@{last}": [result["mrr"][f"MRR@{last}"]],
        "NDCG@10": [result["ndcg"]["NDCG@10"]],
        **{name: float(given[str(metric)].mean()) for name, metric in users.items()},
    }
    return result


def write(
    truth: Grades, run: Grades, folder: str | Path, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, dict[str, Any]]:
    """Write output.json, output.csv (the summary), gt_results.json and retrieval.json; returns the output. The official
    script, run with --metric-only on the folder, measures the same ranking."""
    folder, result = writable_folder(folder), output(truth, run, cutoffs)
    for name, content in (("gt_results", truth), ("retrieval", run), ("output", result)):
        write_json(folder / f"{name}.json", content)
    pd.DataFrame(result["summary"]).to_csv(folder / "output.csv", index=False)
    return result


def _holes(truth: Grades, run: Grades, depth: int) -> np.ndarray:
    """Queries x depth: 1 where the product at a rank is in no query's ground truth."""
    known = {product for graded in truth.values() for product in graded}
    holes_QxK = np.zeros((len(truth), depth))
    for row, query in enumerate(truth):
        scores = run.get(query, {})
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)[:depth]
        holes_QxK[row, : len(ranked)] = [product not in known for product in ranked]
    return holes_QxK


def _read_grades(path: Path) -> Any:
    """{query: {product: number}} of a JSON file."""
    try:
        grades = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except ValueError as error:
        raise DataError(f"{path} can't be read as JSON ({error}); is the file complete?") from None
    if not isinstance(grades, dict) or not all(isinstance(scores, dict) for scores in grades.values()):
        raise DataError(f"{path}: an object {{query: {{product: number}}}} is expected, as the script writes it")
    return grades
