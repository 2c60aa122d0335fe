import numpy as np
import pandas as pd
import pytest
import references

from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.statistics import (
    Difference,
    Interval,
    holm,
    interval,
    mean_of,
    minimal_detectable_effect,
    paired,
)


def queries(values, name="NDCG@10"):
    values = np.asarray(values, float)
    index = [f"q{i}" for i in range(len(values))]
    return pd.Series(values, index, name=name) if values.ndim == 1 else pd.DataFrame(values, index)


def held(hits, runs, chance=0.95):
    """Whether the share of hits is within 3.5 standard errors of the chance: a right interval fails 1 in 2,000."""
    return abs(hits / runs - chance) < 3.5 * np.sqrt(chance * (1 - chance) / runs)


# -- interval ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, 30])
def test_an_interval_holds_the_truth_as_often_as_it_says(count):
    """Skewed values in 0..1, as a metric's: Beta(.3, 1.2), mean .2."""
    rng, runs = np.random.default_rng(count), 1000
    intervals = [interval(rng.beta(0.3, 1.2, count), samples=600, seed=i) for i in range(runs)]
    assert 0.93 <= sum(low <= 0.2 <= high for _, low, high in intervals) / runs <= 0.97
    too_low, too_high = (sum(x) for x in zip(*((high < 0.2, low > 0.2) for _, low, high in intervals), strict=True))
    assert abs(too_low - too_high) < 3.5 * np.sqrt(runs * 0.05)  # both tails; percentiles miss far more on one side


