"""The hidden shopping engine: what it prefers, how it ranks, and how well its lists could be predicted."""

from dataclasses import dataclass

import numpy as np

from gcl_toolkit.data.sources.shop.catalogue import Catalogue
from gcl_toolkit.data.sources.shop.queries import Query
from gcl_toolkit.data.sources.shop.words import FACETS

MATCH = {"category": 3.0, "colour": 1.0, "pattern": 1.0, "material": 0.8, "style": 0.8, "size": 0.6, "brand": 0.8}
"""Facet -> what a match in it adds. The category outweighs the rest, so that siblings only fill up short lists."""

LOOKS = {"background": 0.45, "colour": 0.25, "pattern of a category": 0.15, "colour of a category": 0.15}
"""Relative weights of the preferences for how a product looks."""


@dataclass(frozen=True)
class Engine:
    """The parts of relevance for Q queries and P products; their sum ranks a query's candidates."""

    match_QxP: np.ndarray
    """Attribute match, visible; -inf where the product isn't a candidate."""
    prior_P: np.ndarray
    """Brand (where the title names it) and looks: visible, the same for every query."""
    hidden_P: np.ndarray
    """Popularity, and the brands that titles leave out."""
    noise_QxP: np.ndarray

    def rank(self, per_query: int) -> list[np.ndarray]:
        """For each query up to `per_query` product numbers, best first."""
        score_QxP = self.match_QxP + (self.prior_P + self.hidden_P) + self.noise_QxP
        order_QxP = np.argsort(-score_QxP, axis=1, kind="stable")[:, :per_query]
        return [order[np.isfinite(score[order])] for order, score in zip(order_QxP, score_QxP, strict=True)]

    def ceilings(self, listed: list[np.ndarray], rng: np.random.Generator) -> dict[str, dict[str, float]]:
        """Mean NDCG@10 of ranking by a part of the engine's knowledge (ties at random), for the whole corpus and for a
        random half of it, which is what each split holds."""
        gain_QxP = np.zeros_like(self.match_QxP)
        for gain_P, products in zip(gain_QxP, listed, strict=True):
            gain_P[products] = 100 - np.arange(len(products))
        tie_P = 1e-5 * rng.random(len(self.prior_P), np.float32)
        half = rng.permutation(len(tie_P))[: len(tie_P) // 2]
        known = {
            "all but noise": self.match_QxP + (self.prior_P + self.hidden_P),
            "all that is visible": self.match_QxP + self.prior_P,
            "attribute match alone": self.match_QxP + tie_P,
            "random": np.broadcast_to(tie_P, gain_QxP.shape),
        }
        return {
            part: {name: _ndcg_at_10(score_QxP[:, kept], gain_QxP[:, kept]) for name, score_QxP in known.items()}
            for part, kept in (("whole corpus", np.arange(len(tie_P))), ("half, as in a split", half))
        }


def make_engine(
    catalogue: Catalogue, queries: list[Query], strengths: dict[str, float], rng: np.random.Generator
) -> Engine:
    """`strengths`: standard deviations of the parts "brand", "looks", "popularity" and "noise"."""
    brand_P = strengths["brand"] * _preferences("brand", rng)[catalogue.values["brand"]]
    looks_P = strengths["looks"] * _looks(catalogue, rng)
    popularity_P = strengths["popularity"] * rng.standard_normal(len(catalogue))
    named_P = catalogue.titled["brand"]
    return Engine(
        _match(catalogue, queries),
        (looks_P + brand_P * named_P).astype(np.float32),
        (popularity_P + brand_P * ~named_P).astype(np.float32),
        strengths["noise"] * rng.standard_normal((len(queries), len(catalogue)), np.float32),
    )


def _ndcg_at_10(score_QxP: np.ndarray, gain_QxP: np.ndarray) -> float:
    """Mean over the queries with a gain > 0."""
    k = min(10, score_QxP.shape[1])
    top_Qxk = np.argpartition(-score_QxP, k - 1, axis=1)[:, :k]
    order_Qxk = np.argsort(-np.take_along_axis(score_QxP, top_Qxk, axis=1), axis=1)
    ranked_Qxk = np.take_along_axis(gain_QxP, np.take_along_axis(top_Qxk, order_Qxk, axis=1), axis=1)
    ideal_Qxk = -np.sort(-gain_QxP, axis=1)[:, :k]
    dcg_Q, ideal_Q = ((gains_Qxk / np.log2(np.arange(k) + 2)).sum(axis=1) for gains_Qxk in (ranked_Qxk, ideal_Qxk))
    return float((dcg_Q[ideal_Q > 0] / ideal_Q[ideal_Q > 0]).mean())


def _match(catalogue: Catalogue, queries: list[Query]) -> np.ndarray:
    match_QxP = np.zeros((len(queries), len(catalogue)), np.float32)
    for facet, weight in MATCH.items():
        values = list(FACETS[facet])
        wanted_QxV = np.zeros((len(queries), len(values)), np.float32)
        for row, query in enumerate(queries):
            for value in query.categories if facet == "category" else query.wanted.get(facet, ()):
                wanted_QxV[row, values.index(value)] = weight
        match_QxP += wanted_QxV @ catalogue.shows(facet).T
    allowed_QxV = np.array([[category in query.candidates for category in FACETS["category"]] for query in queries])
    match_QxP[~allowed_QxV[:, catalogue.values["category"]]] = -np.inf
    return match_QxP


def _looks(catalogue: Catalogue, rng: np.random.Generator) -> np.ndarray:
    """(P,) of variance 1: preferences for backgrounds and colours, and each category's for patterns and colours."""
    background, colour = (_preferences(facet, rng) for facet in ("background", "colour"))
    own_pattern, own_colour = (
        np.stack([_preferences(facet, rng) for _ in FACETS["category"]]) for facet in ("pattern", "colour")
    )
    value = catalogue.values
    looks_P = (
        LOOKS["background"] * background[value["background"]]
        + LOOKS["colour"] * colour[value["colour"]]
        + LOOKS["pattern of a category"] * own_pattern[value["category"], value["pattern"]]
        + LOOKS["colour of a category"] * own_colour[value["category"], value["colour"]]
    )
    return looks_P / np.sqrt(sum(weight**2 for weight in LOOKS.values()))


def _preferences(facet: str, rng: np.random.Generator) -> np.ndarray:
    """How much each value of a facet is liked: evenly spaced numbers of mean 0 and variance 1 in random order."""
    even = np.linspace(-1, 1, len(FACETS[facet]))
    return rng.permutation(even / even.std())
