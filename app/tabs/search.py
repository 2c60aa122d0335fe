"""Search: the first products of one model for a text or a picture, with adjustable field weights."""

from __future__ import annotations

from gcl_toolkit.app.answers import Product
from gcl_toolkit.app.draw import badge, details, heading, legend, link, number, picture, safe, term, values, view
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State

SHOWN = 20


def draw(service: Service, state: State) -> str:
    asked = {"more": state.more, "less": state.less, "image": state.image}
    ranking = service.search(state.split, state.query, state.a, state.weight, SHOWN, **asked)
    widest = max((abs(part) for product in ranking.products for part in product.parts.values()), default=1.0)
    cards = "".join(_card(service, state, product, bool(ranking.metrics), widest) for product in ranking.products)
    known = f"{values(ranking, service.bundle.metrics)}{legend(service)}" if ranking.metrics else _unknown(state)
    head = f'<header class="over">{heading("A", state.a)}{known}</header>'
    return view(f'{details(service, state)}{head}<ol class="cards">{cards}</ol>')


def _unknown(state: State) -> str:
    what = "picture" if state.image else "text"
    return f'<p class="note">No scores are known for this {what}, so the ranking can’t be measured.</p>'


def _card(service: Service, state: State, product: Product, scored: bool, widest: float) -> str:
    parts = "".join(_part(field, part, widest) for field, part in product.parts.items())
    return (
        f'<li class="card level{product.level}" data-item="{product.item}" '
        f'title="{safe(product.title)} ({safe(product.product_id)})">{picture(service, product.item)}'
        f'<span class="rank">{product.rank}</span>'
        f"{badge(service, product) if scored else ''}"
        f'<p class="title">{link(state, safe(product.title), item=str(product.item), id=f"card-{product.item}")}</p>'
        f'<p class="facts">{term(service, "cosine")} <b>{number(product.cosine)}</b></p>'
        f'<dl class="parts" title="each field’s share of the cosine">{parts}</dl></li>'
    )


def _part(field: str, part: float, widest: float) -> str:
    """A field's contribution as a bar from the left, hatched if negative."""
    width = 0.0 if part != part else 100 * abs(part) / max(widest, 1e-9)
    kind = ' class="minus"' if part < 0 else ""
    return f'<dt>{safe(field)}</dt><dd><i{kind} style="width:{width:.0f}%"></i></dd><dd>{number(part, 2)}</dd>'
