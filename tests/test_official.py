import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import references
import torch
from conftest import ranked
from PIL import Image
from test_encoders import clip_folder

from gcl_toolkit import DataError, Fields, GCLModel, RankedData, UserError, cli
from gcl_toolkit.data.columns import as_images
from gcl_toolkit.data.formats import write_trec_run
from gcl_toolkit.data.sources import load
from gcl_toolkit.measure.official import (
    CUTOFFS,
    Protocol,
    ScriptInputs,
    ground_truth,
    keys_of,
    output,
    read_run,
    retrieve,
    stored_truth,
    truths,
    with_keys,
    write,
)

CONFORMANCE = Path(__file__).parent / "conformance"
CASES = json.loads((CONFORMANCE / "metrics.json").read_text())


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
    result = {key: {} for key in ("mAP", "ndcg", "precision", "recall", "mrr", "hole", "acc")}
    for k in CUTOFFS:
        sums = dict.fromkeys(result, 0.0)
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
            result[key][f"{names.get(key, 'Accuracy')}@{k}"] = round(total / len(truth), 5)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_every_number_of_the_output_is_that_of_the_loops(seed):
    truth, run = world(seed)
    result, expected = output(truth, run), slowly(truth, run)
    assert list(result) == [*expected, "summary"]
    for key, values in expected.items():
        assert result[key] == pytest.approx(values, abs=1.1e-5), key
        assert list(result[key]) == list(values)
        assert all(value == round(value, 5) for value in result[key].values())
    users = {
        "mERR": references.err,
        **{f"mRBP{p}": lambda r, g, p=p: references.rbp(r, g, p=p / 10) for p in (7, 8, 9)},
    }
    for name, formula in users.items():
        mean = np.mean([formula(references.ranking_given(run[query]), graded) for query, graded in truth.items()])
        assert result["summary"][name] == pytest.approx(mean, abs=1e-12)


def test_the_ties_matter_to_this_test():
    truth, run = world(0)
    shuffled = {query: dict(sorted(scores.items())) for query, scores in run.items()}
    a, b = output(truth, run), output(truth, shuffled)
    assert a["ndcg"] == b["ndcg"]  # trec_eval's order looks at ids only
    assert a["mrr"] != b["mrr"]  # the others keep the run's


def test_the_summary_has_the_published_keys_and_shapes(tmp_path):
    truth, run = world(1)
    result = write(truth, run, tmp_path / "out")
    keys = ["mAP@1000", "mrr@1000", "NDCG@10", "mERR", "mRBP7", "mRBP8", "mRBP9"]
    assert list(result["summary"]) == keys
    assert [isinstance(value, list) for value in result["summary"].values()] == [True] * 3 + [False] * 4
    assert json.loads((tmp_path / "out" / "output.json").read_text()) == result
    table = pd.read_csv(tmp_path / "out" / "output.csv")
    assert table.columns.tolist() == keys
    assert table.iloc[0].tolist() == pytest.approx([np.ravel(value)[0] for value in result["summary"].values()])
    assert json.loads((tmp_path / "out" / "gt_results.json").read_text()) == truth
    assert read_run(tmp_path / "out" / "retrieval.json") == run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_values_are_those_of_trec_eval_and_of_the_official_functions(case):
    result, mean = output(case["qrels"], case["run"]), pd.DataFrame(case["expected"]).mean(axis=1)
    for key, name, theirs in (("ndcg", "NDCG", "ndcg_cut_"), ("mAP", "MAP", "map_cut_"), ("precision", "P", "P_")):
        for k in (10, 100):
            if f"{theirs}{k}" in mean:
                assert result[key][f"{name}@{k}"] == pytest.approx(mean[f"{theirs}{k}"], abs=1e-5)
    for ours, theirs in (("mERR", "err"), ("mRBP7", "rbp_7"), ("mRBP8", "rbp_8"), ("mRBP9", "rbp_9")):
        assert result["summary"][ours] == pytest.approx(mean[theirs], abs=1e-9)


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
    first = "text 0_{!@#~}_"
    assert next(iter(truth)) == first  # the largest sum first
    assert len(truth[first]) == 1000
    assert "p150" not in truth[first]
    assert [truth[first][p] for p in ("p1199", "p1198", "p600")] == [100, 99, 50]  # floor of 99 (s - min) / range + 1
    assert all(type(grade) is int for grade in truth[first].values())
    assert len(ground_truth(data, Protocol(top_q=-1))) == many
    assert {len(graded) for graded in ground_truth(data, Protocol(top_k=10, top_q=5)).values()} == {1, 10}
    assert ground_truth(ranked(2, 1)) == {"mug 0_{!@#~}_": {"p0": 1}, "mug 1_{!@#~}_": {"p0": 1}}


