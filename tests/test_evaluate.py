import numpy as np
import pytest
from conftest import ranked

from gcl_toolkit import NDCG, RR, Fields, GCLModel, RankedData, UserError, compare, evaluate
from gcl_toolkit.data.ranked_data import divide
from gcl_toolkit.measure.baselines import oracle_top_k, random_top_k
from gcl_toolkit.measure.evaluate import measure_ranking, rankings
from gcl_toolkit.measure.metrics import measure

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


def test_equal_corpora_are_embedded_once(monkeypatch):
    """Also if a source made two tables of them."""
    data, other, embedded = ranked(4, 9), ranked(3, 9), []
    embed = GCLModel.embed
    monkeypatch.setattr(GCLModel, "embed", lambda *a, **k: embedded.append(a[2]) or embed(*a, **k))
    assert data.corpus is not other.corpus
    parts = {"a": data, "b": other, "c": ranked(2, 8)}
    rows = {name: rows for name, _, rows in rankings(GCLModel("small", **MODEL), parts)}
    assert embedded.count("right") == 2
    assert (rows["b"] == rows["a"][:3]).all()
    assert rows["c"].shape == (2, 8)


def test_compare_names_what_it_lacks_and_finds_a_shift():
    data = ranked(30, 9)
    best = measure_ranking(oracle_top_k(data, 9), data, [NDCG @ 10])
    worst = measure_ranking(random_top_k(30, 9, 9), data, [NDCG @ 10])
    found = compare(best, worst)
    assert found.low > 0
    assert str(found).startswith("NDCG@10 1.000 vs ")
    with pytest.raises(UserError, match="second table has no NDCG@10; it has RR"):
        compare(best, measure_ranking(oracle_top_k(data, 9), data, [RR]))


def test_nothing_to_measure_is_reported():
    data = ranked()
    with pytest.raises(UserError, match="no scored pairs"):
        measure_ranking(np.zeros((4, 1), int), RankedData(data.queries, data.corpus, data.qrels.slice(0, 0)))
    with pytest.raises(UserError, match="no column 'division'"):
        evaluate(GCLModel("small", **MODEL), data, division="test")
