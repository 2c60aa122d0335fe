"""Logs of which the truth is known: visitors of a shop, its ranker, and how they click."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import UserError, unknown

MODELS = ("positions", "cascade")


@dataclass(frozen=True)
class Visitors:
    """How a log comes about. With `exploration` the ranker's order differs from visit to visit, which is what lets a
    log tell looks from liking."""

    visits: int = 100
    """Of each query."""
    shown: int = 20
    """Products a visit."""
    model: str = "positions"
    """positions: position k is looked at with probability 1 / k^eta, whatever was clicked. cascade: read from the top
    until content (a click ends it with probability .7) or bored (a look with .05)."""
    eta: float = 1.0
    ranker: float = 0.5
    """Share of error in the shop's own ranking: 0 ranks as the truth does, 1 without any regard to it."""
    taste: float = 0.0
    """How much of that error has a system: words of titles that the ranker likes or dislikes, whatever the query, as
    one that pushes brands does. 0: all of it is drawn anew for each query and product, so that no model can learn it;
    1: a product that is misplaced for one query is so for all."""
    exploration: float = 0.5
    """Noise from visit to visit, in positions' logarithms."""
    appeal: float = 0.5
    """Probability that the best product is clicked once looked at."""
    seed: int = 0

    def __post_init__(self):
        if self.model not in MODELS:
            raise unknown("model of clicks", self.model, MODELS)
        if self.visits < 1 or self.shown < 1:
            raise UserError("visits and shown >= 1 are expected")
        if not 0 <= self.ranker <= 1 or not 0 <= self.taste <= 1:
            raise UserError(f"ranker {self.ranker:g} and taste {self.taste:g}: numbers from 0 to 1 are expected")


def appeals(data: RankedData, visitors: Visitors) -> np.ndarray:
    """P(click | looked at) of each pair of `data`: falls from `appeal` with the position of the true list."""
    return visitors.appeal * (0.04 + 0.96 * (data.pairs.score / 100) ** 4)


def simulate(data: RankedData, visitors: Visitors | None = None) -> pa.Table:
    """A log of visits to the listed products of each query: query, product_id, position, clicks, session, timestamp."""
    visitors = visitors or Visitors()
    rng = np.random.default_rng(visitors.seed)
    texts = np.array(data.queries["query"].to_pylist(), object)
    ids, (query_N, product_N, score_N) = data.product_ids, data.pairs
    appeal_N, liked_N = appeals(data, visitors), _tastes(data, visitors)[product_N]
    order = np.argsort(query_N, kind="stable")
    parts = []
    for rows in np.split(order, np.flatnonzero(np.diff(query_N[order])) + 1):
        truth = np.log(101 - score_N[rows])  # what the shop's ranker would like to know
        luck, liking = rng.standard_normal(len(rows)), liked_N[rows] - liked_N[rows].mean()
        error = np.sqrt(1 - visitors.taste**2) * luck - visitors.taste * (liking / max(liked_N[rows].std(), 1e-9))
        blurred = (1 - visitors.ranker) * truth + visitors.ranker * truth.std() * error
        rank_P = np.log1p(np.argsort(np.argsort(blurred)))
        noise_VxP = visitors.exploration * rng.standard_normal((visitors.visits, len(rows)))
        shown_VxK = np.argsort(rank_P + noise_VxP, axis=1)[:, : visitors.shown]
        click_VxK = _clicks(appeal_N[rows][shown_VxK], visitors, rng)
        turn, place = np.indices(shown_VxK.shape)
        parts.append((rows[shown_VxK].ravel(), turn.ravel(), place.ravel() + 1, click_VxK.ravel()))
    pair, visit, position, click = (np.concatenate(column) for column in zip(*parts, strict=True))
    session = query_N[pair].astype(np.int64) * visitors.visits + visit
    seconds = rng.permutation(session.max() + 1)[session] * 60
    return pa.table(
        {
            "query": texts[query_N[pair]],
            "product_id": ids[product_N[pair]],
            "position": position,
            "clicks": click.astype(np.int8),
            "session": session,
            "timestamp": pa.array(seconds + 1_700_000_000, pa.timestamp("s")),
        }
    )


def _tastes(data: RankedData, visitors: Visitors) -> np.ndarray:
    """How much the ranker likes each product of the corpus: the sum over the words of its title."""
    if not visitors.taste:
        return np.zeros(data.corpus.num_rows)
    words_P = [title.split() for title in data.corpus["title"].fill_null("").to_pylist()]
    rng = np.random.default_rng((visitors.seed, 1))
    liking = {word: rng.standard_normal() for word in sorted({word for words in words_P for word in words})}
    return np.array([sum(liking[word] for word in words) for words in words_P])


def _clicks(appeal_VxK: np.ndarray, visitors: Visitors, rng: np.random.Generator) -> np.ndarray:
    chance_VxK = rng.random(appeal_VxK.shape)
    if visitors.model == "positions":
        return chance_VxK < appeal_VxK * np.arange(1, appeal_VxK.shape[1] + 1.0) ** -visitors.eta
    clicked_VxK = chance_VxK < appeal_VxK
    stops_VxK = rng.random(appeal_VxK.shape) < np.where(clicked_VxK, 0.7, 0.05)
    read_VxK: np.ndarray = np.cumsum(stops_VxK, axis=1) - stops_VxK == 0
    return clicked_VxK & read_VxK
