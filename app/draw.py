"""Parts of the views, as HTML. Everything that comes from data passes `safe`; nothing here is a template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from gcl_toolkit.app.answers import LEVELS, Product, Ranking
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.measure.metrics import NDCG, Metric

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ALSO = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "`": "&#96;"})


def safe(text: object) -> str:
    """Text for an element or a quoted attribute; characters of JavaScript templates are escaped, too."""
    return escape(str(text), quote=True).translate(_ALSO)


def view(state: State, content: str) -> str:
    """A tab's content, with its URL."""
    return f'<section class="view" data-url="{safe(state.url())}">{content}</section>'


def message(text: object) -> str:
    return f'<p class="message" role="alert">{safe(text)}</p>'


def number(value: float, digits: int = 3) -> str:
    """Fixed digits, a true minus sign; a dash for NaN."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def heading(letter: str, model: str) -> str:
    return f'<h3><span class="letter">{letter}</span> {safe(model)}</h3>'


def picture(service: Service, item: int) -> str:
    """The stored picture, by its own route; the title is beside it, so screen readers skip the picture."""
    if not service.bundle.items["thumbnail_size"].iat[item]:
        return '<span class="picture none">no picture</span>'
    return f'<img class="picture" alt="" loading="lazy" src="gcl/picture/{item}?v={service.version}">'


def badge(product: Product) -> str:
    if product.score is None:
        return '<span class="badge level0" title="the product is not in this query’s list">not listed</span>'
    return (
        f'<span class="badge level{product.level}" title="the product’s score for this query">{product.score:g}</span>'
    )


def legend(service: Service) -> str:
    """The lowest score of each colour; the number is on every card, too."""
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
        dcg = f"<small>DCG {ranking.dcg:.0f} / {ranking.ideal_dcg:.0f}</small>" if metric == NDCG @ 10 else ""
        means = definitions[metric] + (" Below: its DCG and the ideal DCG." if dcg else "")
        cells.append(
            f'<div title="{safe(means)}"{" class=better" if better else ""}>'
            f"<dt>{safe(metric)}</dt><dd>{number(value)}{dcg}</dd></div>"
        )
    return f'<dl class="values">{"".join(cells)}</dl>'


def figure(chart: go.Figure) -> str:
    """An element in which page.js draws a plotly figure."""
    from gcl_toolkit.views.figures import CONFIG

    spec = json.loads(chart.to_json()) | {"config": CONFIG}
    height = spec["layout"]["height"]
    return f'<div class="figure" style="height:{height}px" data-figure="{safe(json.dumps(spec))}"></div>'


def download(state: State, name: str, label: str) -> str:
    return f'<a class="download" download href="gcl/{name}{safe(state.url())}">{safe(label)}</a>'


def details(service: Service, state: State) -> str:
    """The chosen product: its texts, and its nearest products in each model's embedding space; "" if none is."""
    if not state.item:
        return ""
    item = int(state.item)
    product, texts = service.product(item, 0, float("nan")), service.bundle.items.iloc[item]
    skipped = ("product_id", service.bundle.manifest["title"], "thumbnail_start", "thumbnail_size")
    facts = "".join(
        f"<dt>{safe(name)}</dt><dd>{safe(text)}</dd>"
        for name, text in texts.items()
        if name not in skipped and isinstance(text, str)
    )
    strips = "".join(
        f'<h4>Nearest in {safe(model)}’s embedding space</h4><ol class="strip" data-model="{safe(model)}">'
        + "".join(_near(service, near) for near in service.neighbours(item, model).products)
        + "</ol>"
        for model in dict.fromkeys((state.a, state.b))
    )
    return (
        f'<aside class="details"><button type="button" class="close" data-item="" aria-label="Close the details">×'
        f'</button><div class="about">{picture(service, item)}<div><p class="title">{safe(product.title)}</p>'
        f"<dl><dt>id</dt><dd>{safe(product.product_id)}</dd>{facts}</dl></div></div>{strips}</aside>"
    )


def _near(service: Service, near: Product) -> str:
    label = f"{safe(near.title)} ({safe(near.product_id)})"
    return (
        f'<li data-item="{near.item}" title="{label}">{picture(service, near.item)}'
        f'<span class="facts">{number(near.cosine)}</span></li>'
    )
