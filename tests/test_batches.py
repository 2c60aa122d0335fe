from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import png, ranked

from gcl_toolkit.batches import Inputs, Noise, ahead, augment_images
from gcl_toolkit.encoders import make_encoder
from gcl_toolkit.errors import DataError
from gcl_toolkit.fields import Fields
from gcl_toolkit.ranked_data import IMAGE
from gcl_toolkit.samplers import MatrixSampler, PairSampler, QuerySampler
from gcl_toolkit.weighting import is_top, to_weights

BOTH = Fields(image=0.5, title=0.5)


def corpus(*images):
    return pa.table(
        {
            "product_id": [f"p{i}" for i in range(len(images))],
            "image": pa.array(images, IMAGE),
            "title": ["red mug", None, " ", "rug"][: len(images)],
        }
    )


def encoder():
    return make_encoder("small", dimension=8, vocabulary=["red", "mug", "rug"])


def test_inputs_say_what_is_present_field_by_field(tmp_path):
    (tmp_path / "a.png").write_bytes(png(3))
    image = {"bytes": png(1)}
    table = corpus(image, {"path": str(tmp_path / "a.png")}, image, {"bytes": b"", "path": None})
    values, present = Inputs(encoder(), table, BOTH).rows(np.array([1, 0, 3]))
    assert present["image"].tolist() == [True, True, False]
    assert present["title"].tolist() == [False, True, True]
    assert values["image"][:, 0, 0, 0].tolist() == [3, 1, 0]
    assert values["title"][1, :2].tolist() == [1, 2]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("broken", [png(1)[:45], b"not a picture", "missing.png"], ids=["torn", "text", "gone"])
def test_a_broken_picture_counts_as_missing_or_raises_when_strict(broken, cache_bytes):
    image = {"path": broken} if isinstance(broken, str) else {"bytes": broken}
    table = corpus({"bytes": png(1)}, {"bytes": png(2)}, {"bytes": png(3)}, image)
    inputs = Inputs(encoder(), table, BOTH, cache_bytes=cache_bytes)
    _, present = inputs.rows(np.array([0, 3]))
    assert present["image"].tolist() == [True, False]
    assert "'p3' (row 3)" in inputs.broken[3]
    with pytest.raises(DataError, match=r"'p3' \(row 3\) can't be read.*mend it"):
        Inputs(encoder(), table, BOTH, cache_bytes=cache_bytes, strict=True).rows(np.array([0, 3]))


def test_a_row_without_any_field_is_named():
    image = {"bytes": png(1)}
    with pytest.raises(DataError, match=r"product_id 'p1' \(row 1\) has none of the fields image, title"):
        Inputs(encoder(), corpus(image, None), BOTH)
    with pytest.raises(DataError, match=r"'p2' \(row 2\) has none"):
        Inputs(encoder(), corpus(image, image, {"path": "missing.png"}), BOTH)


def test_an_unknown_field_names_the_columns():
    with pytest.raises(DataError, match=r"field 'picture' is not a column.*product_id, image, title"):
        Inputs(encoder(), corpus(None), Fields(picture=1))


def test_pairs_come_once_an_epoch_and_steps_can_be_taken_in_any_order():
    data = ranked(5, 6)
    sampler = PairSampler(data, to_weights(data.pairs.score, "linear"), size=7, seed=3)
    batches = [sampler(step) for step in range(30)]  # 210 pairs: seven epochs of 30
    cells = np.concatenate([b.queries * 6 + b.products for b in batches])
    for epoch in range(7):
        assert sorted(cells[30 * epoch : 30 * epoch + 30]) == list(range(30))
    assert (PairSampler(data, sampler.weights, size=7, seed=3)(17).products == batches[17].products).all()
    assert (PairSampler(data, sampler.weights, size=7, seed=4)(17).products != batches[17].products).any()
    assert batches[0].weights.numpy() == pytest.approx((1 + batches[0].products) / 100)


def test_pairs_of_weight_zero_are_never_drawn():
    data = ranked(5, 6)
    weights = to_weights(data.pairs.score, "linear") * (data.pairs.product != 2)
    assert not any((PairSampler(data, weights, size=8, seed=0)(step).products == 2).any() for step in range(10))


