import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ranked

from gcl_toolkit import (
    NDCG,
    DataError,
    GCLModel,
    MachineConfig,
    RankedData,
    TrainConfig,
    Tuning,
    UserError,
    evaluate,
    train,
)
from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.ranked_data import IMAGE, divide
from gcl_toolkit.data.weighting import WEIGHTINGS
from gcl_toolkit.measure.evaluate import MeasureDev
from gcl_toolkit.methods import GCL, Graded, Matrix, as_method
from gcl_toolkit.training.runs import Run, load_model, read_steps

TITLES = Fields(title=1.0)


def words_shop(queries=8, per_query=6):
    """Query i wants products whose titles share its word; "good" ones come before "bad" ones."""
    titles = [
        f"word{q} {'good' if p < per_query // 2 else 'bad'} n{p}" for q in range(queries) for p in range(per_query)
    ]
    pairs = [(q, q * per_query + p) for q in range(queries) for p in range(per_query)]
    return RankedData(
        pa.table({"query_id": [f"q{q}" for q in range(queries)], "query": [f"word{q}" for q in range(queries)]}),
        pa.table({"product_id": [f"p{p}" for p in range(len(titles))], "title": titles}),
        pa.table(
            {
                "query_id": [f"q{q}" for q, _ in pairs],
                "product_id": [f"p{p}" for _, p in pairs],
                "score": [100.0 if p % per_query < per_query // 2 else 40.0 for _, p in pairs],
            }
        ),
    )


def trained(seed=0, method="graded", **settings):
    model = GCLModel("small", right=TITLES, seed=seed, dimension=32)
    settings = {"steps": 60, "batch": 16, "learning_rate": 1e-2, "augment": False, "seed": seed, **settings}
    return model, list(train(model, words_shop(), method, **settings))


@pytest.mark.parametrize("method", [GCL("grades"), Matrix("grades"), Graded("grades")], ids=["GCL", "Matrix", "Graded"])
def test_training_learns_to_find_and_weights_teach_the_order(method):
    ranks = {}
    for name, each in {"scores": method, "no scores": method.without("scores")}.items():
        model, _ = trained(method=each, steps=100)
        ranks[name] = evaluate(model, words_shop(), [NDCG @ 3])["NDCG@3"].mean()
    assert ranks["scores"] > 0.97
    assert ranks["no scores"] < 0.9


def test_the_same_seed_gives_the_same_weights_another_seed_others():
    one, again, other = (trained(seed=s, augment=True, steps=5)[0].state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(
        one["encoder.text_head.weight"],
        other["encoder.text_head.weight"],
    )


def test_records_have_step_loss_scale_and_rate():
    _, records = trained(steps=10, warmup=0.2)
    assert [r["step"] for r in records] == list(range(1, 11))
    rates = [r["learning_rate"] for r in records]
    assert np.argmax(rates) == 1
    assert rates[0] == pytest.approx(5e-3)
    assert rates[-1] < 1e-3
    assert all(np.isfinite(r["loss"]) for r in records)
    assert records[-1]["loss"] < records[0]["loss"]


def test_one_can_stop_early():
    model = GCLModel("small", right=TITLES, dimension=32)
    for record in train(model, words_shop(), steps=1000, batch=8):
        if record["step"] == 2:
            break
    assert model.embed(words_shop().queries, "left").shape == (8, 32)


def test_a_run_is_written_as_it_goes(tmp_path):
    model = GCLModel("small", right=TITLES, dimension=32)
    records = []
    for record in train(model, words_shop(), config=TrainConfig(batch=8), run=Run(tmp_path), steps=3):
        records.append(record)
        assert read_steps(tmp_path) == records
    loaded = load_model(tmp_path).embed(words_shop().corpus, "right")
    assert (loaded == model.embed(words_shop().corpus, "right")).all()


def test_known_pairs_are_excluded_also_off_the_diagonal():
    data = words_shop(2, 2)  # q0: p0 p1, q1: p2 p3
    sampler = GCL(exclude_known=True).sampler(data, 4, 0)
    for queries, products, expected in (
        ([0, 1], [0, 2], [[1, 0], [0, 1]]),
        ([0, 1, 0], [0, 2, 1], [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
        ([0, 1, 1], [0, 2, 2], [[1, 0, 0], [0, 1, 1], [0, 1, 1]]),
    ):
        row_K, column_K = sampler._known_cells(np.array(queries), np.array(products))
        excluded = torch.zeros(len(queries), len(products), dtype=torch.int)
        excluded[row_K, column_K] = 1
        assert excluded.tolist() == expected


@pytest.mark.parametrize("method", [GCL(), Matrix(), Graded()], ids=["GCL", "Matrix", "Graded"])
def test_only_top_never_sees_a_lower_grade(method):
    sampler = method.only_top().sampler(words_shop(), 8, 0)
    products = np.concatenate([sampler(step).products for step in range(20)])
    assert set(products % 6) == {0, 1, 2}


@pytest.mark.parametrize("weighting", ["constant", "linear", "reciprocal"])
@pytest.mark.parametrize("kind", [GCL, Graded])
def test_a_pair_with_score_0_is_never_a_positive(kind, weighting):
    data = words_shop()
    scores = np.where(data.pairs.product % 3 == 0, 0.0, data.pairs.score)
    judged = replace(data, qrels=data.qrels.set_column(2, "score", pa.array(scores)))
    sampler = kind(weighting).sampler(judged, 8, 0)
    for step in range(20):
        batch = sampler(step)
        positive = batch.weights > 0
        pulled = batch.products[(positive if kind is GCL else positive.any(0)).numpy()]
        assert len(pulled)
        assert (pulled % 3 != 0).all()


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (TrainConfig, {"steps": 0}, "steps is 0; it must be an integer >= 1"),
        (TrainConfig, {"batch": -3}, "batch is -3"),
        (TrainConfig, {"batch": 1}, "batch is 1; it must be an integer >= 2"),
        (TrainConfig, {"accumulate": 0}, "accumulate is 0"),
        (TrainConfig, {"learning_rate": 0}, "learning_rate is 0; it must be a number > 0"),
        (TrainConfig, {"learning_rate": float("inf")}, "learning_rate is inf"),
        (TrainConfig, {"weight_decay": -0.1}, "weight_decay is -0.1; it must be a number >= 0"),
        (TrainConfig, {"warmup": float("nan")}, "warmup is nan; it must be a share from 0 to 1"),
        (TrainConfig, {"max_logit_scale": 0.5}, "max_logit_scale is 0.5; it must be a number >= 1"),
        (TrainConfig, {"tuning": Tuning(ema=1.0)}, r"ema is 1.0; it must be in \[0, 1\)"),
        (TrainConfig, {"tuning": Tuning(layer_decay=0.0)}, r"layer_decay is 0.0; it must be in \(0, 1\]"),
        (TrainConfig, {"tuning": Tuning(lora=-1)}, "lora is -1"),
        (TrainConfig, {"tuning": Tuning(lock="audio")}, "unknown tower to lock 'audio'; known: both, image, text"),
        (MachineConfig, {"precision": "int8"}, "unknown precision"),
        (MachineConfig, {"chunk": 0}, "chunk is 0; it must be an integer >= 1"),
        (MachineConfig, {"workers": -1}, "workers is -1"),
        (MachineConfig, {"log": ("paper",)}, "unknown tracker 'paper'; known: tensorboard, wandb"),
    ],
)
def test_a_wrong_setting_is_an_error(kind, settings, words):
    with pytest.raises(UserError, match=words):
        kind(**settings)


def worst_only(scores):
    return (scores == scores.min()).astype(float)


def test_nothing_to_train_on_is_an_error(monkeypatch):
    monkeypatch.setitem(WEIGHTINGS, "worst_only", worst_only)
    data = words_shop(2, 2)
    nothing = RankedData(data.queries, data.corpus, data.qrels.set_column(2, "score", pa.array([0.0] * 4)))
    for method in ("graded", "graded-noscores", "clip"):
        with pytest.raises(UserError, match="no pair has a weight > 0"):
            as_method(method).sampler(nothing, 4, 0)
    with pytest.raises(DataError, match="no pair with one of the best scores has a weight > 0"):
        Graded("worst_only").sampler(data, 4, 0)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30], ids=["decoded late", "decoded at first"])
