import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ranked

from gcl_toolkit import DataError, Fields, GCLModel, UserError, search
from gcl_toolkit.measure.baselines import BM25, oracle_top_k, random_top_k
from gcl_toolkit.measure.search import _best_keys, _Proposals, _unpacked, top_k

UP, DOWN = 1 + 2**-8 - 2**-16, 1 - 2**-9 + 2**-16  # each about as far from its bfloat16, 1, as can be


def assert_is_top_k(found, queries, corpus, k):
    """Equal to brute force in float64, up to float32's rounding."""
    scores, rows = found
    exact = np.asarray(queries, np.float64) @ np.asarray(corpus, np.float64).T
    size = np.linalg.norm(np.asarray(queries, np.float64), axis=1).max()
    size *= np.linalg.norm(np.asarray(corpus, np.float64), axis=1).max()
    assert rows.shape == scores.shape == (len(queries), min(k, len(corpus)))
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    assert np.abs(scores - np.take_along_axis(exact, rows, 1)).max(initial=0) <= 1e-6 * size
    assert np.abs(scores - -np.sort(-exact, axis=1)[:, :k]).max(initial=0) <= 1e-6 * size


def vectors(seed, rows, dimension, *, spread=1.0, unit=True):
    """Rows around a common direction; the smaller the spread, the nearer to each other."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=dimension) + spread * rng.normal(size=(rows, dimension))
    return (made / (np.linalg.norm(made, axis=1, keepdims=True) if unit else 1)).astype(np.float32)


def best_in_bfloat16(queries, corpus, k, chunk):
    """The search without its comparison of near ties."""
    scores, rows = _unpacked(_best_keys(torch.from_numpy(queries), corpus, k, chunk, True))
    return scores.numpy(), rows.numpy()


@pytest.fixture
def proposed(monkeypatch):
    """What each bfloat16 chunk proposed: how many scores, or None where float32 had to take over."""
    seen, score = [], _Proposals.score

    def spy(self, *chunk):
        found = score(self, *chunk)
        seen.append(None if found is None else len(found[1]))
        return found

    monkeypatch.setattr(_Proposals, "score", spy)
    return seen


@pytest.mark.parametrize("chunk", [1, 7, 1000, None])
@pytest.mark.parametrize("k", [1, 10, 50, 90])
def test_top_k_is_brute_force(chunk, k):
    queries, corpus = vectors(0, 9, 5), vectors(1, 50, 5)
    assert_is_top_k(top_k(queries, corpus, k, chunk=chunk), queries, corpus, k)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_any_shape_type_and_chunk_is_brute_force(seed, bfloat16):
    rng = np.random.default_rng(seed)
    q, n, d = (int(size) for size in rng.integers(1, [60, 3000, 130]))
    kind = [np.float16, np.float32, np.float64][seed % 3]
    queries, corpus = (
        vectors(seed, q, d).astype(kind),
        vectors(seed + 1, n, d, spread=rng.uniform(0.05, 2)).astype(kind),
    )
    k, chunk = int(rng.integers(1, n + 20)) if seed % 2 else int(rng.integers(1, 12)), int(rng.integers(1, n + 1))
    queries, corpus = queries.astype(np.float32), corpus.astype(np.float32 if kind == np.float64 else kind)
    assert_is_top_k(top_k(queries, corpus, k, chunk=chunk, bfloat16=bfloat16), queries, corpus, k)


@pytest.mark.parametrize("spread", [1e-4, 1e-2, 1])
@pytest.mark.parametrize(("query_norm", "corpus_norm"), [(1, 1), (1e9, 1e8), (1e-9, 1e-9), (1e-20, 1), (1e-18, 1e-15)])
def test_bfloat16_loses_nothing_at_any_scale_and_any_nearness(query_norm, corpus_norm, spread):
    queries, corpus = vectors(0, 40, 256) * np.float32(query_norm), vectors(1, 6000, 256, spread=spread)
    corpus = corpus * np.float32(corpus_norm)
    assert_is_top_k(top_k(queries, corpus, 20, chunk=500, bfloat16=True), queries, corpus, 20)


def test_bfloat16_proposes_few_and_is_exact(proposed):
    queries, corpus = vectors(0, 50, 512), vectors(1, 20_000, 512)
    assert_is_top_k(top_k(queries, corpus, 10, chunk=1000, bfloat16=True), queries, corpus, 10)
    assert len(proposed) == 19
    assert None not in proposed
    assert sum(proposed) < 50 * 10 * 19 / 2  # 10 a query and chunk would be a top-k of every chunk


@pytest.mark.parametrize(
    "corpus",
    [
        np.tile(vectors(1, 1, 128), (4000, 1)),  # all alike
        np.zeros((4000, 128), np.float32),
        vectors(1, 4000, 128, spread=1e-5),  # nearer to each other than bfloat16 can tell
        vectors(1, 4000, 128) * np.geomspace(1, 1e6, 4000, dtype=np.float32)[:, None],  # ever better, ever larger
        vectors(1, 4000, 128) * np.where(np.arange(4000) == 3000, 1e6, 1)[:, None].astype(np.float32),  # one huge
    ],
    ids=["alike", "zero", "near", "rising", "huge"],
)
def test_float32_takes_over_when_bfloat16_proposes_too_much(corpus, proposed):
    queries = vectors(0, 30, 128)
    assert_is_top_k(best_in_bfloat16(queries, corpus, 25, 200), queries, corpus, 25)
    assert proposed[-1] is None
    assert proposed.count(None) == 1  # and stays


@pytest.mark.parametrize("dimension", [64, 700, 4096])
@pytest.mark.parametrize("shift", [0, 3])
def test_the_error_bound_of_bfloat16_holds_and_is_not_idle(dimension, shift):
    rng = np.random.default_rng(dimension)
    queries = torch.tensor(rng.normal(size=(20, dimension)), dtype=torch.float32)
    part = torch.tensor(rng.standard_t(3, size=(3000, dimension)) + shift, dtype=torch.float32)
    proposals = _Proposals(queries, part[:500])
    y = part - proposals.centre_D
    computed = (proposals.rounded_QxD @ y.bfloat16().T).double()
    exact = (queries.double() @ part.double().T) - proposals.shift_Q.double()[:, None]
    allowed = proposals._error(y.norm(dim=1).max())[:, None] + computed.abs() / 2**8 * 1.01
    assert ((computed - exact).abs() <= allowed).all()
    assert (computed - exact).abs().max() > allowed.max() / 200


@pytest.mark.parametrize(
    ("query", "best", "worse"),
    [
        ([1, -1] * 64, [UP, DOWN] * 64, [1 + 2**-7, 1] * 38 + [1, 1] * 26),
        ([1] * 129, [UP] * 128 + [251 / 512], [1] * 128 + [0.98]),
        ([UP, DOWN] * 64, [UP, -DOWN] * 64, [0.95 * UP, -0.95 * DOWN] * 64),
    ],
    ids=["numbers", "numbers and their sum", "numbers of row and query"],
)
def test_the_worst_rounding_there_can_be_loses_nothing(query, best, worse, proposed):
    """Every number of the best row lies next to the middle of two bfloat16, on the side that lowers the score."""
    query, best, worse = (torch.tensor(numbers, dtype=torch.float32) for numbers in (query, best, worse))
    corpus = torch.stack([worse, -worse] * 8 + [-worse] * 15 + [best])  # the first 16 are centred
    rounded = float(query.bfloat16() @ best.bfloat16())
    assert rounded + 0.25 < query @ worse < query @ best
    assert best_in_bfloat16(query[None].numpy(), corpus, 1, 16)[1].tolist() == [[31]]
    assert proposed == [1]


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("chunk", [3, 40, 4000])
def test_equal_scores_keep_the_order_of_the_rows(chunk, bfloat16):
    rng = np.random.default_rng(0)
    queries = rng.integers(-1, 2, (12, 3)).astype(np.float32)
    corpus = rng.integers(-2, 3, (4000, 3)).astype(np.float32)  # whole numbers, so ties are exact
    corpus[::5] = 0
    expected = np.argsort(-(queries @ corpus.T), axis=1, kind="stable")[:, :30]
    scores, rows = top_k(queries, corpus, 30, chunk=chunk, bfloat16=bfloat16)
    assert (rows == expected).all()
    assert (scores == np.take_along_axis(queries @ corpus.T, expected, 1)).all()


def near_ties():
    """40 vectors, each 50 times and 50 times with its numbers changed by less than float32's rounding of a score."""
    rng = np.random.default_rng(3)
    corpus = np.repeat(vectors(1, 40, 96), 100, axis=0)
    corpus[::2] *= 1 + rng.choice([-1e-8, 0, 6e-8], (2000, 96)).astype(np.float32)
    return vectors(0, 70, 96), corpus[rng.permutation(4000)]


