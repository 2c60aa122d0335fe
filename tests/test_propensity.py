import numpy as np
import pytest

from gcl_toolkit.data.propensity import Cells, Propensities, harvest, power_law, relevance
from gcl_toolkit.errors import DataError


def world(seed, theta_K, pairs=400, queries=40, visits=200, appeal=None, positions_each=None):
    """A log of pairs that stood at random positions, clicked as the position-based model says."""
    rng = np.random.default_rng(seed)
    count = len(theta_K)
    appeal_P = rng.beta(1, 3, pairs) if appeal is None else appeal
    rows = []
    for pair in range(pairs):
        here = rng.permutation(count)[: positions_each or count]
        for place in here:
            shown = rng.integers(1, visits)
            rows.append((pair % queries, pair, place + 1, shown, rng.binomial(shown, theta_K[place] * appeal_P[pair])))
    return Cells(*np.array(rows).T), appeal_P


def slow_em(cells, positions, rounds=4000):
    """Both unknowns in turns, over all cells, without any trick."""
    theta, pairs = np.ones(positions), int(cells.pair_C.max()) + 1
    for _ in range(rounds):
        looks, clicks = np.zeros(pairs), np.zeros(pairs)
        for pair, position, shown, clicked in zip(*cells[1:], strict=True):
            looks[pair] += shown * theta[position - 1]
            clicks[pair] += clicked
        gamma = clicks / np.maximum(looks, 1e-300)  # pairs that were left out have neither
        up, down = np.zeros(positions), np.zeros(positions)
        for pair, position, shown, clicked in zip(*cells[1:], strict=True):
            up[position - 1] += clicked
            down[position - 1] += shown * gamma[pair]
        before, theta = theta, up / down
        theta = theta / theta[0]
        if np.abs(theta - before).max() < 1e-10:
            break
    return theta


def test_the_fit_is_the_fixed_point_of_em():
    cells, _ = world(0, np.array([1.0, 0.6, 0.3]), pairs=30, queries=5, visits=40)
    found = harvest(cells)
    several = np.isin(cells.pair_C, [p for p in range(30) if (cells.clicked_C[cells.pair_C == p]).sum() > 0])
    assert found.value_K == pytest.approx(slow_em(cells.where(several), 3), abs=1e-6)
    assert found.value_K[0] == 1


@pytest.mark.parametrize("each", [20, 2])
def test_propensities_come_back_and_their_intervals_hold_them(each):
    """Also when each product only ever stood at two positions, so that position 20 is compared by way of others."""
    theta = 1 / np.arange(1, 21.0)
    held, errors = 0, []
    for seed in range(8):
        found = harvest(world(seed, theta, pairs=800, visits=300, positions_each=each)[0])
        held += ((found.low_K <= theta) & (theta <= found.high_K))[1:].sum()
        errors.append(np.abs(found.value_K - theta))
    assert 0.88 <= held / (8 * 19) <= 0.99
    assert np.mean(errors) < 0.02
    assert found.pairs > 600


def test_positions_that_cannot_be_compared_are_an_error():
    """Products of positions 3 and 4 never stood higher."""
    high, _ = world(0, np.array([1.0, 0.5]), pairs=50)
    low, _ = world(1, np.array([1.0, 0.5]), pairs=50)
    low = low._replace(pair_C=low.pair_C + 50, position_C=low.position_C + 2)
    apart = Cells(*(np.concatenate(columns) for columns in zip(high, low, strict=True)))
    with pytest.raises(DataError, match=r"2 can't be compared with position 1 \(the first is 3\).*positions=2"):
        harvest(apart)
    silent = high._replace(clicked_C=np.where(high.position_C == 2, 0, high.clicked_C))
    with pytest.raises(DataError, match="the first is 2"):
        harvest(silent)


def test_a_stated_law():
    assert power_law(4, 1.0).value_K == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert power_law(3, 0.0).value_K.tolist() == [1, 1, 1]
    assert isinstance(power_law(1, 2.0), Propensities)


def test_relevance_shrinks_what_was_hardly_looked_at():
    """With gamma from a Gamma around each query's mean, the estimate beats both the raw rate and the query's mean."""
    rng = np.random.default_rng(3)
    query = np.repeat(np.arange(200), 20)
    mean = rng.uniform(0.05, 0.4, 200)[query]
    gamma = mean * rng.gamma(2.0, 0.5, len(query))
    looks = rng.choice([1.0, 10.0, 200.0], len(query))
    clicks = rng.poisson(gamma * looks).astype(float)
    found = relevance(query, clicks, looks)
    means = (np.bincount(query, clicks) / np.bincount(query, looks))[query]
    best = mean * (clicks + 2) / (mean * looks + 2)  # with the truth about the queries

    def error(guess):
        return float(np.mean((guess - gamma) ** 2))

    assert error(found) < 0.7 * min(error(clicks / looks), error(means))
    assert error(found) < 1.15 * error(best)
    assert found[looks == 200] == pytest.approx(best[looks == 200], rel=0.3)


def test_relevance_learns_what_the_place_knows():
    """gamma falls as place^-1: where nothing was looked at much, the order of the places is the best guess."""
    rng = np.random.default_rng(4)
    query, place = np.repeat(np.arange(300), 10), np.tile(np.arange(1, 11.0), 300)
    gamma = 0.3 / place
    clicks = rng.poisson(gamma * 3).astype(float)
    with_place, without = (
        relevance(query, clicks, np.full(3000, 3.0), place),
        relevance(query, clicks, np.full(3000, 3.0)),
    )

    def error(guess):
        """Of each product's share within its query."""
        return np.abs(guess / np.bincount(query, guess)[query] - gamma / gamma[:10].sum()).mean()

    assert error(with_place) < 0.03 < 0.05 < error(without)
    noise = rng.permutation(place)  # a place that says nothing isn't believed
    assert relevance(query, clicks, np.full(3000, 3.0), noise) == pytest.approx(without, rel=0.2)


def test_no_click_at_all_is_no_relevance():
    assert relevance(np.array([0, 0]), np.zeros(2), np.ones(2)).tolist() == [0, 0]