def test_an_interval_by_the_textbook():
    """Many symmetric values: mean +- 1.96 s / sqrt(n), narrower at a lower level."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 800)
    mean, low, high = interval(values, samples=8000)
    half = 1.959964 * values.std(ddof=1) / np.sqrt(800)
    assert mean == pytest.approx(values.mean(), abs=1e-15)
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.06)
    _, low80, high80 = interval(values, level=0.8, samples=8000)
    assert (high80 - low80) / (high - low) == pytest.approx(1.2816 / 1.96, rel=0.06)


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_an_interval_is_the_bca_one(level):
    values = (np.arange(1, 14) / 13) ** 4  # a long tail to the right
    _, low, high = interval(values, level=level, samples=200_000)
    assert (low, high) == pytest.approx(references.bca(values, level), abs=0.05 * values.std() / np.sqrt(13))


def test_an_interval_is_seeded_and_plain():
    values = np.random.default_rng(0).random(50)
    assert interval(values) == interval(list(values)) == interval(pd.Series(values))
    assert interval(values, seed=1) != interval(values)
    assert str(Interval(0.412, 0.39, 1.0)) == ".412 [.390, 1.000]"
    assert interval([0.25] * 9) == (0.25, 0.25, 0.25)
    assert np.isnan(interval([0.3])[1:]).all()


@pytest.mark.parametrize("values", [[], [0.1, np.nan]])
def test_an_interval_of_nothing_is_an_error(values):
    with pytest.raises(UserError, match=rf"got {len(values)} values; expected at least one, all finite"):
        interval(values)


# -- paired ------------------------------------------------------------------------------------------------------------


def test_a_known_shift_is_found():
    rng = np.random.default_rng(3)
    b = rng.beta(2, 3, 200)
    a = b + rng.normal(0.02, 0.05, 200)
    found = paired(queries(a), queries(b), seed=1)
    half = 1.96 * (a - b).std(ddof=1) / np.sqrt(200)
    assert (found.low, found.high) == pytest.approx((found.difference - half, found.difference + half), abs=0.08 * half)
    assert 0 < found.low < 0.02 < found.high
    assert found.difference == pytest.approx(a.mean() - b.mean(), abs=1e-15)
    assert found.relative == pytest.approx(a.mean() / b.mean() - 1, abs=1e-12)
    assert found.relative_low < found.relative < found.relative_high
    assert (found.relative_low, found.relative_high) == pytest.approx(
        (found.low / b.mean(), found.high / b.mean()), rel=0.15
    )
    assert found.p_value == 1 / 5001
    back = paired(queries(b), queries(a), seed=1)
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_pairing_is_tighter_than_two_intervals():
    rng = np.random.default_rng(4)
    b = rng.random(150)
    found = paired(queries(b + rng.normal(0.01, 0.02, 150)), queries(b))
    assert found.high - found.low < 0.2 * (interval(b).high - interval(b).low)


def test_rows_are_matched_by_query():
    b = queries(np.random.default_rng(5).random(60))
    a = b + 0.1
    assert paired(a, b.sample(frac=1, random_state=0)) == paired(a, b)
    assert paired(a, b).high == pytest.approx(0.1)


def test_the_order_of_the_rows_changes_nothing():
    """Not even the last bit: sorting a table by a metric must not change what is reported of it."""
    rng = np.random.default_rng(12)
    a, b = (queries(rng.beta(0.5, 1, (60, 3))) for _ in range(2))
    expected = paired(a, b), paired(a[0], b[0]), interval(a[0]), paired([a, b], [b, a])
    for seed in range(5):
        x = a.sample(frac=1, random_state=seed)
        y = b.loc[x.index] if seed % 2 else b
        assert (paired(x, y), paired(x[0], y[0]), interval(x[0]), paired([x, b], [y, a])) == expected
    numbered, text = (a[0].set_axis(ids) for ids in (range(60), map(str, range(60))))
    for table in (numbered, text, a[0].set_axis([*range(30), *map(str, range(30, 60))])):
        assert paired(table.sort_values(), table * 0.9) == paired(table, table * 0.9)


def test_the_p_value_is_that_of_all_sign_patterns():
    for seed in range(4):
        difference = np.random.default_rng(seed).normal(0.3, 1, 9).round(1)  # rounded: patterns tie
        exact = references.sign_flip_p(difference.tolist())
        found = paired(queries(difference), queries(np.zeros(9)), samples=20_000).p_value
        assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_without_a_difference_p_is_uniform_and_the_interval_honest():
    rng = np.random.default_rng(6)
    found = [paired(rng.beta(0.5, 1, 60), rng.beta(0.5, 1, 60), samples=400, seed=i) for i in range(1000)]
    p = np.sort([difference.p_value for difference in found])
    assert np.abs(p - np.arange(1, 1001) / 1000).max() < 1.95 / np.sqrt(1000)  # Kolmogorov-Smirnov at .001
    assert 0.93 <= sum(difference.low <= 0 <= difference.high for difference in found) / 1000 <= 0.97
    assert paired(queries([0.5, 0.25]), queries([0.5, 0.25])).p_value == 1


@pytest.mark.parametrize(("query", "seed", "both"), [(0.1, 0.02, 0.0), (0.1, 0.0, 0.15), (0.05, 0.01, 0.1)])
def test_several_seeds_widen_the_interval_as_they_must(query, seed, both):
    """Effects of queries, seeds and both with known size: the mean width against the true standard error."""
    rng, runs, true = np.random.default_rng(7), 150, np.sqrt(query**2 / 100 + seed**2 / 8 + both**2 / 800)
    widths, hits = [], 0
    for i in range(runs):
        a = 0.01 + query * rng.normal(size=(100, 1)) + seed * rng.normal(size=(1, 8)) + both * rng.normal(size=(100, 8))
        found = paired(queries(a), queries(np.zeros((100, 8))), samples=400, seed=i)
        widths.append((found.high - found.low) / 3.92)
        hits += found.low <= 0.01 <= found.high
    doubled = np.sqrt(true**2 + both**2 / 800)  # what query and seed share is counted twice
    assert np.mean(widths) == pytest.approx(doubled, rel=0.08)
    assert hits / runs > 0.89
    assert (found.seeds, found.queries) == (8, 100)


def test_worlds_count_alike_whatever_their_size():
    rng = np.random.default_rng(8)
    small, large = (queries(rng.normal(0.1, 0.3, (n, 2))) for n in (20, 400))
    zeros = [small * 0, large * 0]
    found = paired([small, large], zeros)
    assert found.difference == pytest.approx((small.to_numpy().mean() + large.to_numpy().mean()) / 2, abs=1e-15)
    assert (found.worlds, found.queries, found.seeds) == (2, 420, 2)
    alone = [paired(x, y) for x, y in zip([small, large], zeros, strict=True)]
    width = np.hypot(*(x.high - x.low for x in alone)) / 2
    assert found.high - found.low == pytest.approx(width, rel=0.08)


def test_shared_seeds_are_drawn_once_for_all_worlds():
    """Nothing varies but the seeds: two worlds with the same models know no more than one, independent ones do."""
    seeds = queries(np.tile(np.random.default_rng(0).normal(0.1, 0.3, 9), (5, 1)))
    one, same, independent = (
        paired([seeds] * n, [seeds * 0] * n, shared_seeds=shared) for n, shared in ((1, False), (2, True), (2, False))
    )
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.05)
    assert independent.high - independent.low == pytest.approx((one.high - one.low) / np.sqrt(2), rel=0.05)
    opposite = paired([seeds, -seeds], [seeds * 0] * 2, shared_seeds=True)
    assert opposite.high - opposite.low == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_a_mean_has_the_interval_of_its_difference_from_zero(shared):
    rng = np.random.default_rng(0)
    worlds = [queries(rng.random((count, 3))) for count in (40, 9)]
    against_zero = paired(worlds, [world * 0 for world in worlds], shared_seeds=shared)
    expected = against_zero.difference, against_zero.low, against_zero.high
    assert mean_of(worlds, shared_seeds=shared) == pytest.approx(expected, abs=1e-14)
    assert mean_of([world[::-1] for world in worlds], shared_seeds=shared) == mean_of(worlds, shared_seeds=shared)


def test_the_p_value_of_worlds_flips_queries_of_all():
    few, many = np.array([0.4, 0.3]), np.array([-0.2, 0.1, -0.3, 0.2, -0.1, 0.05, -0.25, 0.15, 0.0])
    exact = references.sign_flip_p([*(few / 2), *(many / 9)])
    assert abs(exact - references.sign_flip_p([*few, *many])) > 0.1
    assert paired([few, many], [few * 0, many * 0], samples=20_000).p_value == pytest.approx(exact, abs=0.015)


def test_a_difference_is_one_plain_line():
    found = Difference("NDCG@10", 0.412, 0.398, 0.014, 0.006, 0.022, 0.035, 0.015, 0.056, 0.001, 200, 3)
    assert str(found) == (
        "NDCG@10 .412 vs .398: +.014 [+.006, +.022], +3.5% [+1.5%, +5.6%], p = .001, 200 queries x 3 seeds"
    )
    worse = Difference("RR", 0.2, 1.0, -0.8, -1.0, -0.014, np.nan, np.nan, np.nan, 0.0002, 1200, 1, 3)
    assert str(worse) == "RR .200 vs 1.000: -.800 [-1.000, -.014], p < .001, 1,200 queries in 3 data sets"
    assert paired(queries([0.1, 0.2]), queries([0.2, 0.3])).metric == "NDCG@10"
    assert str(paired(queries([0.2]), queries([0.3]))) == "NDCG@10 .200 vs .300: -.100, -33.3%, p = 1.000, 1 query"
    assert str(interval([0.3])) == ".300"
    assert str(paired(np.array([0.1, 0.2]), np.array([0.2, 0.3]))).startswith(".150 vs .250: -.100")


def test_nothing_is_relative_to_zero():
    found = paired(queries([0.1, 0.2, 0.3]), queries([0.0, 0.0, 0.3]))
    assert np.isnan([found.relative, found.relative_low, found.relative_high]).all()
    assert np.isfinite([found.low, found.high]).all()


GOOD = queries([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (GOOD, GOOD[:2], r"query 'q2' is missing in b \(1 in all\)"),
        (GOOD[1:], GOOD, r"query 'q0' is missing in a"),
        (GOOD[:0], GOOD[:0], r"a has no queries"),
        (GOOD, pd.concat([GOOD, GOOD[:1]]), r"query 'q0' appears twice in b"),
        (GOOD, GOOD.where(GOOD < 0.2), r"query 'q1' of b has no finite value"),
        ([GOOD, GOOD], [GOOD], r"a has 2 worlds, b has 1"),
        ([0.1, 0.2], [0.1, 0.3], r"got a float; give a Series or DataFrame by query_id, or a list of them"),
        ([], [], r"a has 0 worlds"),
        (queries(np.ones((3, 2))), queries(np.ones((3, 3))), r"a has seeds \[0, 1\], b has \[0, 1, 2\]"),
        (queries(np.ones((3, 2))), queries(np.ones((3, 2))).rename(columns={1: 7}), r"b has \[0, 7\]"),
        ([queries(np.ones((3, 2))), GOOD], [queries(np.ones((3, 2))), GOOD], r"worlds have \[1, 2\] seeds"),
        (
            pd.DataFrame({"RR": GOOD, "AP": GOOD}),
            GOOD,
            r"a has columns RR, AP, but they must be seeds; give one metric",
        ),
    ],
)
def test_what_cannot_be_paired_is_named(a, b, message):
    with pytest.raises(UserError, match=message):
        paired(a, b)


# -- many comparisons, planning ----------------------------------------------------------------------------------------


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04; never smaller than the one before, at most 1."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]).tolist() == [1, 1]
    assert holm([]).tolist() == []
    with pytest.raises(UserError, match=r"must be in 0..1, got \[0.5, 1.2\]"):
        holm([0.5, 1.2])
    with pytest.raises(UserError, match="nan"):
        holm([np.nan])


def test_an_effect_of_the_detectable_size_is_found_with_the_promised_power():
    rng = np.random.default_rng(9)
    effect = minimal_detectable_effect(rng.normal(0, 0.2, 20_000))
    assert effect == pytest.approx((1.959964 + 0.841621) * 0.2 / np.sqrt(20_000), rel=0.02)
    effect = minimal_detectable_effect([-0.2, 0.2] * 40)
    found = [paired(rng.normal(effect, 0.2, 80), np.zeros(80), samples=400, seed=i).p_value < 0.05 for i in range(300)]
    assert held(sum(found), 300, 0.8)
    with pytest.raises(UserError, match="got 1 differences; expected two or more"):
        minimal_detectable_effect([0.1])


def test_kept_draws_give_the_numbers_of_fresh_ones(monkeypatch):
    """Also when only the first draws of a comparison are kept."""
    from gcl_toolkit.measure import statistics

    rng = np.random.default_rng(0)
    a, b = ([pd.DataFrame(rng.random((queries, 3))) for queries in (40, 9)] for _ in range(2))
    results = []
    for kept in (0, 60_000, 1 << 24, 1 << 24):
        monkeypatch.setattr(statistics, "KEPT", kept)
        results.append((paired(a, b), interval(a[0][0])))
    assert all(repr(result) == repr(results[0]) for result in results)