def test_queries_are_drawn_in_proportion_to_their_sums_of_grades():
    many = 2500
    queries = pa.table({"query_id": [f"q{i}" for i in range(many)], "query": [f"text {i}" for i in range(many)]})
    pairs = {
        "query_id": [f"q{i}" for i in range(many)] * 2,
        "product_id": ["p0"] * many + ["p1"] * many,
        "score": [4.0 if i % 2 else 0.5 for i in range(many)] + [0.5] * many,
    }
    data = RankedData(queries, pa.table({"product_id": ["p0", "p1"], "title": ["a", "b"]}), pa.table(pairs))
    heavy = [graded == {"p0": 100, "p1": 1} for graded in ground_truth(data).values()]
    assert len(heavy) == 2000
    assert sum(heavy) > 1200  # sums 101 against 2: nearly all 1,250 heavy ones are in
    assert heavy == sorted(heavy, reverse=True)


# -- against what the script itself read and wrote -------------------------------------------------------------------


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The folder of a tar with one split, and what the script made of it."""
    case, folder = json.loads((CONFORMANCE / "official.json").read_text()), tmp_path_factory.mktemp("official")
    (folder / "query_0_product_id_0.csv").write_text(case["csv"])
    (folder / "corpus_1.json").write_text(json.dumps(case["corpus"]))
    for name in ("gt_results", "retrieval"):
        (folder / f"{name}.json").write_text(json.dumps(case[name]))
    return folder, case


def test_the_ground_truth_is_the_scripts_own_also_for_pairs_listed_twice(official):
    folder, case = official
    data = load(folder, fields=("title",))["in_domain"]
    assert data.card["repeated_pairs"] > 10
    truth = truths({"in_domain": data}, str(folder), "all", Protocol(top_k=12, top_q=8))["in_domain"]
    assert list(truth) == list(case["gt_results"])
    assert truth == case["gt_results"]
    once = ground_truth(replace(data, qrels=data.qrels.drop_columns(["worse_scores"])), Protocol(top_k=12, top_q=8))
    assert once != truth


def test_the_scripts_ranking_has_the_scripts_output_from_the_command_line(official, tmp_path, capsys):
    """Its ground truth too, which our ranking's files give back to it with its keys."""
    folder, case = official
    common = ["--data", f"{folder}:fields=title", "--official", "--division", "all", "--top-k", "12"]
    for number, truth in enumerate(
        (["--top-q", "8"], ["--split", "in_domain", "--truth", f"{folder}/gt_results.json"])
    ):
        out = tmp_path / str(number)
        splits = ["--split", "in_domain"] if number == 0 else []
        cli.main(["evaluate", f"{folder}/retrieval.json", *common, *splits, *truth, "--out", str(out)])
        written = {path.stem: json.loads(path.read_text()) for path in (out / "in_domain").glob("*.json")}
        assert written["gt_results"] == case["gt_results"]
        assert written["retrieval"] == case["retrieval"]
        assert list(written["output"]) == list(case["output"])
        for key, values in case["output"].items():
            assert list(written["output"][key]) == list(values)
            numbers = [np.ravel(value)[0] for value in values.values()]
            assert [np.ravel(v)[0] for v in written["output"][key].values()] == pytest.approx(numbers, abs=1.1e-5), key
    assert "not measured" not in capsys.readouterr().out


def test_a_run_and_a_ground_truth_may_have_query_ids_or_the_scripts_keys():
    data = ranked(2, 1)
    assert keys_of(data) == ["mug 0_{!@#~}_", "mug 1_{!@#~}_"]
    assert with_keys({"q1": {"p0": 1.0}, "mug 0_{!@#~}_": {"p0": 2.0}}, data) == {
        "mug 1_{!@#~}_": {"p0": 1.0},
        "mug 0_{!@#~}_": {"p0": 2.0},
    }


