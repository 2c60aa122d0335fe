"""The making of a data set, stage after stage, and its card."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from gcl_toolkit.curate.images import Pictures, as_jpeg
from gcl_toolkit.curate.judge import judge
from gcl_toolkit.curate.language import Language, prompt
from gcl_toolkit.curate.ledger import Answer, Bad, Ledger
from gcl_toolkit.curate.products import Finder, Product, Results, Shopping, open_table
from gcl_toolkit.curate.queries import Query, make_queries
from gcl_toolkit.curate.settings import CurateConfig, read_tree
from gcl_toolkit.doctor import version
from gcl_toolkit.errors import DataError
from gcl_toolkit.ranked_data import IMAGE, RankedData, four_way_split
from gcl_toolkit.runs import write_json
from gcl_toolkit.sources import check as checking
from gcl_toolkit.sources import table

LEAST_QUERIES = 20
"""With products; fewer can't be split four ways and halved."""

Lists = Sequence[Sequence[Product]]
Scores = dict[str, tuple[float, int, int | None]]
"""product_id -> score, position, grade if it was judged."""


class Making:
    """One run of `curate`; everything local is opened here, before the first request."""

    def __init__(self, config: CurateConfig, ledger: Ledger, keys: dict[str, str], needed: dict[str, int], stage: Any):
        self.config, self.ledger, self.needed, self.stage = config, ledger, needed, stage
        self.leaves = read_tree(config.tree) if config.tree else []
        self.model = Language(config, ledger, keys["model"])
        self.fetcher = Pictures(ledger, config.search, config.image_size)
        self.finder: Finder | None = None
        if config.searches_online:
            self.finder = Shopping(config, ledger, keys["search"])
        elif config.search:
            self.finder = open_table(config)
        if not config.tree and not isinstance(self.finder, Results):
            raise DataError(f"{config.search} has no column 'query'; a catalogue needs a file of categories too")
        self.card: dict[str, Any] = {"source": "gcl curate", "settings": config.described()}
        self.card |= {"prompts": self._prompts(), "made with": {p: version(p) for p in ("gcl-toolkit", "openai")}}

    def close(self) -> None:
        self.model.close()
        self.fetcher.close()
        if isinstance(self.finder, Shopping):
            self.finder.close()

    def run(self) -> dict:
        out = self.config.out
        (out / "card.json").unlink(missing_ok=True)  # it is written last: with it the data set is whole
        queries = self._queries()
        with (out / "queries.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("query", "category", "intent"), *queries])
        if self.finder is None:
            return self._finish()
        lists = self.finder.find([query.text for query in queries], self.stage("products", len(queries)))
        pictures = self._pictures(lists)
        lists, merged = _merged(lists, pictures)
        scored = self._scores(queries, lists)
        rows = [row for row in zip(queries, lists, scored, strict=True) if row[-1]]
        self.card["queries"]["without products"] = len(queries) - len(rows)
        if len(rows) < LEAST_QUERIES:
            raise DataError(
                f"{len(rows)} of {len(queries)} queries have products; at least {LEAST_QUERIES} are expected. "
                f"{out / 'queries.csv'} lists them: does the search know such products?"
            )
        products = {p.product_id: p for _, found, _ in reversed(rows) for p in found}
        self.card["products"] = {
            "in all": len(products),
            "merged, since their picture is the same": merged,
            "without a picture": sum(product not in pictures for product in products),
        }
        data = _tables(rows, products, pictures, self.card)
        splits = four_way_split(data, seed=self.config.seed)
        table.write(splits, out)
        return self._finish(splits)

    # -- the stages ---------------------------------------------------------------------------------------------------

    def _queries(self) -> list[Query]:
        if isinstance(self.finder, Results) and not self.leaves:
            found = [Query(text) for text in self.finder.queries[: self.config.queries]]
            self.card["queries"] = {"chosen": len(found)}
            return found
        tick = self.stage("queries", self.needed["queries"])
        asked = (self.leaves, self.config.queries, self.config.seed, self.model, self.ledger, self.config.workers, tick)
        found, self.card["queries"] = make_queries(*asked)
        return found

    def _pictures(self, lists: Lists) -> dict[str, bytes]:
        """product_id -> JPEG; those without are counted by reason."""
        products = {p.product_id: p for found in reversed(lists) for p in reversed(found)}
        images = {str(p.image): p.image for p in products.values()}  # sellers share addresses
        tick = self.stage("pictures", len(images))
        answers = self.ledger.each(self._picture, images.values(), self.config.workers, tick)
        known = dict(zip(images, answers, strict=True))
        of = {product: known[str(p.image)] for product, p in products.items()}
        reasons = Counter(answer.reason for answer in of.values() if not answer.body)
        self.card["pictures"] = {"kept": len(of) - reasons.total(), "left out": dict(sorted(reasons.items()))}
        return {product: answer.body for product, answer in of.items() if answer.body}

    def _picture(self, image: Any) -> Answer:
        if not image:
            return Answer(None, "none given")
        if isinstance(image, str):
            return self.fetcher.fetch(image)
        try:
            return Answer(as_jpeg(image["bytes"] or Path(image["path"]).read_bytes(), self.config.image_size))
        except (Bad, OSError) as error:
            return Answer(None, str(error) if isinstance(error, Bad) else "no such file")

    def _scores(self, queries: Sequence[Query], lists: Lists) -> list[Scores]:
        """For each query; pairs graded 0, or not at all by a judge, are no pairs."""
        positions = [{p.product_id: at for at, p in enumerate(found, start=1)} for found in lists]
        if self.config.scores != "judge":
            linear = self.config.scores == "linear"
            return [{p: (101.0 - at if linear else 100 / at, at, None) for p, at in s.items()} for s in positions]
        tick = self.stage("judge", self.needed["judge"])
        asked = (queries, lists, self.config.judged_twice, self.config.seed)
        graded, self.card["judge"] = judge(*asked, self.model, self.ledger, self.config.workers, tick)
        return [
            {p: (float(grades[p]), at, grades[p]) for p, at in s.items() if grades.get(p)}
            for s, grades in zip(positions, graded, strict=True)
        ]

    # -- the card -----------------------------------------------------------------------------------------------------

    def _prompts(self) -> dict:
        used = [*(["queries"] if self.config.tree else []), *(["judge"] if self.config.scores == "judge" else [])]
        return {name: prompt(name).described for name in used}

    def _finish(self, splits: dict[str, RankedData] | None = None) -> dict:
        """Look at what was written as its reader will, and write the card with all that it has cost."""
        card = dict(self.card)
        if splits:
            _, card["problems"] = checking.check(self.config.out, None)
            card["splits"] = {name: str(data).split("; ")[0].split(": ")[1] for name, data in splits.items()}
        card["spent, over all restarts"] = self.ledger.spent()
        card["written"] = date.today().isoformat()
        write_json(self.config.out / "card.json", card)
        return card


def _tables(rows: Sequence[tuple], products: dict[str, Product], pictures: dict[str, bytes], card: dict) -> RankedData:
    """RankedData of (query, its products, its scores)."""
    ids, names = sorted(products), [f"q{number:05d}" for number in range(len(rows))]
    pairs = [(name, p, *s) for name, (_, _, scores) in zip(names, rows, strict=True) for p, s in scores.items()]
    query_id, product_id, score, position, grade = zip(*pairs, strict=True)
    images = [{"bytes": pictures[product], "path": None} if product in pictures else None for product in ids]
    queries = {"query_id": names, "query": [query.text for query, _, _ in rows]}
    for column in ("category", "intent"):
        queries[f"query_{column}"] = [getattr(query, column) for query, _, _ in rows]
    qrels = {"query_id": query_id, "product_id": product_id, "score": score, "position": position}
    return RankedData(
        pa.table(queries if rows[0][0].category else {name: queries[name] for name in ("query_id", "query")}),
        pa.table(
            {
                "product_id": ids,
                "image": pa.array(images, IMAGE),
                "title": [products[product].title or None for product in ids],
            }
        ),
        pa.table({**qrels, "grade": grade} if grade[0] else qrels),
        "curated",
        card,
    )


def _merged(lists: Lists, pictures: dict[str, bytes]) -> tuple[list[list[Product]], int]:
    """Products with the same picture as one: else a picture could be trained on and held out. Those with neither a
    picture nor a title are left out."""
    first: dict[bytes, str] = {}
    same = {product: first.setdefault(hashlib.sha256(p).digest(), product) for product, p in sorted(pictures.items())}
    merged = []
    for products in lists:
        best: dict[str, Product] = {}
        for p in (p for p in products if p.title or p.product_id in pictures):
            best.setdefault(same.get(p.product_id, p.product_id), p)
        merged.append([p._replace(product_id=product) for product, p in best.items()])
    return merged, sum(product != kept for product, kept in same.items())
