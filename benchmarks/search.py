"""Exact search against the bare matrix product, faiss, sentence-transformers and the official script's loop.

OMP_NUM_THREADS=1 python benchmarks/search.py [--small]    (a peer that is not installed is left out: extra `bench`)
"""

from __future__ import annotations

import time
from importlib.util import find_spec

import torch
from interleaved import arguments, cpu_seconds, faster, header, slower
from torch.nn.functional import normalize

from gcl_toolkit.machine import fast_bfloat16
from gcl_toolkit.measure.search import top_k

DIMENSION = 512


def official_seconds(queries_QxD, corpus_NxD, k: int, count: int) -> float:
    """Per query, over `count` of them: what a loop like the official evaluation's does."""
    cosine, names = torch.nn.CosineSimilarity(dim=1), [str(row) for row in range(len(corpus_NxD))]
    started = time.process_time()
    for query_D in queries_QxD[:count]:
        scores, rows = cosine(query_D[None], corpus_NxD).topk(k)
        dict(zip([names[row] for row in rows.tolist()], scores.tolist(), strict=True))
    return (time.process_time() - started) / count


def check(queries_QxD, corpus_NxD, k: int, **options) -> None:
    """The same scores as brute force, and each the score of its row: the same set, up to rounding."""
    scores, rows = (torch.from_numpy(found) for found in top_k(queries_QxD.numpy(), corpus_NxD.numpy(), k, **options))
    assert (scores - (queries_QxD @ corpus_NxD.T).topk(k).values).abs().max() <= 1e-6
    for query_D, scores_K, rows_K in zip(queries_QxD[::50], scores[::50], rows[::50], strict=True):
        assert (corpus_NxD[rows_K] @ query_D - scores_K).abs().max() <= 1e-6
        assert len(set(rows_K.tolist())) == k


def candidates(queries_QxD, corpus_NxD, k: int) -> dict:
    queries, corpus = queries_QxD.numpy(), corpus_NxD.numpy()
    runs = {"ours": lambda: top_k(queries, corpus, k), "torch.mm": lambda: torch.mm(queries_QxD, corpus_NxD.T)}
    if find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        runs["faiss.knn"] = lambda: faiss.knn(queries, corpus, k, metric=faiss.METRIC_INNER_PRODUCT)
    return runs


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, k, large = (20_000, 100, 60_000) if options.small else (200_000, 1000, 1_000_000)
    corpus_NxD, queries_QxD = normalize(torch.randn(rows, DIMENSION)), normalize(torch.randn(500, DIMENSION))
    for bfloat16 in (False, True):
        check(queries_QxD, corpus_NxD, k, bfloat16=bfloat16)
    header(f"{rows:,} x {DIMENSION} float32, k = {k}; random unit vectors, seed 0")
    runs = candidates(queries_QxD, corpus_NxD, k)
    scores_QxN = torch.empty(500, rows)
    runs["torch.mm into memory in use"] = lambda: torch.mm(queries_QxD, corpus_NxD.T, out=scores_QxN)
    if find_spec("sentence_transformers"):
        from sentence_transformers.util import semantic_search

        runs["semantic_search"] = lambda: semantic_search(queries_QxD, corpus_NxD, top_k=k)
    seconds = cpu_seconds(runs, options.rounds)
    ours = seconds.pop("ours")
    for peer, taken in seconds.items():
        if peer == "semantic_search":
            faster("500 queries", ours, peer, taken)
        else:
            slower("500 queries", ours, peer, taken, 1.3 if peer == "torch.mm" else None)
    loop = official_seconds(queries_QxD, corpus_NxD, k, 4) * 500
    faster("500 queries", ours, "official loop (4 queries, scaled)", loop, 100)
    for count in (200, 50, 1):
        seconds = cpu_seconds(candidates(queries_QxD[:count].contiguous(), corpus_NxD, k), options.rounds)
        ours = seconds.pop("ours")
        peer = min(seconds, key=seconds.get)
        slower(f"{count} queries", ours, f"best of {len(seconds)}: {peer}", seconds[peer], 1.3)
    if fast_bfloat16():
        large_corpus(queries_QxD, large, k, options.rounds)


def large_corpus(queries_QxD, rows: int, k: int, rounds: int) -> None:
    corpus_NxD = normalize(torch.randn(rows, DIMENSION))
    check(queries_QxD[:100], corpus_NxD, k, bfloat16=True)
    header(f"{rows:,} x {DIMENSION} float32, k = {k}; proposals in bfloat16")
    queries, corpus = queries_QxD.numpy(), corpus_NxD.numpy()
    seconds = cpu_seconds(
        {
            "proposals": lambda: top_k(queries, corpus, k, bfloat16=True),
            "float32": lambda: top_k(queries, corpus, k, bfloat16=False),
            "torch.mm": lambda: torch.mm(queries_QxD, corpus_NxD.T),
        },
        rounds,
    )
    slower("500 queries", seconds["proposals"], "torch.mm", seconds["torch.mm"], 0.8)
    slower("500 queries", seconds["proposals"], "ours in float32", seconds["float32"])


if __name__ == "__main__":
    main()
