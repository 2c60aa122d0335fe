import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import references
from conftest import ranked

from gcl_toolkit import DataError, Fields, GCLModel, RankedData, UserError
from gcl_toolkit.formats import write_trec_run
from gcl_toolkit.official import CUTOFFS, ground_truth, output, read_run, retrieve, stored_truth, write
from gcl_toolkit.sources import marqo_gs

CASES = Path(__file__).parents[2] / "shared" / "conformance" / "metrics_conformance.json"


def world(seed: int, queries: int = 12, products: int = 60):
    """Uneven qrels and a run with many ties, whose queries have ids in no order."""
    rng = random.Random(seed)
    pool = [f"p{n}" for n in rng.sample(range(1000), products)]
    truth = {f"q{n}": {p: rng.randint(1, 100) for p in rng.sample(pool, rng.randint(1, 9))} for n in range(queries)}
    run = {q: {p: rng.randint(0, 9) / 4 for p in rng.sample(pool, 40)} for q in rng.sample(sorted(truth), queries)}
    run["q3"] = dict(list(run["q3"].items())[:3])
    return truth, run


def slowly(truth, run):
    """Each number of the output, by loops."""
    known = {product for graded in truth.values() for product in graded}
    told = {key: {} for key in ("mAP", "ndcg", "precision", "recall", "mrr", "hole", "acc")}
    for k in CUTOFFS:
        sums = dict.fromkeys(told, 0.0)
        for query, graded in truth.items():
            trec, given = references.ranking_trec(run[query]), references.ranking_given(run[query])
            sums["mAP"] += references.ap(trec, graded, k)
            sums["ndcg"] += references.ndcg(trec, graded, k)
            sums["precision"] += references.precision(trec, graded, k)
            sums["recall"] += references.recall(trec, graded, k)
            sums["mrr"] += references.rr(given, graded, k)
            sums["acc"] += any(product in graded for product in given[:k])
            for product in given[:k]:
                sums["hole"] += (product not in known) / k
        names = {"mAP": "MAP", "ndcg": "NDCG", "precision": "P", "recall": "Recall", "mrr": "MRR", "hole": "Hole"}
        for key, total in sums.items():
            told[key][f"{names.get(key, 'Accuracy')}@{k}"] = round(total / len(truth), 5)
    return told


@pytest.mark.parametrize("seed", range(3))
def test_every_number_of_the_output_is_that_of_the_loops(seed):
    truth, run = world(seed)
    told, expected = output(truth, run), slowly(truth, run)
    assert list(told) == [*expected, "summary"]
    for key, values in expected.items():
        assert told[key] == pytest.approx(values, abs=1.1e-5), key
        assert list(told[key]) == list(values)
        assert all(value == round(value, 5) for value in told[key].values())
    users = {
        "mERR": references.err,
        **{f"mRBP{p}": lambda r, g, p=p: references.rbp(r, g, p=p / 10) for p in (7, 8, 9)},
    }
    for name, formula in users.items():
        mean = np.mean([formula(references.ranking_given(run[query]), graded) for query, graded in truth.items()])
        assert told["summary"][name] == pytest.approx(mean, abs=1e-12)


def test_the_ties_matter_to_this_test():
    truth, run = world(0)
    shuffled = {query: dict(sorted(scores.items())) for query, scores in run.items()}
    a, b = output(truth, run), output(truth, shuffled)
    assert a["ndcg"] == b["ndcg"]  # trec_eval's order looks at ids only
    assert a["mrr"] != b["mrr"]  # the others keep the run's


def test_the_summary_has_the_published_keys_and_shapes(tmp_path):
    truth, run = world(1)
    told = write(truth, run, tmp_path / "out")
    keys = ["mAP@1000", "mrr@1000", "NDCG@10", "mERR", "mRBP7", "mRBP8", "mRBP9"]
    assert list(told["summary"]) == keys
    assert [isinstance(value, list) for value in told["summary"].values()] == [True] * 3 + [False] * 4
    assert json.loads((tmp_path / "out" / "output.json").read_text()) == told
    table = pd.read_csv(tmp_path / "out" / "output.csv")
    assert table.columns.tolist() == keys
    assert table.iloc[0].tolist() == pytest.approx([np.ravel(value)[0] for value in told["summary"].values()])
    assert json.loads((tmp_path / "out" / "gt_results.json").read_text()) == truth
    assert read_run(tmp_path / "out" / "retrieval.json") == run


