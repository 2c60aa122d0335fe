import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gcl_toolkit import RankedData, UserError
from gcl_toolkit.measure.slices import by_slice, detectable, per_query, slices
from gcl_toolkit.measure.statistics import holm, interval, paired


def data(scores: dict[str, list[float]], texts=None, categories=("mug",)) -> RankedData:
    """Query -> the scores of its products p0, p1, ..."""
    pairs = [(query, f"p{row}", score) for query, found in scores.items() for row, score in enumerate(found)]
    count = max(len(found) for found in scores.values())
    columns = zip(*pairs, strict=True)
    return RankedData(
        pa.table({"query_id": list(scores), "query": texts or [f"{query} a" for query in scores]}),
        pa.table(
            {
                "product_id": [f"p{row}" for row in range(count)],
                "kind": [categories[row % len(categories)] for row in range(count)],
            }
        ),
        pa.table(dict(zip(("query_id", "product_id", "score"), map(list, columns), strict=True))),
    )


def test_the_head_are_the_fewest_queries_with_half_of_the_scores():
    made = slices(data({"a": [1.0], "b": [9.0, 1.0], "c": [2.0], "d": [5.0], "e": [2.0]}))
    assert made["score sum"].to_dict() == {"a": "tail", "b": "head", "c": "tail", "d": "tail", "e": "tail"}
    made = slices(data({"a": [5.0], "b": [9.0, 1.0], "c": [2.0], "d": [5.0], "e": [2.0]}))
    assert made["score sum"].to_dict() == {"a": "head", "b": "head", "c": "tail", "d": "head", "e": "tail"}


def test_ranges_keep_equal_values_together_and_are_in_order():
    texts = ["one", "two words", "two more", "three words here", "one " * 12, "many " * 11]
    made = slices(data({name: [1.0] * (1 + n) for n, name in enumerate("abcdef")}, texts))
    assert made["words"].tolist() == ["1", "2-3", "2-3", "2-3", "11-12", "11-12"]
    assert made["judged"].tolist() == ["1-2", "1-2", "3-4", "3-4", "5-6", "5-6"]
    assert made["words"].cat.categories.tolist() == ["1", "2-3", "11-12"]  # by number, not by letter


def test_a_way_with_one_slice_is_left_out():
    assert slices(data({"a": [2.0], "b": [2.0]})).columns.tolist() == []


def test_the_category_is_that_of_most_of_the_best_products():
    scores = {f"q{n}": [3.0, 3.0, 3.0, 1.0] for n in range(10)}  # best: mug, rug, mug
    scores |= {f"r{n}": [1.0, 3.0, 1.0, 3.0] for n in range(11)}  # best: rug, bag: as many, the first by name
    scores |= {f"s{n}": [0.0, 9.0, 0.0, 0.0] for n in range(9)}  # best: rug, but nine queries only
    made = slices(data(scores, categories=("mug > red", "rug", "mug > blue", "bag")), category="kind")
    assert made.groupby("category").size().to_dict() == {"bag": 11, "mug": 10, "other": 9}
    with pytest.raises(UserError, match="no column 'colour'; it has kind"):
        slices(data(scores), category="colour")


def tables(queries: int, seed: int = 0, seeds: int = 1):
    rng = np.random.default_rng(seed)
    index = pd.Index([f"q{n}" for n in range(queries)], name="query_id")
    b = pd.DataFrame(rng.uniform(size=(queries, seeds)), index, range(seeds))
    a = b + rng.normal(0.02, 0.05, (queries, seeds)) + 0.2 * (np.arange(queries) % 2)[:, None]
    return a, b


@pytest.mark.parametrize("seeds", [1, 3])
def test_each_slice_is_measured_on_its_own_queries_and_corrected_over_all(seeds):
    a, b = tables(60, seeds=seeds)
    labels = pd.DataFrame(
        {
            "parity": [("even", "odd")[n % 2] for n in range(60)],
            "third": [f"t{n % 3}" for n in range(60)],
        },
        a.index,
    ).sample(frac=1, random_state=0)
    made = by_slice(a, b, labels, "AP").set_index(["way", "slice"])
    assert made.index.tolist() == [
        ("all", "all"),
        *(("parity", x) for x in ("even", "odd")),
        *(("third", f"t{n}") for n in range(3)),
    ]
    odd = a.index[1::2]
    row = made.loc[("parity", "odd")]
    assert row["queries"] == 30
    assert row["a"] == interval(a.loc[odd].mean(axis=1))
    expected = paired(a.loc[odd], b.loc[odd])
    assert (row["difference"].difference, row["difference"].p_value) == (expected.difference, expected.p_value)
    assert row["difference"].metric == "AP"
    assert row["difference"].seeds == seeds
    alone = [found.p_value for found in made["difference"][1:]]
    assert made["p_corrected"].tolist()[1:] == holm(alone).tolist()
    assert made["p_corrected"].iloc[2] == pytest.approx(5 * alone[1])  # the smallest of five
    assert np.isnan(made["p_corrected"].iloc[0])
    with pytest.raises(UserError, match="query 'q0' of the table is not in the data"):
        by_slice(a, b, labels.drop("q0"))


def test_what_can_be_seen_is_a_sentence():
    a, b = tables(200)
    effect = 2.8016 * (a - b).mean(axis=1).std() / 200**0.5  # 1.9600 + 0.8416, the normal quantiles
    assert detectable(a, b) == (
        f"with 200 queries you can detect differences of {f'{effect:.3f}'[1:]} ({effect / b.mean()[0]:.0%}) "
        "with 80% power"
    )
    assert detectable(a, b * 0).count("%") == 1  # no share of nothing


def test_a_method_of_a_study_is_found_or_reported():
    keys = {"world": "shop", "method": "gcl", "split": "zero_shot", "division": ["dev", "test"] * 2}
    study = pd.DataFrame({**keys, "seed": [0, 0, 1, 1], "query_id": ["q0", "q1"] * 2, "NDCG@10": [0.1, 0.2, 0.3, 0.4]})
    assert per_query(study, "gcl", "zero_shot").to_dict("index") == {"q1": {0: 0.2, 1: 0.4}}
    assert len(per_query(study, "gcl", "zero_shot", division="all")) == 2
    for arguments, words in (
        (("clip", "zero_shot"), "unknown method of the study 'clip'; known: gcl"),
        (("gcl", "in_domain"), "unknown split of the study 'in_domain'; known: zero_shot"),
        (("gcl", "zero_shot", "AP"), "unknown metric of the study 'AP'; known: NDCG@10"),
    ):
        with pytest.raises(UserError, match=words):
            per_query(study, *arguments)
    with pytest.raises(UserError, match="the worlds shop, mall"):
        per_query(pd.concat([study, study.assign(world="mall")]), "gcl", "zero_shot")
