"""The kernels of search on a GPU, if one is there; without one: test_triton.py."""

import pytest
import torch
from test_search import vectors

from gcl_toolkit import DataError
from gcl_toolkit.measure.search import _unpacked, top_k


def expected(queries, corpus, k):
    """(float64's scores rounded to float32, rows), ties in row order."""
    best = []
    for part in queries.split(500):
        scores_BxN = (part.double() @ corpus.double().T).float()
        best.append([x[:, :k] for x in scores_BxN.sort(dim=1, descending=True, stable=True)])
    return [torch.cat(parts) for parts in zip(*best, strict=True)]


def assert_proves_what_is_right(best_keys, queries, corpus, k, at_least):
    """At least this share is called complete, and is; the bound holds for all rows that aren't listed."""
    keys, bound_Q = best_keys(queries, corpus, k)
    scores, rows = _unpacked(keys)
    is_sure_Q, (right_scores, right_rows) = scores[:, -1] > bound_Q, expected(queries, corpus, k)
    assert is_sure_Q.float().mean() >= at_least
    assert (scores == right_scores)[is_sure_Q].all()
    assert (rows == right_rows)[is_sure_Q].all()


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; benchmarks/gpu_search.py checks one")


def on_card(seed, rows, kind=torch.float16):
    return torch.from_numpy(vectors(seed, rows, 64)).to("cuda", kind)


def assert_right(queries, corpus, k):
    for found, right in zip(top_k(queries, corpus, k), expected(queries, corpus, k), strict=True):
        assert (torch.from_numpy(found) == right.cpu()).all()


@on_gpu
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("queries", "k"), [(1, 1), (300, 100), (4100, 10)])
def test_a_gpu_finds_the_right_rows_in_the_right_order(kind, queries, k):
    corpus = on_card(1, 300_001, kind)
    corpus[-5000:] = corpus[:5000]
    queries = on_card(0, queries, torch.float32)
    assert_right(queries, corpus, k)
    from gcl_toolkit.measure.search_gpu import best_keys, fits

    if fits(corpus, k):
        assert_proves_what_is_right(best_keys, queries, corpus, k, 0.99)


@on_gpu
def test_what_is_not_proved_is_searched_the_other_way():
    """A query of zeros, one whose rows are all alike, and a row that isn't finite."""
    queries, corpus = on_card(0, 40, torch.float32), on_card(1, 300_000)
    queries[3], queries[5], queries[5, 0], corpus[:, 0] = 0, 0, 1, 0.25
    assert_right(queries, corpus, 20)
    corpus[123_456, 7] = torch.nan
    with pytest.raises(DataError, match="corpus row 123456"):
        top_k(queries, corpus, 20)
