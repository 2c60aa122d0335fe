"""Curation: a category tree -> queries -> products -> pictures -> scores -> four splits that can be trained on.

The way in which MarqoGS-10M was made, for any domain; `gcl curate`. Every answer of the network is kept in a ledger, so
the data set is a function of the settings and of these answers, however often the making was interrupted.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gcl_toolkit.curate.settings import KEYS, CurateConfig, check, read_tree
from gcl_toolkit.errors import DataError
from gcl_toolkit.ranked_data import IMAGE, RankedData, four_way_split
from gcl_toolkit.runs import writable_folder, write_json
from gcl_toolkit.sources import check as checking
from gcl_toolkit.sources import table

__all__ = ["CurateConfig", "check", "curate"]

LEAST_QUERIES = 20
"""With products; fewer can't be split four ways and halved."""


def curate(config: CurateConfig, stage: Callable[[str, int], Callable[[], object]] = lambda *_: lambda: None) -> dict:
    """Make the data set in config.out, or go on with it; returns its card, with what is wrong with it under "problems".

    stage(name, steps) is called when a stage begins, what it returns after each step.
    """
    needed = check(config)
    keys = {service: os.environ.get(variable, "") for service, variable in KEYS.items()}
    out = writable_folder(config.out)
    from gcl_toolkit.curate.ledger import Ledger

    with Ledger(out / "ledger.sqlite", config.max_requests, config.max_cost, config.rate, keys.values()) as ledger:
        return _Curation(config, ledger, keys, needed, stage).run(out)


