"""The shop: a generated catalogue with pictures, queries and a hidden shopping engine; a function of its seed.

A query's list holds up to 100 products, best first, by

    relevance = attribute match + brand prior + looks prior + popularity + noise

- attribute match: the category, and each colour, pattern, size (visible in the picture), brand, material, style (where
  the title names it) that the query asks for; `engine.MATCH`. Candidates are the products of the query's category
  group, or of the categories that serve its occasion (`words.OCCASIONS`).
- brand prior: a fixed quality of each brand, readable in the titles that name the brand (`catalogue.TITLED`).
- looks prior: preferred colours and backgrounds, and each category's preferred patterns and colours; visible.
- popularity: one number per product, visible nowhere.  noise: one number per (query, product).

Match and priors apply to new queries and new products alike, so they can be learnt; popularity and noise cannot. The
data card states how much that leaves: NDCG@10 of rankings that know the engine in part.

To add a category: its drawing `art/<category>.svg`, and one line in `words.toml`.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa

from gcl_toolkit.data.ranked_data import IMAGE, RankedData, four_way_split
from gcl_toolkit.data.sources.shop.catalogue import PICTURED, Catalogue, make_catalogue
from gcl_toolkit.data.sources.shop.draw import contact_sheet, to_pngs
from gcl_toolkit.data.sources.shop.engine import MATCH, make_engine
from gcl_toolkit.data.sources.shop.queries import KINDS, Query, make_queries
from gcl_toolkit.data.sources.shop.words import FACETS
from gcl_toolkit.errors import UserError

__all__ = ["ShopConfig", "contact_sheet", "load", "make_shop", "thin"]

PAIRS_PER_PRODUCT = 2.0
"""As in MarqoGS-10M: 10 million pairs, 5 million products."""


@dataclass(frozen=True)
class ShopConfig:
    """Size of the shop and standard deviations of the engine's parts (an attribute that matches adds .6 to 1)."""

    products: int = 6_000
    queries: int = 1_000
    seed: int = 0
    size: int = 64
    """Width and height of a picture, pixels."""
    per_query: int = 100
    """Products listed per query, at most 100. A category has products / 30; with longer lists the order is mostly that
    of the categories, which is easy to learn."""
    brand: float = 0.6
    looks: float = 0.6
    popularity: float = 0.35
    noise: float = 0.5

    def __post_init__(self):
        if self.products < len(FACETS["category"]) or self.queries < 1:
            raise UserError(
                f"shop: products={self.products}, queries={self.queries}; expected at least 1 query and "
                f"{len(FACETS['category'])} products, one per category"
            )
        if not 1 <= self.per_query <= 100:
            raise UserError(f"shop: per_query={self.per_query}; expected 1 to 100, because score = 101 - position")


OPTIONS = ShopConfig
"""Further options of `load`, for `gcl_toolkit.data.sources.load`."""


def make_shop(config: ShopConfig | None = None) -> RankedData:
    """The whole shop: queries(query), corpus(image, title, category), qrels(score = 101 - position, position)."""
    config = config or ShopConfig()
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(4)]
    catalogue = make_catalogue(config.products, streams[0])
    queries = make_queries(config.queries, streams[1])
    strengths = {part: getattr(config, part) for part in ("brand", "looks", "popularity", "noise")}
    engine = make_engine(catalogue, queries, strengths, streams[2])
    listed = engine.rank(config.per_query)
    card = _card(config, catalogue, queries, listed) | {"NDCG@10 of ranking by": engine.ceilings(listed, streams[3])}
    return RankedData(_queries(queries), _corpus(catalogue, config.size), _qrels(listed), "shop", card)


def load(seed: int = 0, sparse: bool = False, **config) -> dict[str, RankedData]:
    """The four splits of a shop; the other options are those of `ShopConfig`.

    sparse: thin the training pairs to the 2 per product of MarqoGS-10M (`thin`). The three evaluation splits are not
    thinned, so that the cost of sparseness is measured on the same lists.
    """
    splits = four_way_split(make_shop(ShopConfig(seed=seed, **config)), seed=seed)
    if sparse:
        splits["in_domain"] = thin(splits["in_domain"], seed=seed)
    return splits


def thin(data: RankedData, pairs_per_product: float = PAIRS_PER_PRODUCT, seed: int = 0) -> RankedData:
    """Keep about `pairs_per_product` pairs per product: of each query's list, evenly spaced positions from a random
    start, so that the scores still cover their range."""
    query, _, score = data.pairs
    share = pairs_per_product * data.corpus.num_rows / len(score)
    best_first = np.lexsort((-score, query))
    query = query[best_first]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    start = np.random.default_rng(seed).random(data.queries.num_rows)[query]
    kept = np.floor(start + share * (rank + 1)) > np.floor(start + share * rank)
    card = data.card | {"share of pairs kept": min(share, 1.0)}
    return replace(data, qrels=data.qrels.take(pa.array(np.sort(best_first[kept]))), card=card)


def _queries(queries: list[Query]) -> pa.Table:
    return pa.table({"query_id": [_id("q", i) for i in range(len(queries))], "query": [q.text for q in queries]})


def _corpus(catalogue: Catalogue, size: int) -> pa.Table:
    pngs = to_pngs([catalogue.look(product) for product in range(len(catalogue))], size)
    images = [{"bytes": png, "path": None} for png in pngs]
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


def _card(config: ShopConfig, catalogue: Catalogue, queries: list[Query], listed: list[np.ndarray]) -> dict:
    pairs = sum(map(len, listed))
    kinds = [query.kind for query in queries]
    return {
        "name": "shop",
        "made by": "generated; no real product, brand or person",
        "config": asdict(config),
        "pairs": pairs,
        "pairs per product": pairs / len(catalogue),
        "pairs per query": pairs / len(queries),
        "products listed at least once": len(np.unique(np.concatenate(listed))) / len(catalogue),
        "queries by kind": {kind: kinds.count(kind) for kind in KINDS},
        "values": {facet: list(names) for facet, names in FACETS.items()},
        "seen in the picture": list(PICTURED),
        "title names": {facet: float(titled.mean()) for facet, titled in catalogue.titled.items()},
        "positions": "relevance = attribute match + brand prior + looks prior + hidden popularity + noise; "
        "score = 101 - position",
        "match weights": MATCH,
    }
