"""Why A ranks a query better or worse than B: the products that make the difference, and their fields' parts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gcl_toolkit.app.answers import TOP, Product, Ranking
from gcl_toolkit.app.draw import cells, grid, letter, link, number, picture, safe
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State

SHOWN = 3


def why(service: Service, state: State, rankings: Mapping[str, Ranking]) -> str:
    """A table of the products with the largest effect on NDCG@10 of A minus that of B; "" without scores."""
    a, b = rankings.get("A"), rankings.get("B")
    if a is None or b is None or not a.ideal_dcg:
        return ""
    effects = []
    for product in {p.item: p for p in (*a.products[:TOP], *b.products[:TOP]) if p.score}.values():
        ranks = [_rank(product, ranking) for ranking in (a, b)]
        gain = (product.score or 0.0) / a.ideal_dcg
        effects.append((gain * (_discount(ranks[0]) - _discount(ranks[1])), product, ranks))
    largest = sorted((e for e in effects if abs(e[0]) >= 0.0005), key=lambda effect: -abs(effect[0]))[:SHOWN]
    if not largest:
        return ""
    parts = _parts(service, state, [a.model, b.model], [product.item for _, product, _ in largest])
    rows = [_row(service, state, *effect, [part[n] for part in parts]) for n, effect in enumerate(largest)]
    heads = ["Product", "Score", f"Rank by {letter('A')}", f"Rank by {letter('B')}", "Effect on NDCG@10"]
    heads += ["Cosine, by field"] if any(part[0] for part in parts) else []
    title = "What makes the difference"
    return f'<section class="why"><h3>{title}</h3>{grid(title, heads, rows)}</section>'


def _rank(product: Product, ranking: Ranking) -> int | None:
    own = next((p.rank for p in ranking.products if p.item == product.item), None)
    return own or product.other.get(ranking.model)


def _discount(rank: int | None) -> float:
    return 1 / float(np.log2(rank + 1)) if rank and rank <= TOP else 0.0


def _parts(service: Service, state: State, systems: list[str], items: list[int]) -> list[list[Mapping[str, float]]]:
    """Of each system and product: field -> its share of the cosine; empty for a system without vectors."""
    return [
        service.parts(state.split, state.query, name, items) if name in service.searchable else [{}] * len(items)
        for name in systems
    ]


def _row(service: Service, state: State, effect: float, product: Product, ranks: list, parts: list[Mapping]) -> str:
    title = link(state, safe(product.title), item=str(product.item), id=f"why-{product.item}")
    score = f'<span class="badge level{product.level}">{product.score:g}</span>'
    sign, side = ("+", "a") if effect > 0 else ("", "b")
    shown = [score, *(f"{rank or 'none'}" for rank in ranks), f'<b class="effect {side}">{sign}{number(effect)}</b>']
    fields = "".join(_fields(mark, part, parts) for mark, part in zip("AB", parts, strict=True) if part)
    head, place = f"{picture(service, product.item)}{title}", f' data-item="{product.item}"'
    return cells(head, *shown, *([fields] if any(parts) else []), attributes=place)


def _fields(mark: str, part: Mapping[str, float], parts: list[Mapping]) -> str:
    """A system's cosine as the sum of its fields, a bar each, on one scale for all systems."""
    widest = max((abs(value) for other in parts for value in other.values()), default=1.0) or 1.0
    bars = "".join(
        f'<span class="part"><i class="{"minus" if value < 0 else mark.lower()}" '
        f'style="width:{60 * abs(value) / widest:.0f}px"></i> {safe(field)} {number(value, 2)}</span>'
        for field, value in part.items()
    )
    return f'<div class="fields">{letter(mark)} <b>{number(sum(part.values()), 2)}</b> = {bars}</div>'
