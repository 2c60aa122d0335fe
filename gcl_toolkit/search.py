"""Exact top-k: by embeddings, by BM25, and the two ends of the scale, random and oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from gcl_toolkit.errors import UserError
from gcl_toolkit.fields import is_missing
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData


def search(model: GCLModel, queries: Sequence[str], corpus: pa.Table, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """(cosines, product ids), each queries x k, best first, of texts against a corpus table.

    For a model whose left side is one text field; k beyond the corpus gives the whole corpus.
    """
    if len(model.left) != 1:
        raise UserError(f"search takes texts, but the model's queries have {model.left}; use model.embed and top_k")
    table = pa.table({next(iter(model.left)): list(queries)})
    scores, rows = top_k(model.embed(table, "left"), model.embed(corpus, "right"), k)
    return scores, corpus["product_id"].to_numpy()[rows]


def top_k(
    queries_QxD: np.ndarray, corpus_NxD: np.ndarray, k: int, *, chunk: int = 65_536
) -> tuple[np.ndarray, np.ndarray]:
    """(inner products, row numbers), each Q x min(k, N), best first: exact, in chunks of the corpus.

    Equal scores come in the order of the rows. float16 and mmapped arrays are read chunk by chunk as float32.
    """
    k = min(k, len(corpus_NxD))
    queries = torch.from_numpy(np.ascontiguousarray(queries_QxD, np.float32))
    best = torch.empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(corpus_NxD), chunk):
        part = torch.from_numpy(np.ascontiguousarray(corpus_NxD[start : start + chunk], np.float32))
        part_rows = torch.arange(start, start + len(part)).expand(len(queries), -1)
        best, rows = torch.cat([best, queries @ part.T], 1), torch.cat([rows, part_rows], 1)
        if best.shape[1] > k:
            best, place = best.topk(k, dim=1)
            rows = rows.gather(1, place)
    order = _by_score_then_row(best, rows)
    return best.gather(1, order).numpy(), rows.gather(1, order).numpy()


def bm25_top_k(queries: Sequence[str], texts: Sequence[str | None], k: int) -> np.ndarray:
    """Row numbers, Q x min(k, N), by BM25 (bm25s, Lucene's form) over one text a product; missing texts are empty."""
    import bm25s

    known = ["" if is_missing(text) else str(text) for text in texts]
    stems = bm25s.tokenize(known, stopwords=None, show_progress=False)
    index = bm25s.BM25()
    index.index(stems, show_progress=False)
    words = bm25s.tokenize(list(queries), stopwords=None, return_ids=False, show_progress=False)
    rows = []
    for query in words:
        known_words = [word for word in query if word in index.vocab_dict]
        scores = index.get_scores(known_words) if known_words else np.zeros(len(known))
        rows.append(np.argsort(-scores, kind="stable")[:k])
    return np.stack(rows)


def random_top_k(queries: int, corpus: int, k: int, seed: int = 0) -> np.ndarray:
    """Row numbers in random order, Q x min(k, N)."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(corpus)[:k] for _ in range(queries)])


def oracle_top_k(data: RankedData, k: int) -> np.ndarray:
    """Each query's scored products, best first, Q x k; -1 where there are no more."""
    query, product, score = data.pairs
    order = np.lexsort((product, -score, query))
    query, product = query[order], product[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    rows = np.full((data.queries.num_rows, k), -1)
    kept = rank < k
    rows[query[kept], rank[kept]] = product[kept]
    return rows


def _by_score_then_row(scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    by_row = rows.argsort(dim=1, stable=True)
    by_score = scores.gather(1, by_row).argsort(dim=1, descending=True, stable=True)
    return by_row.gather(1, by_score)