def test_broken_pictures_are_reported_once(monkeypatch, cache_bytes):
    data = ranked(3, 4)
    images = [{"bytes": b"not a picture", "path": None}, *data.corpus["image"].to_pylist()[1:]]
    corpus = data.corpus.set_column(2, "image", pa.array(images, IMAGE))
    module = sys.modules["gcl_toolkit.training.batches"]
    monkeypatch.setattr(module, "Inputs", partial(module.Inputs, cache_bytes=cache_bytes))
    model = GCLModel("small", dimension=16, image_size=16, width=8)
    with pytest.warns(UserWarning, match="1 unreadable picture, taken as missing; image of product_id 'p0'") as warned:
        list(train(model, RankedData(data.queries, corpus, data.qrels), steps=2, batch=4))
    assert len(warned) == 1


def test_a_watched_training_measures_dev_queries_and_ends_with_the_same_weights(tmp_path):
    """Dropout is on, so a measurement that drew from its random numbers, or left it switched off, would show."""
    data, weights = divide(words_shop()), []
    model = GCLModel("small", right=TITLES, dimension=32)
    for every in (0, 2):
        model = GCLModel("small", right=TITLES, dimension=32)
        model.encoder.text_tower.append(torch.nn.Dropout(0.3))
        watch = MeasureDev({"zero_shot": data, "none": data.take_queries(np.zeros(0, int))}, every) if every else None
        records = list(train(model, data, run=Run(tmp_path), watch=watch, steps=5, batch=8))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    measured = [record["step"] for record in records if "NDCG@10 zero_shot" in record]
    assert measured == [2, 4, 5]
    assert not [name for record in records for name in record if name == "NDCG@10 none"]
    assert records[-1]["NDCG@10 zero_shot"] == evaluate(model, data, division="dev")["NDCG@10"].mean()
    assert read_steps(tmp_path) == records


def test_what_is_measured_is_the_model_that_comes_out_also_with_averaged_weights():
    model, data = GCLModel("small", right=TITLES, dimension=32), divide(words_shop())
    *_, last = train(model, data, watch=MeasureDev({"all": data}, 4), steps=4, batch=8, tuning=Tuning(ema=0.9))
    assert last["NDCG@10 all"] == evaluate(model, data, division="dev")["NDCG@10"].mean()


def test_every_zero_steps_is_an_error():
    with pytest.raises(UserError, match="evaluate every 0 steps: must be at least 1"):
        MeasureDev({}, 0)