@pytest.mark.skipif(not CASES.is_file(), reason=f"the conformance values are not at {CASES}")
@pytest.mark.parametrize("case", range(3))
def test_the_values_are_those_of_trec_eval_and_of_the_official_functions(case):
    said = json.loads(CASES.read_text())[case]
    told, mean = output(said["qrels"], said["run"]), said["expected"]["mean"]
    for key, name, theirs in (("ndcg", "NDCG", "ndcg_cut_"), ("mAP", "MAP", "map_cut_"), ("precision", "P", "P_")):
        for k in (10, 100):
            if f"{theirs}{k}" in mean:
                assert told[key][f"{name}@{k}"] == pytest.approx(mean[f"{theirs}{k}"], abs=1e-5)
    for ours, theirs in (("mERR", "err"), ("mRBP7", "rbp_7"), ("mRBP8", "rbp_8"), ("mRBP9", "rbp_9")):
        assert told["summary"][ours] == pytest.approx(mean[theirs], abs=1e-9)


def test_the_ground_truth_is_rescaled_drawn_and_cut():
    many = 2100
    pairs = {
        "query_id": ["q0"] * 1200 + [f"q{n}" for n in range(1, many)],
        "product_id": [f"p{n}" for n in range(1200)] + ["p0"] * (many - 1),
        "score": [float(n) for n in range(1200)] + [0.5] * (many - 1),
    }
    data = RankedData(
        pa.table({"query_id": [f"q{n}" for n in range(many)], "query": [f"text {n}" for n in range(many)]}),
        pa.table({"product_id": [f"p{n}" for n in range(1200)], "title": ["t"] * 1200}),
        pa.table(pairs),
    )
    truth = ground_truth(data)
    assert len(truth) == 2000
    assert next(iter(truth)) == "q0"  # the largest sum first
    assert len(truth["q0"]) == 1000
    assert "p150" not in truth["q0"]
    assert [truth["q0"][p] for p in ("p1199", "p1198", "p600")] == [100, 99, 50]  # floor of 99 (s - min) / range + 1
    assert all(isinstance(grade, int) for grade in truth["q0"].values())
    assert ground_truth(ranked(2, 1)) == {"q0": {"p0": 1}, "q1": {"p0": 1}}


def tar(folder: Path) -> Path:
    """One split in the tar's layout, with its ground truth."""
    stem = folder / "query_0_product_id_1"
    stem.with_suffix(".csv").write_text(
        "query,product_id,score_linear,title\nred mug,7,100,A mug\nred mug,8,50,B\nblue mug,8,100,B\n"
    )
    corpus = {"7": {"title": "A red mug"}, "8": {"title": "B blue mug"}, "9": {"title": "C"}}
    for number in (1, 2):
        (folder / f"corpus_{number}.json").write_text(json.dumps(corpus))
    truth = {"blue mug_{!@#~}_": {"8": 100}, "red mug_{!@#~}_": {"7": 100, "8": 51}}
    stem.with_name(f"{stem.name}_gt_test.json").write_text(json.dumps(truth))
    return folder


def test_the_ground_truth_of_the_tar_is_taken_as_it_stands(tmp_path):
    data = marqo_gs.load(tar(tmp_path), fields=("title",))["novel_document"]
    truth = stored_truth(tmp_path, data, "test")
    assert truth == {"blue mug": {"8": 100}, "red mug": {"7": 100, "8": 51}}
    assert stored_truth(tmp_path, data, "dev") is None
    assert stored_truth("shop", data, "test") is None
    model = GCLModel("small", right=Fields(title=1.0), vocabulary=["red", "mug", "blue"], dimension=16)
    run = retrieve(model, data, truth)
    assert list(run) == ["blue mug", "red mug"]
    assert all(set(found) == {"7", "8", "9"} for found in run.values())
    left, right = model.embed(data.queries, "left"), model.embed(data.corpus, "right")
    cosine = (left @ right.T)[data.query_ids.tolist().index("red mug"), data.product_ids.tolist().index("8")]
    assert run["red mug"]["8"] == pytest.approx(cosine, abs=1e-6)
    with pytest.raises(DataError, match=r"'red mug_{!@#~}_' is no query of novel_document"):
        stored_truth(tmp_path, data.take_queries(np.flatnonzero(data.query_ids == "blue mug")), "test")


def test_a_run_is_read_from_a_file(tmp_path):
    write_trec_run({"q0": {"p1": 2.0}}, tmp_path / "a.run")
    assert read_run(tmp_path / "a.run") == {"q0": {"p1": 2.0}}
    (tmp_path / "torn.json").write_text('{"q0"')
    with pytest.raises(DataError, match=r"torn.json: can't be read as JSON"):
        read_run(tmp_path / "torn.json")
    with pytest.raises(UserError, match="there is no such file"):
        read_run(tmp_path / "none.json")
    with pytest.raises(UserError, match="no query is both"):
        output({"q0": {"p0": 1}}, {"other": {"p0": 1.0}})
