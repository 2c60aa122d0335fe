"""Pieces of the views, as HTML. Whatever comes from data passes `safe`; nothing here is a template."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

import numpy as np

from app.answers import LEVELS, Product, Ranking
from app.service import Service
from app.state import State
from gcl_toolkit.metrics import NDCG, Metric

_ALSO = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "`": "&#96;"})


def safe(text: object) -> str:
    """Text for an element or a quoted attribute. Besides HTML's, the characters of JavaScript's templates go too."""
    return escape(str(text), quote=True).translate(_ALSO)


def view(state: State, content: str) -> str:
    """A tab's content, with the URL that brings it back."""
    return f'<section class="view" data-url="{safe(state.url())}">{content}</section>'


def message(text: object) -> str:
    return f'<p class="message" role="alert">{safe(text)}</p>'


def number(value: float, digits: int = 3) -> str:
    """Fixed digits, a true minus; a dash for NaN."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def heading(letter: str, model: str) -> str:
    return f'<h3><span class="letter">{letter}</span> {safe(model)}</h3>'


def picture(service: Service, product: Product) -> str:
    """The stored picture, in the page itself; the title stands beside it, so it is decoration for a screen reader."""
    data = service.image(product.item)
    if not data:
        return '<span class="picture none">no picture</span>'
    return f'<img class="picture" alt="" src="data:image/webp;base64,{base64.b64encode(data).decode()}">'


def badge(product: Product) -> str:
    if product.score is None:
        return '<span class="badge level0" title="this query’s list does not hold the product">not listed</span>'
    return (
        f'<span class="badge level{product.level}" title="the product’s score for this query">{product.score:g}</span>'
    )


def legend(service: Service) -> str:
    """From which score on a colour is used; the number is on every card too."""
    low, after = service.bounds[:-1], service.bounds[1:]
    steps = "".join(
        f'<span class="badge level{level}">≥ {low[level - 1]:g}</span>'
        for level in range(1, LEVELS + 1)
        if low[level - 1] < after[level - 1] or level == LEVELS
    )
    return f'<p class="legend">Score <span class="badge level0">not listed</span>{steps}</p>'


def values(ranking: Ranking, definitions: Mapping[Metric, str], other: Ranking | None = None) -> str:
    """The metrics of a ranking, NDCG@10 with its DCG and ideal DCG; bold where it beats the other."""
    if not ranking.metrics:
        return ""
    cells = []
    for metric, value in ranking.metrics.items():
        better = other is not None and value > other.metrics[metric] + 5e-4
        made = f"<small>DCG {ranking.dcg:.0f} / {ranking.ideal_dcg:.0f}</small>" if metric == NDCG @ 10 else ""
        means = definitions[metric] + (" Below: its DCG and the ideal one." if made else "")
        cells.append(
            f'<div title="{safe(means)}"{" class=better" if better else ""}>'
            f"<dt>{safe(metric)}</dt><dd>{number(value)}{made}</dd></div>"
        )
    return f'<dl class="values">{"".join(cells)}</dl>'
