"""Compare: two models and the ideal order, rank by rank or as rank-flow lines, with a sentence on the difference."""

from __future__ import annotations

from collections.abc import Sequence

from gcl_toolkit.app.answers import TOP, Comparison, Product, Ranking
from gcl_toolkit.app.draw import badge, details, download, heading, legend, number, picture, safe, values, view
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State

SIZES = {2: "two", 3: "three"}


def draw(service: Service, state: State) -> str:
    comparison = service.compare(state.split, state.query, state.a, state.b)
    names = {comparison.a.model: "A", comparison.b.model: "B"}
    body = (_lines if state.look == "lines" else _lists)(service, comparison, names)
    over = f"{legend(service) if comparison.ideal else ''}{download(state, 'comparison.html', 'Save as one HTML file')}"
    sentence = f'<p class="sentence">{safe(comparison.sentence)}</p>'
    return view(state, f'{sentence}{details(service, state)}<header class="over">{over}</header>{body}')


# -- side by side ------------------------------------------------------------------------------------------------------


def _lists(service: Service, comparison: Comparison, names: dict[str, str]) -> str:
    columns = [_column(service, "A", comparison.a, comparison.b), _column(service, "B", comparison.b, comparison.a)]
    if comparison.ideal:
        best = "".join(_row(service, product, _places(product, names), "") for product in comparison.ideal)
        columns.append(f'<div class="side">{_ideal_head(comparison)}<ol>{best}</ol></div>')
    return f'<div class="sides {SIZES[len(columns)]}">{"".join(columns)}</div>'


def _column(service: Service, letter: str, ranking: Ranking, other: Ranking) -> str:
    rows = "".join(
        _row(service, product, _change(product), f"cosine {number(product.cosine)}")
        for product in ranking.products[:TOP]
    )
    return f'<div class="side">{_head(service, letter, ranking, other)}<ol>{rows}</ol></div>'


def _head(service: Service, letter: str, ranking: Ranking, other: Ranking) -> str:
    return heading(letter, ranking.model) + values(ranking, service.bundle.metrics, other)


def _ideal_head(comparison: Comparison) -> str:
    return f'<h3>Ideal order</h3><p class="about">by the scores; DCG {comparison.a.ideal_dcg:.0f}, NDCG@10 1</p>'


def _row(service: Service, product: Product, mark: str, fact: str) -> str:
    scored = product.score is not None or product.other
    return (
        f'<li class="hit level{product.level}" data-item="{product.item}" '
        f'title="{safe(product.title)} ({safe(product.product_id)})"><span class="rank">{product.rank}</span>'
        f'{picture(service, product.item)}<div class="text"><p class="title">{safe(product.title)}</p>'
        f'<p class="facts">{badge(product) if scored else ""}{mark}<span class="cosine">{fact}</span></p></div></li>'
    )


def _change(product: Product) -> str:
    """How many ranks higher or lower than by the other model."""
    for other in product.other.values():
        gap = other - product.rank
        kind, sign = ("up", "▲") if gap > 0 else ("down", "▼") if gap < 0 else ("same", "=")
        text = f"{sign} {abs(gap)}" if gap else sign
        return f'<span class="change {kind}" title="the other model ranks it {other}">{text}</span>'
    return ""


def _places(product: Product, names: dict[str, str]) -> str:
    ranks = " · ".join(f"{names[model]} {rank}" for model, rank in product.other.items())
    return f'<span class="places" title="its rank by A and by B">{ranks}</span>'


# -- rank-flow lines ---------------------------------------------------------------------------------------------------


def _lines(service: Service, comparison: Comparison, names: dict[str, str]) -> str:
    """A, the ideal order and B side by side, with a line from each product to its rank in the next list."""
    sides = [
        (_head(service, "A", comparison.a, comparison.b), comparison.a.products[:TOP]),
        (_head(service, "B", comparison.b, comparison.a), comparison.b.products[:TOP]),
    ]
    if comparison.ideal:
        sides.insert(1, (_ideal_head(comparison), comparison.ideal))
    columns = []
    for place, (head, products) in enumerate(sides):
        if place:
            columns.append(_flow(sides[place - 1][1], products))
        small = "".join(_row(service, product, _mark(product, names), "") for product in products)
        columns.append(f'<div class="side">{head}<ol>{small}</ol></div>')
    return f'<div class="sides flow {SIZES[len(sides)]}">{"".join(columns)}</div>'


def _mark(product: Product, names: dict[str, str]) -> str:
    return _places(product, names) if len(product.other) == 2 else _change(product)


def _flow(left: Sequence[Product], right: Sequence[Product]) -> str:
    """Lines between two lists; a product that the other list lacks leads to its lower edge."""
    places = [{product.item: rank for rank, product in enumerate(side)} for side in (left, right)]
    levels = {product.item: product.level for product in (*left, *right)}
    lines = []
    for item, level in sorted(levels.items(), key=lambda pair: pair[1]):
        a, b = (side.get(item) for side in places)
        ends = (0.0, a + 0.5 if a is not None else TOP + 0.2, 10.0, b + 0.5 if b is not None else TOP + 0.2)
        x1, y1, x2, y2 = (
            (4.0, TOP + 0.2, *ends[2:]) if a is None else (*ends[:2], 6.0, TOP + 0.2) if b is None else ends
        )
        gone = " gone" if a is None or b is None else ""
        path = f"M{x1} {y1} C{(x1 + x2) / 2} {y1} {(x1 + x2) / 2} {y2} {x2} {y2}"
        lines.append(f'<path class="level{level}{gone}" data-item="{item}" d="{path}"></path>')
    return (
        f'<svg class="lines" viewBox="0 0 10 {TOP + 0.3}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(lines)}</svg>"
    )
