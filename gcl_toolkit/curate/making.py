"""The stages of a curated data set, one after the other, and its card."""

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from gcl_toolkit.curate.images import Pictures, as_jpeg
from gcl_toolkit.curate.judge import Lists, judge
from gcl_toolkit.curate.language import Language, prompt
from gcl_toolkit.curate.ledger import Answer, Bad, Ledger
from gcl_toolkit.curate.products import Catalogue, Product, Results, Shopping, open_table
from gcl_toolkit.curate.queries import Query, make_queries
from gcl_toolkit.curate.settings import CurateConfig, read_tree
from gcl_toolkit.data.ranked_data import IMAGE, RankedData, four_way_split
from gcl_toolkit.data.sources import check as checking
from gcl_toolkit.data.sources import table
from gcl_toolkit.errors import DataError
from gcl_toolkit.files import write_json
from gcl_toolkit.machine import version

LEAST_QUERIES = 20
"""With products; fewer can't be split four ways and halved."""


Scored = list[tuple[str, float, int, int | None]]
"""A query's pairs: product_id, score, position, and the grade of a judge."""


class Making:
    """One run of `curate`; everything local is opened here, before the first request."""

    def __init__(self, config: CurateConfig, ledger: Ledger, keys: dict[str, str], needed: dict[str, int], stage: Any):
        self.config, self.ledger, self.needed, self.stage = config, ledger, needed, stage
        self.model = Language(config, ledger, keys["model_url"])
        self.fetcher = Pictures(ledger, config.search, config.image_size)
        self.finder: Shopping | Catalogue | Results | None = None
        if config.searches_online:
            self.finder = Shopping(config, ledger, keys["search"])
        elif config.search:
            self.finder = open_table(config)
        if not config.tree and not isinstance(self.finder, Results):
            raise DataError(f"{config.search} has no column 'query'; a catalogue also needs a file of categories")
        prompts = {"queries": config.tree, "judge": config.scores == "judge"}
        self.card: dict[str, Any] = {
            "source": "gcl curate",
            "settings": config.described(),
            "prompts": {name: prompt(name).described for name, used in prompts.items() if used},
            "made with": {package: version(package) for package in ("gcl-toolkit", "openai")},
        }

    def close(self) -> None:
        self.model.close()
        self.fetcher.close()
        if isinstance(self.finder, Shopping):
            self.finder.close()

    def run(self) -> dict:
        out = self.config.out
        (out / "card.json").unlink(missing_ok=True)  # written last: its presence marks a complete data set
        queries = self._queries()
        with (out / "queries.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("query", "category", "intent"), *queries])
        if self.finder:
            lists = self.finder.find([query.text for query in queries], self.stage("products", len(queries)))
            splits = four_way_split(self._data(queries, lists), seed=self.config.seed)
            table.write(splits, out)
            _, self.card["problems"] = checking.check(out, None)
            self.card["splits"] = {name: str(data).split("; ")[0].split(": ")[1] for name, data in splits.items()}
        self.card["spent, over all restarts"] = self.ledger.spent()
        self.card["written"] = date.today().isoformat()
        write_json(out / "card.json", self.card)
        return self.card

    def _queries(self) -> list[Query]:
        if isinstance(self.finder, Results) and not self.config.tree:
            queries = [Query(text) for text in self.finder.queries[: self.config.queries]]
            self.card["queries"] = {"chosen": len(queries)}
        else:
            assert self.config.tree
            size = (self.config.queries, self.config.seed)
            tick = self.stage("queries", self.needed["queries"])
            queries, self.card["queries"] = make_queries(read_tree(self.config.tree), *size, self.model, tick)
        return queries

    def _data(self, queries: Sequence[Query], lists: Lists) -> RankedData:
        pictures = self._pictures(lists)
        lists, merged = _merged(lists, pictures)
        scored = self._scores(queries, lists)
        rows = [row for row in zip(queries, lists, scored, strict=True) if row[-1]]
        self.card["queries"]["without products"] = len(queries) - len(rows)
        if len(rows) < LEAST_QUERIES:
            raise DataError(
                f"{len(rows)} of {len(queries)} queries have products; at least {LEAST_QUERIES} are expected. "
                f"{self.config.out / 'queries.csv'} lists them: does the search cover such products?"
            )
        products = _by_id([products for _, products, _ in rows])
        self.card["products"] = {
            "in all": len(products),
            "merged, since their picture is the same": merged,
            "without a picture": sum(product not in pictures for product in products),
        }
        return _tables([(query, pairs) for query, _, pairs in rows], products, pictures, dict(self.card))

    def _pictures(self, lists: Lists) -> dict[str, bytes]:
        """product_id -> JPEG; products without one are counted by reason."""
        products = _by_id(lists)
        images = {str(p.image): p.image for p in products.values()}  # sellers share addresses
        answers = self.ledger.each(self._picture, images.values(), self.stage("pictures", len(images)))
        by_image = dict(zip(images, answers, strict=True))
        pictures = {product: by_image[str(p.image)] for product, p in products.items()}
        reasons = Counter(answer.reason for answer in pictures.values() if not answer.body)
        self.card["pictures"] = {"kept": len(pictures) - reasons.total(), "left out": dict(sorted(reasons.items()))}
        return {product: answer.body for product, answer in pictures.items() if answer.body}

    def _picture(self, image: Any) -> Answer:
        if not image:
            return Answer(None, "none given")
        if isinstance(image, str):
            return self.fetcher.fetch(image)
        try:
            return Answer(as_jpeg(image["bytes"] or Path(image["path"]).read_bytes(), self.config.image_size))
        except Bad as bad:
            return Answer(None, str(bad))
        except OSError:
            return Answer(None, "no such file")

    def _scores(self, queries: Sequence[Query], lists: Lists) -> list[Scored]:
        """A judge leaves out pairs that it grades 0 or not at all."""
        ranked = [[(p.product_id, rank) for rank, p in enumerate(products, start=1)] for products in lists]
        if self.config.scores != "judge":
            linear = self.config.scores == "linear"
            return [[(p, 101.0 - rank if linear else 100 / rank, rank, None) for p, rank in pairs] for pairs in ranked]
        options = (self.config.judged_twice, self.config.seed)
        graded, self.card["judge"] = judge(
            queries, lists, *options, self.model, self.stage("judge", self.needed["judge"])
        )
        return [
            [(p, float(grades[p]), rank, grades[p]) for p, rank in pairs if grades.get(p)]
            for pairs, grades in zip(ranked, graded, strict=True)
        ]


def _by_id(lists: Lists) -> dict[str, Product]:
    """product_id -> its first product."""
    return {p.product_id: p for products in reversed(lists) for p in reversed(products)}


def _merged(lists: Lists, pictures: dict[str, bytes]) -> tuple[list[list[Product]], int]:
    """The lists with products of the same picture as one, which else could be both trained on and held out, and how
    many were merged. Products with neither a picture nor a title are dropped."""
    first: dict[bytes, str] = {}
    same = {product: first.setdefault(hashlib.sha256(p).digest(), product) for product, p in sorted(pictures.items())}
    merged = []
    for products in lists:
        best: dict[str, Product] = {}
        for p in products:
            if p.title or p.product_id in pictures:
                best.setdefault(same.get(p.product_id, p.product_id), p)
        merged.append([p._replace(product_id=product) for product, p in best.items()])
    return merged, sum(product != kept for product, kept in same.items())


def _tables(
    rows: Sequence[tuple[Query, Scored]], products: dict[str, Product], pictures: dict[str, bytes], card: dict
) -> RankedData:
    ids, names = sorted(products), [f"q{number:05d}" for number in range(len(rows))]
    pairs = [(name, *pair) for name, (_, scored) in zip(names, rows, strict=True) for pair in scored]
    qrels = dict(zip(("query_id", "product_id", "score", "position", "grade"), zip(*pairs, strict=True), strict=True))
    if not qrels["grade"][0]:
        del qrels["grade"]
    queries = {"query_id": names, "query": [query.text for query, _ in rows]}
    if rows[0][0].category:
        queries |= {f"query_{name}": [getattr(query, name) for query, _ in rows] for name in ("category", "intent")}
    images = [{"bytes": pictures[product], "path": None} if product in pictures else None for product in ids]
    titles = [products[product].title or None for product in ids]
    corpus = {"product_id": ids, "image": pa.array(images, IMAGE), "title": titles}
    return RankedData(pa.table(queries), pa.table(corpus), pa.table(qrels), "curated", card)