@pytest.mark.parametrize("k", [1, 30, 300])
def test_the_ranking_of_near_ties_is_that_of_float64_from_every_path(k):
    queries, corpus = near_ties()
    exact = (queries.astype(np.float64) @ corpus.T.astype(np.float64)).astype(np.float32)
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    for chunk in (13, 700, None):
        for bfloat16 in (False, True):
            assert (top_k(queries, corpus, k, chunk=chunk, bfloat16=bfloat16)[1] == expected).all(), (chunk, bfloat16)
    for batch in (1, 3):
        parts = [top_k(queries[i : i + batch], corpus, k)[1] for i in range(0, 12, batch)]
        assert (np.concatenate(parts) == expected[:12]).all()


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_files_are_read_by_mmap(tmp_path, kind, bfloat16):
    stored = vectors(1, 3000, 64).astype(kind)
    np.save(tmp_path / "e.npy", stored)
    opened = np.load(tmp_path / "e.npy", mmap_mode="r")
    found = top_k(stored[:30], opened, 5, chunk=100, bfloat16=bfloat16)
    assert_is_top_k(found, stored[:30].astype(np.float32), stored, 5)
    assert (found[1][:, 0] == np.arange(30)).all()


def test_scores_that_underflow_are_equal():
    corpus = np.float32([[1e-30], [-1e-30], [0], [1e-30]])  # -0.0 is no less than 0.0
    assert top_k(np.float32([[1e-30], [-1e-30]]), corpus, 4)[1].tolist() == [[0, 1, 2, 3]] * 2