def odd_pictures(folder: Path) -> list[str]:
    """Palette, transparency, grey, EXIF rotation; all of sizes that need resizing."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 13, 3), np.uint8)
    picture, exif, paths = Image.fromarray(noise).resize((140, 90)), Image.Exif(), []
    exif[0x0112] = 6
    for name, odd in {"rgb": picture, "p": picture.convert("P"), "la": picture.convert("LA"), "jpg": picture}.items():
        if name == "la":
            odd.putalpha(Image.fromarray(noise[:, :, 0]).resize(odd.size))
        paths.append(str(folder / f"{name}.{'jpg' if name == 'jpg' else 'png'}"))
        odd.save(paths[-1], exif=exif if name == "jpg" else None)
    return paths


def test_pictures_and_texts_are_read_as_by_the_script(tmp_path):
    """The loop of its MFRightEvalDataset: open_clip's own transform of the picture as Pillow opens it; an empty title
    is embedded, a missing one is not; of the first field a missing one is the text None."""
    import open_clip

    name = clip_folder(tmp_path, [32, 32])
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokenize, titles = open_clip.get_tokenizer(name), ["red mug", "", None, " "]
    paths = odd_pictures(tmp_path)
    images = as_images(pa.chunked_array([paths]), Path())
    table = pa.table({"product_id": ["0", "1", "2", "3"], "image": images, "title": titles})
    for fields in (Fields(image=0.9, title=0.1), Fields(title=1.0)):
        expected = []
        with torch.no_grad():
            for path, title in zip(paths, titles, strict=True):
                text = model.eval().encode_text(tokenize([str(title)]), normalize=True)
                image = model.encode_image(transform(Image.open(path))[None], normalize=True)
                first, second = (image, text) if len(fields) == 2 else (text, 0)
                vector = 0.9 * first + (0 if title is None else 0.1) * second
                expected.append((vector / vector.norm()).numpy()[0])
        ours = GCLModel(name, right=fields)
        assert ours.embed(table, "right", inputs=ScriptInputs) == pytest.approx(np.stack(expected), abs=2e-6)
        kept = table if len(fields) == 2 else table.slice(0, 1)
        assert len(fields) == 1 or np.abs(ours.embed(kept, "right") - expected)[1:].max() > 1e-3


def test_texts_get_no_prefix_as_in_the_script(tiny_bert):
    model = GCLModel(f"text:{tiny_bert}", right=Fields(title=1.0), prefix="query: ", product_prefix="red ")
    plain = GCLModel(f"text:{tiny_bert}", right=Fields(title=1.0), prefix="", product_prefix="")
    table = ranked(1, 3).corpus
    read = model.embed(table, "right", inputs=ScriptInputs)
    assert read == pytest.approx(plain.embed(table, "right"), abs=1e-6)
    assert np.abs(read - model.embed(table, "right")).max() > 1e-3


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
    data = load(tar(tmp_path), fields=("title",))["novel_document"]
    truth = stored_truth(tmp_path, data, "test")
    assert truth == {"blue mug_{!@#~}_": {"8": 100}, "red mug_{!@#~}_": {"7": 100, "8": 51}}
    assert stored_truth(tmp_path, data, "dev") is None
    assert stored_truth("shop", data, "test") is None
    model = GCLModel("small", right=Fields(title=1.0), vocabulary=["red", "mug", "blue"], dimension=16)
    ((name, run),) = retrieve(model, {"novel_document": data}, {"novel_document": truth})
    assert (name, list(run)) == ("novel_document", list(truth))
    assert all(set(products) == {"7", "8", "9"} for products in run.values())
    left, right = model.embed(data.queries, "left"), model.embed(data.corpus, "right")
    cosine = (left @ right.T)[data.query_ids.tolist().index("red mug"), data.product_ids.tolist().index("8")]
    assert run["red mug_{!@#~}_"]["8"] == pytest.approx(cosine, abs=1e-6)
    part = data.take_queries(np.flatnonzero(data.query_ids == "blue mug"))
    with pytest.raises(DataError, match=r"1 of 2 queries .* are not in novel_document, such as 'red mug_{!@#~}_'"):
        list(retrieve(model, {"novel_document": part}, {"novel_document": truth}))


def test_a_protocol_that_can_not_be_is_refused():
    with pytest.raises(UserError, match="top_k is 9; at least 10 is expected"):
        Protocol(top_k=9)
    with pytest.raises(UserError, match="top_q is 0; a number of queries, or -1"):
        Protocol(top_q=0)
    with pytest.raises(UserError, match="1 ground-truth files for the splits a, b; give one for each"):
        truths({"a": ranked(), "b": ranked()}, "shop", "all", Protocol(truth=(Path("gt.json"),)))


def test_a_run_is_read_from_a_file(tmp_path):
    write_trec_run({"q0": {"p1": 2.0}}, tmp_path / "a.run")
    assert read_run(tmp_path / "a.run") == {"q0": {"p1": 2.0}}
    (tmp_path / "corrupt.json").write_text('{"q0"')
    with pytest.raises(DataError, match=r"corrupt.json can't be read as JSON"):
        read_run(tmp_path / "corrupt.json")
    (tmp_path / "list.json").write_text('{"q0": ["p1"]}')
    with pytest.raises(DataError, match=r"list.json: an object {query: {product: number}} is expected"):
        read_run(tmp_path / "list.json")
    with pytest.raises(UserError, match="does not exist"):
        read_run(tmp_path / "none.json")
    with pytest.raises(UserError, match="no query is both"):
        output({"q0": {"p0": 1}}, {"other": {"p0": 1.0}})
