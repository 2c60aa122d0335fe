"""The state of the page as one value, which the URL holds, so that every view can be shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode

ORDERS = {"win": "wins first", "loss": "losses first", "worst": "worst first", "spread": "largest difference"}
LOOKS = {"lists": "side by side", "lines": "rank-flow lines"}
COLOURS = ("category", "score", "split", "difference")
PANELS = {"both": "A and B", "a": "A alone"}


class Tab(NamedTuple):
    """A tab of the page. Its module has `draw(service, state) -> HTML`."""

    shows: tuple[str, ...] = ()
    """The parameters of its URL."""
    inputs: tuple[str, ...] = ()
    """Its own inputs, above its view."""
    module: str = ""
    """By default gcl_toolkit.app.tabs.NAME."""


TABS = {
    "search": Tab(("split", "query", "a", "weight", "more", "less", "image", "item"), ("weight", "more", "less")),
    "compare": Tab(("split", "query", "a", "b", "look", "item"), ("look",)),
    "queries": Tab(
        ("split", "a", "b", "metric", "order", "division", "slice"), ("metric", "order", "division", "slice")
    ),
    "map": Tab(("split", "query", "a", "b", "panels", "colour", "lasso", "item"), ("panels", "colour")),
    "playground": Tab(
        ("split", "query", "a", "weighting", "temperature", "score"), ("weighting", "temperature", "score")
    ),
    "training": Tab(),
    "about": Tab(),
}
"""Name -> tab, in the order of the page."""


@dataclass(frozen=True)
class State:
    """query: a stored query's label or any text; a, b: models; item: row of the product in the details.

    weight: of the first field; more, less: terms, "red:0.8, striped"; image: digest of an uploaded picture; slice:
    "way: name"; lasso: "a:x,y;x,y;..."; score: of the first pair in the playground's batch.
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
        values = {name: getattr(self, name) for name in ("tab", *TABS[self.tab].shows)}
        return "?" + urlencode({name: value for name, value in values.items() if value != ""})
