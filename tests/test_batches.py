import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ranked

from gcl_toolkit.data.weighting import to_weights
from gcl_toolkit.errors import UserError
from gcl_toolkit.methods.samplers import MatrixSampler, PairSampler
from gcl_toolkit.training.augment import Noise, augment_images
from gcl_toolkit.training.batches import ahead


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
    sampler = MatrixSampler(data, weights, size=4, queries=3, seed=0)
    for step in range(8):
        batch = sampler(step)
        assert batch.weights.numpy() == pytest.approx(dense[np.ix_(batch.queries, batch.products)])
        assert len(batch.queries) >= 3
        assert set(np.flatnonzero(dense[:, batch.products].any(1))) <= set(batch.queries)


def test_half_of_the_products_are_best_ones_and_half_cover_the_corpus():
    data = ranked(4, 6)  # p5 is everybody's best
    sampler = MatrixSampler(data, to_weights(data.pairs.score), size=4, queries=4, seed=1)
    with pytest.raises(UserError, match="batch is 1; it must be an integer >= 2"):
        MatrixSampler(data, to_weights(data.pairs.score), size=1, queries=4, seed=1)
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


def test_a_slice_of_the_noise_changes_rows_as_the_whole_does():
    pixels = torch.randint(0, 255, (7, 3, 16, 24), dtype=torch.uint8)
    noise = Noise.draw(pixels, torch.Generator().manual_seed(1))
    assert torch.equal(noise.slice(slice(2, 5)).apply(pixels[2:5]), noise.apply(pixels)[2:5])


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
