"""The shop: a generated catalogue with pictures, queries and a hidden shopping engine; a function of its seed.

A query's list holds up to 100 products, best first, by

    relevance = attribute match + brand prior + looks prior + popularity + noise

- attribute match: the category, and each colour, pattern, size (seen in the picture), brand, material, style (where the
  title names it) that the query asks for; `engine.MATCH`. Candidates are the products of the query's category group, or
  of the categories that serve its occasion (`words.OCCASIONS`).
- brand prior: a fixed quality of each brand, readable in the titles that name the brand (`catalogue.TITLED`).
- looks prior: liked colours and backgrounds, and each category's liked patterns and colours; seen in the picture.
- popularity: one number a product, visible nowhere.  noise: one number a (query, product).

Match and priors hold for new queries and new products alike, so they can be learnt; popularity and noise cannot. The
data card says how much that leaves: NDCG@10 of rankings that know the engine in part.

To add a category: one `Template` in `art.py`, one `Word` in `words.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa

from gcl_toolkit.errors import UserError
from gcl_toolkit.ranked_data import IMAGE, RankedData, four_way_split
from gcl_toolkit.sources.shop.catalogue import FACETS, PICTURED, Catalogue, make_catalogue
from gcl_toolkit.sources.shop.draw import contact_sheet, to_png
from gcl_toolkit.sources.shop.engine import MATCH, make_engine
from gcl_toolkit.sources.shop.wishes import Wish, make_wishes

__all__ = ["ShopConfig", "contact_sheet", "load", "make_shop", "thin"]

PAIRS_PER_PRODUCT = 2.0
"""Of MarqoGS-10M: 10 million pairs, 5 million products."""


@dataclass(frozen=True)
class ShopConfig:
    """Size of the shop and standard deviations of the engine's parts (an attribute that matches adds .6 to 1)."""

    products: int = 6_000
    queries: int = 1_000
    seed: int = 0
    size: int = 64
    """Width and height of a picture, pixels."""
    per_query: int = 100
    """Products listed for a query, at most 100. A category has products / 30; list fewer than that, or the order is
    mostly that of the categories, which is easy."""
    brand: float = 0.6
    looks: float = 0.6
    popularity: float = 0.35
    noise: float = 0.5

    def __post_init__(self):
        if self.products < len(FACETS["category"]) or self.queries < 1:
            raise UserError(
                f"shop: {self.products} products and {self.queries} queries; at least 1 query and "
                f"{len(FACETS['category'])} products, one of each category, are expected"
            )
        if not 1 <= self.per_query <= 100:
            raise UserError(f"shop: per_query is {self.per_query}; 1 to 100 is expected, since score = 101 - position")


def make_shop(config: ShopConfig | None = None, progress: Callable[[int, int], None] | None = None) -> RankedData:
    """The whole shop: queries(query), corpus(image, title, category), qrels(score = 101 - position, position).

    `progress(done, products)` is called while the pictures are drawn.
    """
    config = config or ShopConfig()
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(4)]
    catalogue = make_catalogue(config.products, streams[0])
    wishes = make_wishes(config.queries, streams[1])
    strengths = {part: getattr(config, part) for part in ("brand", "looks", "popularity", "noise")}
    engine = make_engine(catalogue, wishes, strengths, streams[2])
    listed = engine.rank(config.per_query)
    card = _card(config, catalogue, wishes, listed, engine.ceilings(listed, streams[3]))
    return RankedData(_queries(wishes), _corpus(catalogue, config.size, progress), _qrels(listed), "shop", card)


def load(
    seed: int = 0, sparse: bool = False, progress: Callable[[int, int], None] | None = None, **config
) -> dict[str, RankedData]:
    """The four splits of a shop; the further options are those of `ShopConfig`.

    sparse: only the training pairs are thinned, to the 2 per product of MarqoGS-10M (`thin`); the three splits that
    hold something out stay whole, so that what sparseness costs is measured on the same lists.
    """
    splits = four_way_split(make_shop(ShopConfig(seed=seed, **config), progress), seed=seed)
    if sparse:
        splits["in_domain"] = thin(splits["in_domain"], seed=seed)
    return splits


def thin(data: RankedData, pairs_per_product: float = PAIRS_PER_PRODUCT, seed: int = 0) -> RankedData:
    """Keep so many pairs: from each query's list evenly spaced positions with a random start, so that scores spread."""
    query, _, score = data.pairs
    share = pairs_per_product * data.corpus.num_rows / len(score)
    best_first = np.lexsort((-score, query))
    query = query[best_first]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    start = np.random.default_rng(seed).random(data.queries.num_rows)[query]
    kept = np.floor(start + share * (rank + 1)) > np.floor(start + share * rank)
    card = data.card | {"share of pairs kept": min(share, 1.0)}
    return replace(data, qrels=data.qrels.take(pa.array(np.sort(best_first[kept]))), card=card)


def _queries(wishes: list[Wish]) -> pa.Table:
    return pa.table({"query_id": [_id("q", i) for i in range(len(wishes))], "query": [wish.text for wish in wishes]})


def _corpus(catalogue: Catalogue, size: int, progress: Callable[[int, int], None] | None) -> pa.Table:
    images = []
    for product in range(len(catalogue)):
        images.append({"bytes": to_png(catalogue.look(product), size), "path": None})
        if progress:
            progress(product + 1, len(catalogue))
    categories = list(FACETS["category"])
    return pa.table(
        {
            "product_id": [_id("p", i) for i in range(len(catalogue))],
            "image": pa.array(images, IMAGE),
            "title": catalogue.titles,
            "category": [categories[c] for c in catalogue.values["category"]],
        }
    )


def _qrels(listed: list[np.ndarray]) -> pa.Table:
    position = np.concatenate([np.arange(1, len(products) + 1) for products in listed])
    return pa.table(
        {
            "query_id": [_id("q", q) for q, products in enumerate(listed) for _ in products],
            "product_id": [_id("p", p) for p in np.concatenate(listed)],
            "score": 101.0 - position,
            "position": position,
        }
    )


def _id(kind: str, number: int) -> str:
    return f"{kind}{number:05d}"


def _card(
    config: ShopConfig, catalogue: Catalogue, wishes: list[Wish], listed: list[np.ndarray], ceilings: dict
) -> dict:
    pairs = sum(map(len, listed))
    kinds = [wish.kind for wish in wishes]
    return {
        "name": "shop",
        "made by": "generated; no real product, brand or person",
        "config": asdict(config),
        "pairs": pairs,
        "pairs per product": pairs / len(catalogue),
        "pairs per query": pairs / len(wishes),
        "products listed at least once": len(np.unique(np.concatenate(listed))) / len(catalogue),
        "queries by kind": {kind: kinds.count(kind) for kind in ("category", "group", "occasion")},
        "values": {facet: list(names) for facet, names in FACETS.items()},
        "seen in the picture": list(PICTURED),
        "title names": {facet: float(titled.mean()) for facet, titled in catalogue.titled.items()},
        "positions": "relevance = attribute match + brand prior + looks prior + hidden popularity + noise; "
        "score = 101 - position",
        "match weights": MATCH,
        "NDCG@10 of ranking by": ceilings,
    }
