import numpy as np
import pyarrow as pa
import pytest
from conftest import ranked

from gcl_toolkit import Fields, GCLModel, UserError, search
from gcl_toolkit.search import bm25_top_k, oracle_top_k, random_top_k, top_k


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("k", [1, 10, 50, 90])
def test_top_k_is_brute_force(chunk, k):
    rng = np.random.default_rng(0)
    queries, corpus = rng.normal(size=(9, 5)).astype(np.float32), rng.normal(size=(50, 5)).astype(np.float32)
    scores, rows = top_k(queries, corpus, k, chunk=chunk)
    expected = np.argsort(-(queries @ corpus.T), axis=1)[:, :k]
    assert (rows == expected).all()
    assert scores == pytest.approx(np.take_along_axis(queries @ corpus.T, expected, 1), abs=1e-6)


def test_equal_scores_keep_the_order_of_the_rows():
    corpus = np.ones((6, 2), np.float32)
    assert top_k(np.ones((1, 2)), corpus, 6, chunk=4)[1].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_half_precision_files_are_read_by_mmap(tmp_path):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(40, 8))
    np.save(tmp_path / "e.npy", (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16))
    stored = np.load(tmp_path / "e.npy", mmap_mode="r")
    found = top_k(stored[:3], stored, 5, chunk=16)[1]
    assert (found[:, 0] == [0, 1, 2]).all()


def test_bm25_ranks_by_words_and_survives_missing_and_unknown_ones():
    titles = ["red mug", None, "blue mug", "red red rug", " "]
    rows = bm25_top_k(["blue mug", "nothing here", ""], titles, 3)
    assert rows[0].tolist()[:2] == [2, 0]
    assert rows[1].tolist() == rows[2].tolist() == [0, 1, 2]


def test_oracle_lists_by_score_and_random_is_seeded():
    data = ranked(2, 4)
    assert oracle_top_k(data, 6).tolist() == [[3, 2, 1, 0, -1, -1]] * 2
    assert (random_top_k(3, 9, 4, seed=1) == random_top_k(3, 9, 4, seed=1)).all()
    assert all(len(set(row)) == 4 for row in random_top_k(3, 9, 4).tolist())


def test_search_takes_texts_and_gives_ids():
    data = ranked(2, 5)
    model = GCLModel("small", right=Fields(title=1.0), vocabulary=["title", "0", "3"], dimension=16)
    scores, ids = search(model, ["title 3", "title 0"], data.corpus, k=2)
    assert ids.shape == scores.shape == (2, 2)
    assert (scores[:, 0] >= scores[:, 1]).all()
    whole = model.embed(pa.table({"query": ["title 3"]}), "left") @ model.embed(data.corpus, "right").T
    assert scores[0] == pytest.approx(np.sort(whole[0])[::-1][:2], abs=1e-6)


def test_search_wants_one_text_field():
    with pytest.raises(UserError, match=r"Fields\(query=1, photo=1\)"):
        search(GCLModel("small", left=Fields(query=1, photo=1)), ["mug"], ranked().corpus)
