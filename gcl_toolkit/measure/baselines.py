"""Rankings to compare a model with: BM25, and the two ends of the scale, random and oracle."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from gcl_toolkit.data.columns import is_text
from gcl_toolkit.data.fields import Fields, is_missing
from gcl_toolkit.data.findings import NOT_FIELDS
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.models.texts import words


def texts(table: pa.Table, fields: Fields, rows: np.ndarray | None = None) -> list[str]:
    """The text fields of each row (by default of all rows), joined by spaces; all texts if the fields are vectors."""
    names = [name for name in fields if name in table.column_names and is_text(table[name])]
    names = names or [n for n in table.column_names if n not in NOT_FIELDS and is_text(table[n])]
    columns = [table[name] for name in names]
    values = [(column if rows is None else column.take(pa.array(rows))).to_pylist() for column in columns]
    return [" ".join(text for text in row if text) for row in zip(*values, strict=True)]


class BM25:
    """A BM25 index (bm25s, Lucene's form) over one text a product; missing texts are empty. Single ASCII characters
    are not words."""

    def __init__(self, texts: Sequence[str | None]):
        import bm25s

        self._index, self.products, numbers = bm25s.BM25(), len(texts), dict[str, int]()
        words = (_terms("" if is_missing(text) else str(text)) for text in texts)
        ids = [[numbers.setdefault(word, len(numbers)) for word in row] for row in words]
        self._index.index(bm25s.tokenization.Tokenized(ids, numbers), show_progress=False)

    @property
    def stored_bytes(self) -> int:
        return sum(part.nbytes for part in self._index.scores.values() if isinstance(part, np.ndarray))

    def top_k(self, queries: Sequence[str], k: int) -> np.ndarray:
        """Row numbers, Q x min(k, N), best first; equal scores are in row order."""
        return np.stack([_best(scores, k) for scores in self._scores(queries)])

    def matching(self, queries: Sequence[str], k: int) -> list[np.ndarray]:
        """The same, without the products that share no word with the query."""
        return [_best(scores, min(k, (scores > 0).sum())) for scores in self._scores(queries)]

    def _scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        for query in queries:
            known = [word for word in _terms(query) if word in self._index.vocab_dict]
            yield self._index.get_scores(known) if known else np.zeros(self.products)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k highest scores; equal ones in row order."""
    rows = np.flatnonzero(scores)  # none is below 0
    if len(rows) > k > 0:
        least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= least]
    elif len(rows) < k:
        rows = np.arange(len(scores))
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]


def _terms(text: str) -> list[str]:
    return [word for word in words(text) if len(word) > 1 or not word.isascii()]


def random_top_k(queries: int, corpus: int, k: int, seed: int = 0) -> np.ndarray:
    """Row numbers in random order, Q x min(k, N)."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(corpus)[:k] for _ in range(queries)])


def oracle_top_k(data: RankedData, k: int) -> np.ndarray:
    """Each query's scored products, best first, Q x k, padded with -1."""
    query, product, score = data.pairs
    order = np.lexsort((product, -score, query))
    query, product = query[order], product[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    rows = np.full((data.queries.num_rows, k), -1)
    kept = rank < k
    rows[query[kept], rank[kept]] = product[kept]
    return rows
