import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ranked

from gcl_toolkit import NDCG, DataError, GCLModel, RankedData, TrainConfig, UserError, evaluate, train
from gcl_toolkit.engine import EngineConfig
from gcl_toolkit.evaluate import Watch
from gcl_toolkit.fields import Fields
from gcl_toolkit.ranked_data import IMAGE, divide
from gcl_toolkit.runs import Run, load_model, read_steps
from gcl_toolkit.samplers import KnownPairs
from gcl_toolkit.weighting import WEIGHTINGS

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


def trained(seed=0, data=None, **config):
    model = GCLModel("small", right=TITLES, seed=seed, dimension=32)
    settings = TrainConfig(
        **{"steps": 60, "batch": 16, "learning_rate": 1e-2, "augment": False, "seed": seed, **config}
    )
    return model, list(train(model, data or words_shop(), settings))


@pytest.mark.parametrize("loss", ["gcl", "matrix", "graded"])
def test_training_learns_to_find_and_weights_teach_the_order(loss):
    data = words_shop()
    ranks = {}
    for weighting in ("constant", "graded"):
        model, _ = trained(loss=loss, weighting=weighting, mask=False, steps=100)
        ranks[weighting] = evaluate(model, data, [NDCG @ 3])["NDCG@3"].mean()
    assert ranks["graded"] > 0.97
    assert ranks["constant"] < 0.9


def test_the_same_seed_gives_the_same_weights_another_seed_others():
    one, again, other = (trained(seed=s, augment=True, steps=5)[0].state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(
        one["encoder.text_head.weight"],
        other["encoder.text_head.weight"],
    )


def test_records_tell_step_loss_scale_and_rate():
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
    for record in train(model, words_shop(), TrainConfig(steps=1000, batch=8)):
        if record["step"] == 2:
            break
    assert model.embed(words_shop().queries, "left").shape == (8, 32)


def test_a_run_is_written_as_it_goes(tmp_path):
    model = GCLModel("small", right=TITLES, dimension=32)
    config = TrainConfig(steps=3, batch=8)
    records = []
    for record in train(model, words_shop(), config, run=Run(tmp_path)):
        records.append(record)
        assert read_steps(tmp_path) == records
    loaded = load_model(tmp_path).embed(words_shop().corpus, "right")
    assert (loaded == model.embed(words_shop().corpus, "right")).all()


def test_known_pairs_are_masked_also_off_the_diagonal():
    data = words_shop(2, 2)  # q0: p0 p1, q1: p2 p3
    for queries, products, masked in (
        ([0, 1], [0, 2], [[1, 0], [0, 1]]),
        ([0, 1, 0], [0, 2, 1], [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
        ([0, 1, 1], [0, 2, 2], [[1, 0, 0], [0, 1, 1], [0, 1, 1]]),
    ):
        row_K, column_K = KnownPairs(data)(np.array(queries), np.array(products))
        found = torch.zeros(len(queries), len(products), dtype=torch.int)
        found[row_K, column_K] = 1
        assert found.tolist() == masked


def test_top_only_never_sees_a_lower_grade():
    from gcl_toolkit.train import _sampler

    for loss in ("gcl", "matrix", "graded"):
        sampler = _sampler(words_shop(), TrainConfig(loss=loss, top_only=True, batch=8))
        products = np.concatenate([sampler(step).products for step in range(20)])
        assert set(products % 6) == {0, 1, 2}


@pytest.mark.parametrize("weighting", ["constant", "linear", "reciprocal"])
@pytest.mark.parametrize("loss", ["gcl", "graded"])
def test_a_pair_with_score_0_is_never_a_positive(loss, weighting):
    from gcl_toolkit.train import _sampler

    data = words_shop()
    scores = np.where(data.pairs.product % 3 == 0, 0.0, data.pairs.score)
    judged = replace(data, qrels=data.qrels.set_column(2, "score", pa.array(scores)))
    sampler = _sampler(judged, TrainConfig(loss=loss, weighting=weighting, batch=8))
    for step in range(20):
        batch = sampler(step)
        products, weights = batch.products, batch.weights
        pulled = products[weights.numpy() > 0] if loss == "gcl" else products[(weights > 0).any(0).numpy()]
        assert len(pulled)
        assert (pulled % 3 != 0).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "clip"}, "unknown loss 'clip'; known: bixse, cosent, gcl"),
        ({"precision": "int8"}, "unknown precision"),
        ({"sampler": "queries"}, "unknown sampler for the loss 'graded' 'queries'; known: auto, hard, matrix"),
        ({"loss": "gcl", "sampler": "hard"}, "unknown sampler for the loss 'gcl'"),
        ({"steps": 0}, "steps is 0; at least 1"),
        ({"batch": -3}, "batch is -3"),
        ({"learning_rate": 0}, "learning_rate is 0; a number > 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; a number >= 0"),
        ({"warmup": float("nan")}, "warmup is nan; a share from 0 to 1"),
        ({"max_logit_scale": 0.5}, "max_logit_scale is 0.5; a number >= 1"),
    ],
)
def test_a_wrong_setting_is_told(settings, words):
    with pytest.raises(UserError, match=words):
        TrainConfig(**settings)


