"""Parts of the views, as HTML. Everything that comes from data passes `safe`; nothing here is a template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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


def view(content: str) -> str:
    """A tab's content."""
    return f'<section class="view">{content}</section>'


def link(
    state: State, html: str, *, label: str = "", id: str = "", kind: str = "", now: bool = False, **changes
) -> str:
    """A link to the state with some changes; "" returns a parameter to its default. page.js follows it in place.

    label: what it is called where `html` is only a sign; kind: its class; now: whether it is the page that is shown.
    """
    more = {"id": id, "class": kind, "aria-label": label, "title": label, "aria-current": "page" if now else ""}
    attributes = "".join(f' {name}="{safe(value)}"' for name, value in more.items() if value)
    return f'<a href="{safe(state.but(**changes).url())}"{attributes}>{html}</a>'


def term(service: Service, word: str, text: str = "") -> str:
    """A word of the glossary, explained on hover and focus; `text` is what is shown for it."""
    meaning = service.bundle.manifest.get("glossary", {}).get(word)
    shown = safe(text or word)
    return f'<abbr class="term" tabindex="0" title="{safe(meaning)}">{shown}</abbr>' if meaning else shown


def wide(label: str, html: str) -> str:
    """A part that scrolls sideways where there is no room for it, by keyboard, too."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{safe(label)}">{html}</div>'


def grid(label: str, heads: Iterable[str], rows: Iterable[str], kind: str = "", *, sorts: bool = False) -> str:
    """A table. heads: HTML; rows: of `cells`; kind: its class, too; sorts: columns have a button to sort by."""
    button = ' <button type="button" class="sort" aria-label="Sort by this column"></button>' if sorts else ""
    head = "".join(f'<th scope="col">{text}{button}</th>' for text in heads)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return wide(label, f'<table class="{f"queries {kind}".strip()}">{body}</table>')


def cells(first: str, *others: str, attributes: str = "") -> str:
    """A row with its head; HTML."""
    return f'<tr{attributes}><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'


def message(text: object) -> str:
    return f'<p class="message" role="alert">{safe(text)}</p>'


def number(value: float, digits: int = 3) -> str:
    """Fixed digits, a true minus sign; a dash for NaN."""
    return "–" if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def letter(mark: str) -> str:
    """A, B or another system's letter, in its colour."""
    return f'<span class="letter {mark.lower()}">{mark}</span>'


def heading(mark: str, system: str) -> str:
    return f"<h3>{letter(mark)} {safe(system)}</h3>"


def picture(service: Service, item: int, title: str = "") -> str:
    """The stored picture, by its own route; the title is beside it, so screen readers skip the picture.

    title: shown in the place of a missing picture where it isn't beside it. If no product has a picture, no place is
    left for them.
    """
    if not service.bundle.items["thumbnail_size"].iat[item]:
        shown = safe(title) if title else "no picture" if service.has_pictures else ""
        return f'<span class="picture none{" title" if title else ""}">{shown}</span>' if shown else ""
    source = f"gcl/picture/{item}?v={service.version}"
    return f'<img class="picture" alt="" width="96" height="96" loading="lazy" src="{source}">'


def badge(service: Service, product: Product) -> str:
    if product.score is None:
        return f'<span class="badge level0" title="no score of this product for this query">{_unlisted(service)}</span>'
    return (
        f'<span class="badge level{product.level}" title="the product’s score for this query">{product.score:g}</span>'
    )


def _unlisted(service: Service) -> str:
    return "unjudged" if service.bundle.manifest["unlisted"] == "unjudged" else "not listed"


def legend(service: Service) -> str:
    """The lowest score of each colour; the number is on every card, too."""
    low, after = service.bounds[:-1], service.bounds[1:]
    steps = "".join(
        f'<span class="badge level{level}">≥ {low[level - 1]:g}</span>'
        for level in range(1, LEVELS + 1)
        if low[level - 1] < after[level - 1] or level == LEVELS
    )
    return f'<p class="legend">Score <span class="badge level0">{_unlisted(service)}</span>{steps}</p>'


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
        + "".join(_near(service, state, near) for near in service.neighbours(item, model).products)
        + "</ol>"
        for model in dict.fromkeys((state.a, state.b))
        if model in service.searchable
    )
    return (
        f'<aside id="details" class="details" tabindex="-1" aria-label="Details">'
        f"{link(state, '×', item='', label='Close the details', kind='close')}"
        f'<div class="about">{picture(service, item)}<div><p class="title">{safe(product.title)}</p>'
        f"<dl><dt>id</dt><dd>{safe(product.product_id)}</dd>{facts}</dl></div></div>{strips}</aside>"
    )


def _near(service: Service, state: State, near: Product) -> str:
    label = f"{near.title} ({near.product_id})"
    inside = f'{picture(service, near.item, near.title)}<span class="facts">{number(near.cosine)}</span>'
    return f'<li data-item="{near.item}">{link(state, inside, item=str(near.item), label=label)}</li>'