class _Curation:
    def __init__(self, config: CurateConfig, ledger, keys: dict[str, str], needed: dict[str, int], stage: Callable):
        from gcl_toolkit.curate import language, products

        self.config, self.ledger, self.needed, self.stage = config, ledger, needed, stage
        self.model = language.Language(config, ledger, keys["model"]) if config.model else None
        self.finder: products.Finder | None = None
        if config.searches_online:
            self.finder = products.Shopping(config, ledger, keys["search"])
        elif config.search:
            self.finder = products.open_table(config)
        self.card: dict[str, Any] = {"source": "gcl curate", "settings": config.described()}

    def run(self, out: Path) -> dict:
        from gcl_toolkit.curate.products import Results

        (out / "card.json").unlink(missing_ok=True)  # it is written last: with it the data set is whole
        if self.config.tree is None and not isinstance(self.finder, Results):
            raise DataError(f"{self.config.search} is a catalogue; name a file of categories to make queries from")
        queries = self._queries()
        with (out / "queries.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("query", "category", "intent"), *queries])
        if self.finder is None:
            return self._finish(out)
        lists = self._find([query.text for query in queries])
        pictures = self._pictures(lists)
        lists, merged = _merged(lists, pictures)
        scored = self._scores([query.text for query in queries], lists)
        kept = [row for row, pairs in enumerate(scored) if pairs]
        self.card["queries"]["without products"] = len(queries) - len(kept)
        if len(kept) < LEAST_QUERIES:
            raise DataError(
                f"{len(kept)} of {len(queries)} queries have products; at least {LEAST_QUERIES} are expected: "
                f"{out / 'queries.csv'} lists them; look whether the search answers them"
            )
        self.card["products"] = {"merged, since their picture is the same": merged}
        data = self._tables([(queries[row], lists[row], scored[row]) for row in kept], pictures)
        splits = four_way_split(data, seed=self.config.seed)
        table.write(splits, out)
        return self._finish(out, splits)

    # -- the stages ---------------------------------------------------------------------------------------------------

    def _queries(self) -> list:
        from gcl_toolkit.curate.queries import Query, make_queries

        if self.config.tree is None:
            found = [Query(text) for text in self.finder.queries[: self.config.queries]]
            self.card["queries"] = {"chosen": len(found)}
            return found
        leaves = read_tree(self.config.tree)
        tick = self.stage("queries", self.needed["queries"])
        found, self.card["queries"] = make_queries(
            leaves, self.config.queries, self.model, self.ledger, self.config.workers, tick
        )
        return found

    def _find(self, queries: Sequence[str]) -> list:
        return self.finder.find(queries, self.stage("products", len(queries)))

    def _pictures(self, lists: Sequence[Sequence]) -> dict[str, bytes]:
        """product_id -> JPEG; those without are counted by reason."""
        from gcl_toolkit.curate.images import Pictures, as_jpeg
        from gcl_toolkit.curate.ledger import Answer, Bad

        own = self.config.search if self.config.searches_online else ""
        fetcher, size = Pictures(self.ledger, own, self.config.image_size), self.config.image_size

        def picture(product) -> Answer:
            if not product.image:
                return Answer(None, "none given")
            if isinstance(product.image, str):
                return fetcher.fetch(product.image)
            try:
                return Answer(as_jpeg(product.image["bytes"] or Path(product.image["path"]).read_bytes(), size))
            except (Bad, OSError) as error:
                return Answer(None, str(error) if isinstance(error, Bad) else "no such file")

        products = list({product.product_id: product for found in reversed(lists) for product in found}.values())
        answers = self.ledger.each(picture, products, self.config.workers, self.stage("pictures", len(products)))
        reasons = Counter(answer.reason for answer in answers if not answer.body)
        self.card["pictures"] = {"kept": len(answers) - reasons.total(), "refused": dict(sorted(reasons.items()))}
        return {p.product_id: answer.body for p, answer in zip(products, answers, strict=True) if answer.body}

    def _scores(self, queries: Sequence[str], lists: Sequence[Sequence]) -> list[dict[str, tuple]]:
        """For each query product_id -> (score, position, grade or None); pairs graded 0 are no pairs."""
        scored = [{p.product_id: position for position, p in enumerate(found, start=1)} for found in lists]
        if self.config.scores != "judge":
            linear = self.config.scores == "linear"
            return [{p: (101.0 - at if linear else 100.0 / at, at, None) for p, at in s.items()} for s in scored]
        from gcl_toolkit.curate.judge import judge

        judged = (queries, lists, self.config.judged_twice, self.config.seed)
        tick = self.stage("judge", self.needed["judge"])
        grades, self.card["judge"] = judge(*judged, self.model, self.ledger, self.config.workers, tick)
        return [
            {p: (float(g[p]), at, g[p]) for p, at in s.items() if g.get(p)} for s, g in zip(scored, grades, strict=True)
        ]

    def _tables(self, rows: Sequence[tuple], pictures: dict[str, bytes]) -> RankedData:
        from gcl_toolkit.curate.products import as_image

        products = {p.product_id: p for _, found, _ in reversed(rows) for p in found}
        ids = sorted(products)
        names = [f"q{number:05d}" for number in range(len(rows))]
        pairs = [
            (name, product, *values) for name, (_, _, s) in zip(names, rows, strict=True) for product, values in s.items()
        ]
        query_id, product_id, score, position, grade = zip(*pairs, strict=True)
        columns = {"query_id": query_id, "product_id": product_id, "score": score, "position": position}
        about = {"category": [q.category or None for q, _, _ in rows], "intent": [q.intent or None for q, _, _ in rows]}
        known = {f"query_{name}": pa.array(values, pa.string()) for name, values in about.items()}
        self.card["products"] |= {"in all": len(ids), "without a picture": sum(p not in pictures for p in ids)}
        self.card |= {"prompts": self._prompts(), "made with": self._versions()}
        return RankedData(
            pa.table({"query_id": names, "query": [query.text for query, _, _ in rows], **known}),
            pa.table(
                {
                    "product_id": ids,
                    "image": pa.array([as_image(pictures.get(product)) for product in ids], IMAGE),
                    "title": pa.array([products[product].title or None for product in ids], pa.string()),
                }
            ),
            pa.table({**columns, **({"grade": grade} if any(grade) else {})}),
            "curated",
            self.card,
        )

    # -- the card -----------------------------------------------------------------------------------------------------

    def _prompts(self) -> dict:
        from gcl_toolkit.curate.language import prompt

        used = [*(["queries"] if self.config.tree else []), *(["judge"] if self.config.scores == "judge" else [])]
        return {name: prompt(name).described for name in used}

    def _versions(self) -> dict[str, str]:
        from gcl_toolkit.doctor import version

        return {name: str(version(name)) for name in ("gcl-toolkit", "openai", "pillow")}

    def _finish(self, out: Path, splits: dict[str, RankedData] | None = None) -> dict:
        """Look at what was written as its reader will, and write the card with all that it has cost."""
        card = dict(self.card)
        if splits:
            facts, card["problems"] = checking.check(out, None)
            card["splits"] = {name: str(data) for name, data in splits.items()}
            card["checked"] = facts
        card["spent, over all restarts"] = self.ledger.spent()
        write_json(out / "card.json", card)
        return card


def _merged(lists: Sequence[Sequence], pictures: dict[str, bytes]) -> tuple[list[list], int]:
    """Products with the same picture as one (the first): else a picture would be trained on and held out."""
    first: dict[bytes, str] = {}
    same = {product: first.setdefault(hashlib.sha256(p).digest(), product) for product, p in sorted(pictures.items())}
    merged = []
    for products in lists:
        best: dict[str, Any] = {}
        for p in products:
            best.setdefault(same.get(p.product_id, p.product_id), p)
        merged.append([p._replace(product_id=product) for product, p in best.items()])
    return merged, sum(product != kept for product, kept in same.items())