def worst_only(scores):
    return (scores == scores.min()).astype(float)


def test_nothing_to_train_on_is_told(monkeypatch):
    monkeypatch.setitem(WEIGHTINGS, "worst_only", worst_only)
    data = words_shop(2, 2)
    nothing = RankedData(data.queries, data.corpus, data.qrels.set_column(2, "score", pa.array([0.0] * 4)))
    for weighting in ("auto", "constant"):
        with pytest.raises(UserError, match="no pair has a weight > 0"):
            list(train(GCLModel("small", right=TITLES), nothing, TrainConfig(steps=1, weighting=weighting)))
    unwanted = TrainConfig(steps=1, weighting="worst_only")
    with pytest.raises(DataError, match="no pair of the best grade has a weight > 0"):
        list(train(GCLModel("small", right=TITLES), data, unwanted))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30], ids=["decoded late", "decoded at first"])
def test_broken_pictures_are_told_once(monkeypatch, cache_bytes):
    data = ranked(3, 4)
    images = [{"bytes": b"not a picture", "path": None}, *data.corpus["image"].to_pylist()[1:]]
    corpus = data.corpus.set_column(2, "image", pa.array(images, IMAGE))
    module = sys.modules["gcl_toolkit.train"]
    monkeypatch.setattr(module, "Inputs", partial(module.Inputs, cache_bytes=cache_bytes))
    model = GCLModel("small", dimension=16, image_size=16, width=8)
    with pytest.warns(UserWarning, match="1 pictures count as missing; image of product_id 'p0'") as told:
        list(train(model, RankedData(data.queries, corpus, data.qrels), TrainConfig(steps=2, batch=4)))
    assert len(told) == 1


def test_a_watched_training_measures_dev_queries_and_ends_with_the_same_weights(tmp_path):
    """Dropout is on, so a measurement that drew from its random numbers, or left it switched off, would show."""
    data, weights = divide(words_shop()), []
    model = GCLModel("small", right=TITLES, dimension=32)
    for every in (0, 2):
        model = GCLModel("small", right=TITLES, dimension=32)
        model.encoder.text_tower.append(torch.nn.Dropout(0.3))
        watch = Watch({"zero_shot": data, "none": data.take_queries(np.zeros(0, int))}, every) if every else None
        records = list(train(model, data, TrainConfig(steps=5, batch=8), run=Run(tmp_path), watch=watch))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    measured = [record["step"] for record in records if "NDCG@10 zero_shot" in record]
    assert measured == [2, 4, 5]
    assert not [name for record in records for name in record if name == "NDCG@10 none"]
    assert records[-1]["NDCG@10 zero_shot"] == evaluate(model, data, division="dev")["NDCG@10"].mean()
    assert read_steps(tmp_path) == records


def test_what_is_measured_is_the_model_that_comes_out_also_with_averaged_weights():
    model, data = GCLModel("small", right=TITLES, dimension=32), divide(words_shop())
    engine = EngineConfig(ema=0.9)
    *_, last = train(model, data, TrainConfig(steps=4, batch=8), engine=engine, watch=Watch({"all": data}, 4))
    assert last["NDCG@10 all"] == evaluate(model, data, division="dev")["NDCG@10"].mean()


def test_every_zero_steps_is_told():
    with pytest.raises(UserError, match="evaluate every 0 steps: at least 1"):
        Watch({}, 0)
