"""Re-ranking moves the first k only, the oracle is its ceiling, and both re-rankers learn from pairs with scores."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import png, ranked

from gcl_toolkit import NDCG, Fields, RankedData, Recall, UserError
from gcl_toolkit.data.ranked_data import IMAGE
from gcl_toolkit.measure.baselines import BM25, texts
from gcl_toolkit.measure.evaluate import measure_ranking
from gcl_toolkit.studies.rerank import (
    CrossEncoderReranker,
    OracleReranker,
    Reranker,
    SmallReranker,
    rerank,
)

LEFT, RIGHT = Fields(query=1.0), Fields(title=1.0)
COLOURS, THINGS = ("red", "blue", "green", "black", "white"), ("mug", "rug", "lamp", "vase", "desk")


class ByRow(Reranker):
    """Scores a product by a table of its row."""

    def __init__(self, score_M):
        self.score_M = np.array(score_M, float)

    def scores(self, query_rows, products_QxK, data):
        return self.score_M[products_QxK]


def combinations(queries) -> RankedData:
    """25 products "red mug", ...; the wished one scores 100, other things of its kind 50, others in its colour 0."""
    things = list(itertools.product(COLOURS, THINGS))
    pairs = [(" ".join(q), " ".join(p), 100.0 if p == q else 50.0) for q in queries for p in things if p[1] == q[1]]
    names = [" ".join(thing) for thing in things]
    asked = [" ".join(q) for q in queries]
    return RankedData(
        pa.table({"query_id": asked, "query": asked}),
        pa.table({"product_id": names, "title": names}),
        pa.table(dict(zip(("query_id", "product_id", "score"), map(list, zip(*pairs, strict=True)), strict=True))),
    )


def known_and_novel():
    """Trained on 20 wishes, tried on the 5 others."""
    wishes = list(itertools.product(COLOURS, THINGS))
    novel = [(COLOURS[i], THINGS[i]) for i in range(5)]
    return combinations([wish for wish in wishes if wish not in novel]), combinations(novel)


def learnt(reranker, data, **config):
    return [record["loss"] for record in reranker.train(data, **config)]


def ndcg(rows, data):
    return measure_ranking(rows, data, [NDCG @ 10])["NDCG@10"].mean()


# -- re-ordering -------------------------------------------------------------------------------------------------------


def test_only_the_first_k_move_best_first_and_equal_ones_stay_in_order():
    data = ranked(2, 6)
    ranking = np.array([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]])
    by_row = ByRow([1, 1, 3, 2, 1, 9])
    assert rerank(ranking, 4, by_row, data).tolist() == [[5, 3 - 1, 3, 4, 1, 0], [2, 3, 0, 1, 4, 5]]
    assert rerank(ranking, 1, by_row, data).tolist() == ranking.tolist()
    assert rerank(ranking, 99, by_row, data)[0].tolist() == [5, 2, 3, 4, 1, 0]


def test_ranks_without_a_product_stay_at_the_end():
    assert rerank(np.array([[1, 3, -1, -1]]), 3, ByRow([0, 1, 0, 2]), ranked(1, 4)).tolist() == [[3, 1, -1, -1]]


def test_a_depth_of_0_is_refused():
    with pytest.raises(UserError, match="depth is 0; it must be"):
        rerank(np.array([[0, 1]]), 0, OracleReranker(), ranked(1, 2))
    with pytest.raises(UserError, match="steps is 0, batch is None; they must be"):
        next(OracleReranker().train(ranked(1, 2), steps=0))


def test_the_oracle_is_the_best_of_all_orders_of_the_first_k():
    rng = np.random.default_rng(0)
    data = combinations([("red", "mug"), ("blue", "rug")])
    ranking = np.stack([rng.permutation(25) for _ in range(2)])
    reordered = rerank(ranking, 5, OracleReranker(), data)
    for row in range(2):
        orders = [
            np.concatenate([order, ranking[row, 5:]]) for order in itertools.permutations(ranking[row, :5].tolist())
        ]
        one = data.take_queries(np.array([row]))
        best = max(ndcg(order[None].astype(int), one) for order in orders)
        assert ndcg(reordered[row][None], one) == pytest.approx(best)


def test_the_ceiling_never_falls_with_depth_and_recall_bounds_it():
    rng = np.random.default_rng(1)
    data = combinations(list(itertools.product(COLOURS[:2], THINGS)))
    ranking = np.stack([rng.permutation(25) for _ in range(data.queries.num_rows)])
    before = 0.0
    for depth in (1, 2, 5, 10, 15, 25):
        table = measure_ranking(rerank(ranking, depth, OracleReranker(), data), data, [NDCG @ depth, Recall @ depth])
        ceiling, recall = table[f"NDCG@{depth}"], table[f"Recall@{depth}"]
        assert ((recall > 0) == (ceiling > 0)).all()
        if depth >= 5:  # five products a query
            assert (np.isclose(ceiling, 1) == np.isclose(recall, 1)).all()
        at_10 = ndcg(rerank(ranking, depth, OracleReranker(), data), data)
        assert at_10 >= before
        before = at_10
    assert before == pytest.approx(1)


def test_true_scores_are_those_of_the_qrels_for_any_query_rows():
    data = combinations([("red", "mug"), ("blue", "rug")])
    query, product, score = (array.tolist() for array in data.pairs)
    known = {(q, p): s for q, p, s in zip(query, product, score, strict=True)}
    rows = np.array([1, 0, 1])
    scores = OracleReranker().scores(rows, np.tile(np.arange(25), (3, 1)), data)
    assert scores.tolist() == [[known.get((q, p), 0.0) for p in range(25)] for q in rows.tolist()]


def test_texts_are_joined_without_the_missing_ones():
    table = pa.table({"title": ["red", None, "b"], "more": ["mug", "rug", ""]})
    assert texts(table, Fields(title=1, more=1)) == ["red mug", "rug", "b"]
    assert texts(table, Fields(more=1), np.array([1, 0, 1])) == ["rug", "mug", "rug"]


# -- small -------------------------------------------------------------------------------------------------------------


def test_the_small_one_learns_what_its_first_stage_does_not_know():
    known, novel = known_and_novel()
    first = BM25(texts(novel.corpus, RIGHT)).top_k(texts(novel.queries, LEFT), 25)
    reranker = SmallReranker(LEFT, RIGHT)
    losses = learnt(reranker, known, steps=60, batch=25)
    assert losses[-1] < losses[0]
    assert ndcg(rerank(first, 25, reranker, novel), novel) > ndcg(first, novel) + 0.05


def test_a_query_alone_has_the_scores_that_it_has_among_others():
    known, novel = known_and_novel()
    reranker = SmallReranker(LEFT, RIGHT)
    learnt(reranker, known, steps=2, batch=8)
    products = np.stack([np.random.default_rng(q).permutation(25)[:7] for q in range(5)])
    together = reranker.scores(np.arange(5), products, novel)
    for row in (4, 0):
        assert reranker.scores(np.array([row]), products[row, None], novel)[0] == pytest.approx(together[row], abs=1e-5)
    assert reranker.stored_bytes(novel.corpus) == 25 * 256 * 4


def test_training_is_a_function_of_the_seed_whether_or_not_one_looks_in_between():
    known, _ = known_and_novel()
    queries, products, scores = np.arange(2), np.tile(np.arange(25), (2, 1)), []
    for seed, looks in ((0, True), (0, False), (1, False)):
        reranker = SmallReranker(LEFT, RIGHT, seed=seed)
        for _ in reranker.train(known, steps=2, batch=8, seed=seed):
            if looks:
                reranker.scores(queries, products, known)
        scores.append(reranker.scores(queries, products, known))
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert np.abs(scores[0] - scores[2]).max() > 1e-2


def test_pictures_count_and_missing_fields_are_allowed():
    data = ranked(3, 4)
    corpus = pa.table(
        {
            "product_id": data.product_ids,
            "title": ["mug", "mug", None, "mug"],
            "image": pa.array([{"bytes": png(c), "path": None} if c else None for c in (0, 250, 9, 9)], IMAGE),
        }
    )
    data = RankedData(data.queries, corpus, data.qrels)
    reranker = SmallReranker(LEFT, Fields(image=0.5, title=0.5))
    assert np.isfinite(learnt(reranker, data, steps=2, batch=4)).all()
    (scores,) = reranker.scores(np.array([0]), np.arange(4)[None], data)
    assert len(np.unique(scores.round(6))) == 4


# -- CrossEncoder ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A BERT of one layer with random weights, and a tokenizer that knows the words."""
    pytest.importorskip("sentence_transformers", reason="the extra 'text' is not installed")
    import transformers

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *THINGS]
    transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    learns_fast = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
    config = transformers.BertConfig(vocab_size=len(words), num_labels=1, **sizes, **learns_fast)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_a_cross_encoder_learns_and_scores_pair_by_pair(tiny_bert):
    names = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    pairs = [("mug", name, 100.0 if "red" in name else 50.0) for name in names]
    pairs += [("rug", name, 50.0) for name in names if "red" in name]
    query, product, score = map(list, zip(*pairs, strict=True))
    data = RankedData(
        pa.table({"query_id": ["rug", "mug"], "query": ["rug", "mug"]}),
        pa.table({"product_id": names, "title": names}),
        pa.table({"query_id": query, "product_id": product, "score": score}),
    )
    reranker = CrossEncoderReranker(tiny_bert, LEFT, RIGHT)
    losses = learnt(reranker, data, steps=40, batch=32, learning_rate=3e-3)
    assert losses[-1] < losses[0]
    everything = np.tile(np.arange(25), (2, 1))
    rug, mug = reranker.scores(np.array([0, 1]), everything, data)
    assert mug[:5].min() - 1 > mug[5:].max()
    assert rug[:5].min() - 1 > rug[5:].max()
    assert mug[5:].min() - 1 > rug[5:].max()
    assert reranker.scores(np.array([1]), np.array([[24, 7]]), data)[0] == pytest.approx(mug[[24, 7]], abs=1e-5)
    assert rerank(everything[:, ::-1], 25, reranker, data)[0, :5].max() < 5
    assert reranker.stored_bytes(data.corpus) == 0


def test_a_folder_without_a_model_is_one_clear_line(tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra 'text' is not installed")
    with pytest.raises(UserError, match="can't be loaded as a CrossEncoder"):
        CrossEncoderReranker(str(tmp_path), LEFT, RIGHT)
