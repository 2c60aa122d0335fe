"""What is looked at, as one value: it stands in the URL, so that every view can be sent to somebody."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

ORDERS = {"win": "wins first", "loss": "losses first", "worst": "worst first", "spread": "largest difference"}
LOOKS = {"lists": "side by side", "lines": "rank-flow lines"}
COLOURS = ("category", "score", "split", "difference")
PANELS = {"both": "A and B", "a": "A alone"}

USES = {
    "search": ("split", "query", "a", "weight", "more", "less", "image", "item"),
    "compare": ("split", "query", "a", "b", "look", "item"),
    "queries": ("split", "a", "b", "metric", "order", "division", "slice"),
    "map": ("split", "query", "a", "b", "panels", "colour", "lasso", "item"),
    "playground": ("split", "query", "a", "weighting", "temperature", "score"),
    "training": (),
    "about": (),
}
"""Tab -> what it shows: the parameters of its URL."""
TABS = tuple(USES)


@dataclass(frozen=True)
class State:
    """query: a stored query's label or any text; a, b: models; item: the row of the product in the details.

    weight: of the first field; more, less: terms, "red:0.8, striped"; image: digest of an uploaded picture. metric, as
    it prints; slice: "way: name". lasso: "x,y;x,y;...". score: of the first pair in the playground's batch.
    """

    tab: str
    split: str
    query: str
    a: str
    b: str
    weight: float
    more: str
    less: str
    image: str
    item: str
    look: str
    metric: str
    order: str
    division: str
    slice: str
    panels: str
    colour: str
    lasso: str
    weighting: str
    temperature: float
    score: float

    def url(self) -> str:
        said = {name: getattr(self, name) for name in ("tab", *USES[self.tab])}
        return "?" + urlencode({name: value for name, value in said.items() if value != ""})