def sparse():
    """q0..q3 with p0..p5, of which every second pair is known."""
    data = ranked(4, 6)
    rows = [i for i in range(data.qrels.num_rows) if i % 2 == (i // 6) % 2]
    return type(data)(data.queries, data.corpus, data.qrels.take(pa.array(rows)), name="sparse")


def test_the_matrix_holds_every_known_pair_of_its_rows_and_columns():
    data = sparse()
    query, product, score = data.pairs
    weights = to_weights(score, "linear")
    dense = np.zeros((4, 6))
    dense[query, product] = weights
    sampler = MatrixSampler(data, weights, is_top(score), size=4, queries=3, seed=0)
    for step in range(8):
        batch = sampler(step)
        assert batch.weights.numpy() == pytest.approx(dense[np.ix_(batch.queries, batch.products)])
        assert len(batch.queries) >= 3
        assert set(np.flatnonzero(dense[:, batch.products].any(1))) <= set(batch.queries)


def test_half_of_the_products_are_best_ones_and_half_cover_the_corpus():
    data = ranked(4, 6)  # p5 is everybody's best
    sampler = MatrixSampler(data, to_weights(data.pairs.score), is_top(data.pairs.score), size=4, queries=4, seed=1)
    seen = [sampler(step).products for step in range(6)]
    assert all(5 in products for products in seen)
    assert set(np.concatenate(seen)) == set(range(6))


def test_augmentation_is_seeded_keeps_the_range_and_moves_at_most_an_eighth():
    pixels = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    pixels[:, :, 16, 16] = 200
    once, again = (augment_images(pixels, torch.Generator().manual_seed(1)) for _ in range(2))
    assert (once == again).all()
    assert once.max() <= 240
    assert once.amax((1, 2, 3)).min() >= 160
    _, _, rows, columns = once.nonzero(as_tuple=True)
    assert (rows - 16).abs().max() == 4
    assert (columns - 15.5).abs().max() == 4.5
    assert len(set(columns.tolist())) > 5


def test_noise_of_some_rows_is_theirs():
    pixels = torch.randint(0, 255, (7, 3, 16, 16), dtype=torch.uint8)
    noise = Noise.draw(7, 16, torch.Generator().manual_seed(1))
    assert torch.equal(noise.of(slice(2, 5)).added(pixels[2:5]), noise.added(pixels)[2:5])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_items_made_ahead_come_in_order_and_leaving_early_ends_the_thread(count):
    made = []

    def make(item):
        made.append(item)
        return item * item

    assert list(ahead(make, range(6), count)) == [0, 1, 4, 9, 16, 25]
    made.clear()
    for value in ahead(make, range(100), count):
        if value == 4:
            break
    assert len(made) <= 3 + count + 1


def some_pairs():
    """A third of all pairs are known."""
    data = ranked(24, 40)
    third = (data.pairs.query + data.pairs.product) % 3 == 0
    return replace(data, qrels=data.qrels.filter(pa.array(third)))


def test_a_query_sampler_draws_different_queries_and_known_products():
    data = some_pairs()
    weights = np.where(data.pairs.score > 30, data.pairs.score, 0)
    sampler, known = QuerySampler(data, weights, size=8, seed=3), set(zip(*data.pairs[:2], strict=True))
    drawn = [sampler(step) for step in range(30)]
    for batch in drawn:
        assert len(set(batch.queries)) == len(batch.queries)
        assert set(zip(batch.queries, batch.products, strict=True)) <= known
        assert (batch.weights > 30).all()
    able = len(np.unique(data.pairs.query[weights > 0]))
    first = np.concatenate([batch.queries for batch in drawn[: able // 8]])
    assert len(set(first)) == len(first)  # every query once an epoch
    again = QuerySampler(data, weights, size=8, seed=3)(7)
    assert (again.products == drawn[7].products).all()


def test_hard_negatives_are_found_for_the_queries_and_not_known():
    data = some_pairs()
    top = is_top(data.pairs.score)
    found = [np.arange(q % 5, data.corpus.num_rows, 5) for q in range(data.queries.num_rows)]
    common = {"size": 12, "queries": 1, "seed": 0}
    plain = MatrixSampler(data, np.ones(len(top)), top, **common)
    sampler = MatrixSampler(data, np.ones(len(top)), top, hard=found, **common)
    known = set(zip(*data.pairs[:2], strict=True))
    listed = {(q, p) for q, rows in enumerate(found) for p in rows}
    pairs = set(zip(np.repeat(np.arange(len(found)), sampler.hard.counts), sampler.hard.member, strict=True))
    assert pairs == listed - known
    assert len(sampler(0).products) == len(plain(0).products) == 12
    assert any(list(sampler(step).products) != list(plain(step).products) for step in range(5))
