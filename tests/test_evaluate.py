import numpy as np
import pyarrow as pa
import pytest
from conftest import ranked

from gcl_toolkit import NDCG, RR, Fields, GCLModel, RankedData, UserError, compare, evaluate
from gcl_toolkit.baselines import oracle_top_k, random_top_k
from gcl_toolkit.evaluate import measure_ranking
from gcl_toolkit.metrics import measure
from gcl_toolkit.ranked_data import divide

MODEL = {"right": Fields(title=1.0), "vocabulary": ["title", "mug", *"0123456789"], "dimension": 16}


def test_evaluation_is_search_and_measure_put_together():
    data, model = ranked(4, 9), GCLModel("small", **MODEL)
    table = evaluate(model, data, [NDCG @ 3, RR])
    similarity = model.embed(data.queries, "left") @ model.embed(data.corpus, "right").T
    run = {q: dict(zip(data.product_ids, row, strict=True)) for q, row in zip(data.query_ids, similarity, strict=True)}
    qrels = {q: {p: 1.0 + i for i, p in enumerate(data.product_ids)} for q in data.query_ids}
    assert table.to_numpy() == pytest.approx(measure(qrels, run, [NDCG @ 3, RR]).to_numpy(), abs=1e-12)
    assert table.index.tolist() == data.query_ids.tolist()


def test_a_division_leaves_the_corpus_whole():
    data = divide(ranked(12, 9))
    tables = [evaluate(GCLModel("small", **MODEL), data, [NDCG @ 3], division=d) for d in ("dev", "test", "all")]
    assert len(tables[0]) + len(tables[1]) == len(tables[2]) == 12
    both = np.concatenate([t.loc[:, "NDCG@3"] for t in tables[:2]])
    assert sorted(both) == pytest.approx(sorted(tables[2]["NDCG@3"]))


def test_the_official_form_rescales_grades_and_draws_queries_by_their_sums():
    many = 2500
    pairs = pa.table(
        {
            "query_id": [f"q{i}" for i in range(many)] * 2,
            "product_id": ["p0"] * many + ["p1"] * many,
            "score": [4.0 if i % 2 else 0.5 for i in range(many)] + [0.5] * many,
        }
    )
    queries = pa.table({"query_id": [f"q{i}" for i in range(many)], "query": [f"text {i}" for i in range(many)]})
    data = RankedData(queries, pa.table({"product_id": ["p0", "p1"], "title": ["a", "b"]}), pairs)
    rows = np.tile([1, 0], (many, 1))
    official = measure_ranking(rows, data, [NDCG], form="official")
    assert len(official) == 2000
    heavy = [int(q[1:]) % 2 == 1 for q in official.index]
    assert sum(heavy) > 1200  # sums 101 against 2: nearly all 1,250 heavy ones are in
    assert heavy[0]
    assert not heavy[-1]  # the largest sums first
    graded = official.loc[[q for q in official.index if int(q[1:]) % 2]]["NDCG"].iloc[0]
    assert graded == pytest.approx((1 + 100 / np.log2(3)) / (100 + 1 / np.log2(3)))
    assert len(measure_ranking(rows, data, [NDCG])) == many


def test_compare_names_what_it_lacks_and_finds_a_shift():
    data = ranked(30, 9)
    best = measure_ranking(oracle_top_k(data, 9), data, [NDCG @ 10])
    worst = measure_ranking(random_top_k(30, 9, 9), data, [NDCG @ 10])
    found = compare(best, worst)
    assert found.low > 0
    assert str(found).startswith("NDCG@10 1.000 vs ")
    with pytest.raises(UserError, match="second table has no NDCG@10; it has RR"):
        compare(best, measure_ranking(oracle_top_k(data, 9), data, [RR]))


def test_nothing_to_measure_and_a_wrong_form_are_told():
    data = ranked()
    with pytest.raises(UserError, match="no scored pair"):
        measure_ranking(np.zeros((4, 1), int), RankedData(data.queries, data.corpus, data.qrels.slice(0, 0)))
    with pytest.raises(UserError, match="unknown form of evaluation"):
        measure_ranking(np.zeros((4, 1), int), data, form="offical")
    with pytest.raises(UserError, match="no column 'division'"):
        evaluate(GCLModel("small", **MODEL), data, division="test")
