"""A language model grades the pairs that the qrels leave open: the pooled first ranks of some systems' rankings."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcl_toolkit.curate.judge import judge
from gcl_toolkit.curate.language import Language, prompt
from gcl_toolkit.curate.products import MOST_LETTERS, Product
from gcl_toolkit.curate.queries import Query
from gcl_toolkit.data.judgements import MACHINE, Judgement, Judgements
from gcl_toolkit.data.ranked_data import RankedData, hash64
from gcl_toolkit.errors import DataError
from gcl_toolkit.measure.ppi import random_order
from gcl_toolkit.measure.unjudged import pooled

BATCH = 50
"""Queries whose grades are appended to the file at a time."""
STORED = {0: 0, 1: 1, 2: 3, 3: 4}
"""Grade of the prompt's scale (unrelated, related, close, exact) -> grade 0..4 of `Judgements`."""


class Open(NamedTuple):
    """A query and its pooled products without a grade."""

    query_id: str
    query: Query
    products: list[Product]


def open_pairs(data: RankedData, rankings: Mapping[str, np.ndarray], depth: int) -> list[Open]:
    """What is unjudged within the first `depth` ranks of any system, by query in `ppi.random_order`.

    Products are in an order that doesn't depend on their ranks. Raises DataError without titles or query texts.
    """
    for names, name, option in ((data.corpus_fields, "title", "--products"), (data.query_fields, "query", "--queries")):
        if name not in names:
            raise DataError(f"{data.name} has no column {name!r}, which a judge reads; give a table with it: {option}")
    titles, texts = (table[name].to_pylist() for table, name in ((data.corpus, "title"), (data.queries, "query")))
    rows: dict[int, list[int]] = {}
    for query, product in zip(*pooled(data.pairs, list(rankings.values()), depth), strict=True):
        rows.setdefault(int(query), []).append(int(product))
    return [
        Open(
            str(data.query_ids[query]),
            Query(texts[query] or str(data.query_ids[query])),
            sorted((_product(data, titles, row) for row in rows[query]), key=lambda p: hash64(p.product_id)),
        )
        for query in random_order(data.query_ids).tolist()
        if query in rows
    ]


def judge_name(model: str) -> str:
    """How the judge is called in the file: lm:MODEL@ and the beginning of its prompt's SHA-256."""
    return f"{MACHINE}{model}@{prompt('judge').described['sha256'][:8]}"


def fill(found: Sequence[Open], file: Judgements, name: str, language: Language, tick: Callable[[], object]) -> int:
    """Grade the pairs, batch by batch, and append those that the judge has not graded yet; returns their number.

    Answers come from the ledger where it has them, so a second run sends nothing. An unusable one leaves pairs open.
    """
    count = 0
    for start in range(0, len(found), BATCH):
        batch = found[start : start + BATCH]
        grades, _ = judge([one.query for one in batch], [one.products for one in batch], 0.0, 0, language, tick)
        last = file.last()
        known = set(zip(*(last.loc[last["judge"] == name, key] for key in ("query_id", "product_id")), strict=True))
        new = [
            Judgement(one.query_id, product, STORED[grade], name)
            for one, graded in zip(batch, grades, strict=True)
            for product, grade in graded.items()
            if (one.query_id, product) not in known
        ]
        count += len(file.append(new))
    return count


def write_open(found: Sequence[Open], path: Path) -> None:
    """A table for people, with an empty column for the grades, which `Judgements.add_qrels` reads when it is filled."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["query_id", "query", "product_id", "title", "grade"])
        rows.writerows([one.query_id, one.query.text, p.product_id, p.title, ""] for one in found for p in one.products)


def _product(data: RankedData, titles: Sequence[str | None], row: int) -> Product:
    product = str(data.product_ids[row])
    return Product(product, (titles[row] or product)[:MOST_LETTERS], None)
