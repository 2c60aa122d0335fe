"""Compare: two models and the ideal order, rank by rank, and what differs in a sentence."""

from __future__ import annotations

from app.answers import TOP, Product, Ranking
from app.draw import badge, heading, legend, number, picture, safe, values, view
from app.service import Service
from app.state import State

SIZES = {2: "two", 3: "three"}


def draw(service: Service, state: State) -> str:
    told = service.compare(state.split, state.query, state.a, state.b)
    names = {told.a.model: "A", told.b.model: "B"}
    columns = [_column(service, "A", told.a, told.b, names), _column(service, "B", told.b, told.a, names)]
    if told.ideal:
        best = "".join(_row(service, product, _places(product, names), "") for product in told.ideal)
        head = f'<h3>Ideal order</h3><p class="about">by the scores; DCG {told.a.ideal_dcg:.0f}, NDCG@10 1</p>'
        columns.append(f'<div class="side">{head}<ol>{best}</ol></div>')
    return view(
        state,
        f'<p class="sentence">{safe(told.sentence)}</p>{legend(service) if told.ideal else ""}'
        f'<div class="sides {SIZES[len(columns)]}">{"".join(columns)}</div>',
    )


def _column(service: Service, letter: str, ranking: Ranking, other: Ranking, names: dict[str, str]) -> str:
    rows = "".join(
        _row(service, product, _change(product), f"cosine {number(product.cosine)}")
        for product in ranking.products[:TOP]
    )
    head = heading(letter, ranking.model) + values(ranking, service.bundle.metrics, other)
    return f'<div class="side">{head}<ol>{rows}</ol></div>'


def _row(service: Service, product: Product, mark: str, fact: str) -> str:
    scored = product.score is not None or product.other
    return (
        f'<li class="hit level{product.level}" data-item="{product.item}" '
        f'title="{safe(product.title)} ({safe(product.product_id)})"><span class="rank">{product.rank}</span>'
        f'{picture(service, product)}<div class="text"><p class="title">{safe(product.title)}</p>'
        f'<p class="facts">{badge(product) if scored else ""}{mark}<span class="cosine">{fact}</span></p></div></li>'
    )


def _change(product: Product) -> str:
    """How many ranks higher or lower than the other model has it."""
    for other in product.other.values():
        gap = other - product.rank
        kind, sign = ("up", "▲") if gap > 0 else ("down", "▼") if gap < 0 else ("same", "=")
        said = f"{sign} {abs(gap)}" if gap else sign
        return f'<span class="change {kind}" title="the other model ranks it {other}">{said}</span>'
    return ""


def _places(product: Product, names: dict[str, str]) -> str:
    told = " · ".join(f"{names[model]} {rank}" for model, rank in product.other.items())
    return f'<span class="places" title="its rank by A and by B">{told}</span>'
