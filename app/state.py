"""What is looked at, as one value: it stands in the URL, so that every view can be sent to somebody."""

from __future__ import annotations

from dataclasses import dataclass, fields
from urllib.parse import urlencode

TABS = ("search", "compare", "queries", "about")
ORDERS = {"win": "wins first", "loss": "losses first", "worst": "worst first"}


@dataclass(frozen=True)
class State:
    """query: a stored query's label or any text; a, b: models; weight: of the first field; metric: as it prints."""

    tab: str
    split: str
    query: str
    a: str
    b: str
    weight: float
    metric: str
    order: str
    division: str

    def url(self) -> str:
        return "?" + urlencode({field.name: getattr(self, field.name) for field in fields(self)})