def test_tensors_many_blocks_of_queries_and_empty_ones():
    queries, corpus = vectors(0, 2500, 8), vectors(1, 90, 8)
    found = top_k(torch.from_numpy(queries), torch.from_numpy(corpus).double(), 3)
    assert_is_top_k(found, queries, corpus, 3)
    assert top_k(queries[:0], corpus, 3)[1].shape == (0, 3)
    assert top_k(queries, corpus[:0], 3)[1].shape == (2500, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; benchmarks/gpu_search.py checks one")
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_gpu_finds_the_same(bfloat16):
    queries, corpus = vectors(0, 300, 256), vectors(1, 50_000, 256)
    found = top_k(queries, corpus, 100, device="cuda", chunk=5000, bfloat16=bfloat16)
    assert_is_top_k(found, queries, corpus, 100)
    on_gpu = top_k(torch.from_numpy(queries), torch.from_numpy(corpus).cuda(), 100, chunk=5000, bfloat16=bfloat16)
    assert_is_top_k(on_gpu, queries, corpus, 100)


def test_products_are_exact_whatever_precision_the_process_has_set():
    queries, corpus = vectors(0, 40, 256), vectors(1, 3000, 256)
    torch.set_float32_matmul_precision("medium")
    try:
        assert_is_top_k(top_k(queries, corpus, 10), queries, corpus, 10)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("row", [3, 2999])
def test_a_bad_embedding_is_named(bad, bfloat16, row):
    queries, corpus = vectors(0, 30, 64), vectors(1, 3000, 64)
    corpus[row, 5] = bad
    with pytest.raises(DataError, match=rf"corpus row {row}: an inner product with it is (nan|inf); .* finite"):
        top_k(queries, corpus, 5, chunk=100, bfloat16=bfloat16)
    queries[7, 0] = bad
    with pytest.raises(DataError, match=r"query row 7 holds a NaN or an infinity"):
        top_k(queries, vectors(1, 10, 64), 5)


@pytest.mark.parametrize(
    ("queries", "corpus", "k", "message"),
    [
        (
            (2, 3),
            (4, 5),
            1,
            r"queries \(2, 3\) and corpus \(4, 5\): two matrices with rows of equal length are expected",
        ),
        ((3,), (4, 3), 1, r"queries \(3,\)"),
        ((2, 3), (4, 3), 0, r"k is 0; it must be at least 1"),
    ],
)
def test_shapes_that_do_not_fit_are_named(queries, corpus, k, message):
    with pytest.raises(UserError, match=message):
        top_k(np.zeros(queries, np.float32), np.zeros(corpus, np.float32), k)


def test_no_warning_is_printed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        top_k(vectors(0, 30, 64), vectors(1, 3000, 64), 5, chunk=100, bfloat16=True)


def test_bm25_ranks_by_words_and_survives_missing_and_unknown_ones():
    titles = ["red mug", None, "blue mug", "red red rug", " "]
    rows = BM25(titles).top_k(["blue mug", "nothing here", ""], 3)
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
