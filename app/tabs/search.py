"""Search: the first products of one model for a query, the fields' weights live."""

from __future__ import annotations

from app.answers import Product
from app.draw import badge, heading, legend, number, picture, safe, values, view
from app.service import Service
from app.state import State

SHOWN = 20


def draw(service: Service, state: State) -> str:
    ranking = service.search(state.split, state.query, state.a, state.weight, SHOWN)
    cards = "".join(_card(service, product, bool(ranking.metrics)) for product in ranking.products)
    known = f"{values(ranking, service.bundle.metrics)}{legend(service)}" if ranking.metrics else _unknown()
    return view(state, f'<header class="over">{heading("A", state.a)}{known}</header><ol class="cards">{cards}</ol>')


def _unknown() -> str:
    return '<p class="note">No scores are known for this text: the order is the model’s, nothing can be measured.</p>'


def _card(service: Service, product: Product, scored: bool) -> str:
    parts = ", ".join(f"{safe(field)} {number(part, 2)}" for field, part in product.parts.items())
    return (
        f'<li class="card level{product.level}" title="{safe(product.title)} ({safe(product.product_id)})">'
        f"{picture(service, product)}"
        f'<span class="rank">{product.rank}</span>'
        f"{badge(product) if scored else ''}"
        f'<p class="title">{safe(product.title)}</p>'
        f'<p class="facts">cosine <b>{number(product.cosine)}</b></p>'
        f'<p class="facts parts" title="what each field adds to the cosine">{parts}</p></li>'
    )
