"""The state of the page as one value, which the URL holds, so that every view can be shared."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

ORDERS = {
    "win": "wins first",
    "loss": "losses first",
    "worst": "worst first",
    "spread": "largest difference",
    **{
        sign + column: f"{name}, {direction}"
        for column, name in {
            "query": "query", "a": "A", "b": "B", "difference": "A − B", "unjudged": "unjudged"
        }.items()
        for sign, direction in (("", "ascending"), ("-", "descending"))
    },
}  # fmt: skip
LOOKS = {"lists": "side by side", "lines": "rank-flow lines"}
COLOURS = ("category", "score", "split", "difference")
PANELS = {"both": "A and B", "a": "A alone"}
MAX_ALSO = 3
"""Systems besides A and B."""


class Tab(NamedTuple):
    """A tab of the page. Its module has `draw(service, state) -> HTML`."""

    controls: tuple[str, ...] = ()
    """The controls that change its view, in their order."""
    needs: str = ""
    """What some system must have, "vectors" or "history"; "" if ranks are enough."""
    module: str = ""
    """By default gcl_toolkit.app.tabs.NAME."""


TABS = {
    "verdict": Tab(("a", "b", "also", "split", "metric", "division", "slice")),
    "compare": Tab(("query", "a", "b", "also", "split", "look")),
    "queries": Tab(("a", "b", "also", "split", "metric", "order", "division", "slice", "find")),
    "search": Tab(("query", "a", "split", "weight", "more", "less"), "vectors"),
    "map": Tab(("query", "a", "b", "split", "panels", "colour"), "vectors"),
    "playground": Tab(("query", "a", "split", "weighting", "temperature", "score"), "vectors"),
    "training": Tab((), "history"),
    "about": Tab(),
}
"""Name -> tab, in the order of the page."""


@dataclass(frozen=True)
class State:
    """query: a stored query's label or any text; a, b: systems, b is the baseline; item: row of the product in the
    details.

    also: further systems, "name,name"; find: what the queries of the table contain; weight: of the first field;
    more, less: terms, "red:0.8, striped"; image: digest of an uploaded picture; slice: "way: name"; lasso:
    "a:x,y;x,y;..."; score: of the first pair in the playground's batch. given: the names that were chosen, which
    are in the URL; the others have their defaults.
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
    also: str = ""
    find: str = ""
    given: tuple[str, ...] = ()

    def but(self, **changes: Any) -> State:
        """The state after some choices; "" returns a name to its default."""
        return replace(self, **changes, given=(*self.given, *changes))

    def url(self) -> str:
        names = [field.name for field in fields(self) if field.name == "tab" or field.name in self.given]
        values = {name: getattr(self, name) for name in names}
        texts = {name: f"{value:g}" if isinstance(value, float) else value for name, value in values.items()}
        return "?" + urlencode({name: text for name, text in texts.items() if text != ""})
