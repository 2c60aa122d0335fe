"""Compare: the chosen systems and the ideal order for a query, what makes the difference, and grading in place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gcl_toolkit.app.answers import TOP, Product, Ranking
from gcl_toolkit.app.draw import (
    badge,
    details,
    download,
    heading,
    legend,
    link,
    number,
    picture,
    safe,
    values,
    view,
    wide,
)
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.app.verdicts import judged, letters, pending
from gcl_toolkit.app.why import why
from gcl_toolkit.data.judgements import GRADES

IDEAL = "ideal"


def draw(service: Service, state: State) -> str:
    comparison = service.compare(state.split, state.query, *service.systems_of(state))
    found = {ranking.model: ranking for ranking in comparison.rankings}
    rankings = {mark: found[name] for mark, name in letters(service, state).items()}
    draw_as = _lines if state.look == "lines" else _lists
    over = f"{legend(service) if comparison.ideal else ''}{download(state, 'comparison.html', 'Save as one HTML file')}"
    return view(
        f'<div class="compare"><p class="sentence">{safe(comparison.sentence)}</p>{why(service, state, rankings)}'
        f'{details(service, state)}<header class="over">{over}</header>{_grading(service, state)}'
        f"{draw_as(service, state, rankings, comparison.ideal)}</div>",
    )


# -- side by side ------------------------------------------------------------------------------------------------------


def _lists(service: Service, state: State, rankings: Mapping[str, Ranking], ideal: Sequence[Product]) -> str:
    marks = {ranking.model: mark for mark, ranking in rankings.items()}
    columns = []
    for mark, ranking in rankings.items():
        rows = "".join(
            _row(
                service, state, mark, product, _change(product, rankings, mark), _grades(service, state, mark, product)
            )
            for product in ranking.products[:TOP]
        )
        columns.append(f'<div class="side">{_head(service, mark, rankings)}<ol>{rows}</ol></div>')
    if ideal:
        best = "".join(_row(service, state, IDEAL, product, _places(product, marks)) for product in ideal)
        columns.append(f'<div class="side">{_ideal_head(rankings)}<ol>{best}</ol></div>')
    return _side_by_side("sides", columns, len(columns))


def _side_by_side(kind: str, parts: list[str], columns: int) -> str:
    return wide("Rankings", f'<div class="{kind}" style="--columns:{columns}">{"".join(parts)}</div>')


def _head(service: Service, mark: str, rankings: Mapping[str, Ranking]) -> str:
    ranking, other = rankings[mark], rankings.get("A" if mark == "B" else "B")
    return f"<div>{heading(mark, ranking.model)}{values(ranking, service.bundle.metrics, other)}</div>"


def _ideal_head(rankings: Mapping[str, Ranking]) -> str:
    dcg = rankings["A"].ideal_dcg
    return f'<div><h3>Ideal order</h3><p class="about">by the scores; DCG {dcg:.0f}, NDCG@10 1</p></div>'


def _row(service: Service, state: State, mark: str, product: Product, change: str, grades: str = "") -> str:
    scored = product.score is not None or product.other
    title = link(state, safe(product.title), item=str(product.item), id=f"hit-{mark}-{product.item}")
    cosine = "" if product.cosine != product.cosine else f'<span class="cosine">cosine {number(product.cosine)}</span>'
    return (
        f'<li class="hit level{product.level}" data-item="{product.item}" '
        f'title="{safe(product.title)} ({safe(product.product_id)})"><span class="rank">{product.rank}</span>'
        f'{picture(service, product.item)}<div class="text"><p class="title">{title}</p>'
        f'<p class="facts">{badge(service, product) if scored else ""}{change}{cosine}</p>{grades}</div></li>'
    )


def _change(product: Product, rankings: Mapping[str, Ranking], mark: str) -> str:
    """How many ranks higher or lower than by the baseline; of the baseline, than by A."""
    against = "A" if mark == "B" else "B"
    other = product.other.get(rankings[against].model) if against in rankings else None
    if other is None:
        return f'<span class="change up" title="{against} does not rank it">new</span>' if against in rankings else ""
    gap = other - product.rank
    kind, sign = ("up", "▲") if gap > 0 else ("down", "▼") if gap < 0 else ("same", "=")
    text = f"{sign} {abs(gap)}" if gap else sign
    return f'<span class="change {kind}" title="{against} ranks it {other}">{text}</span>'


def _places(product: Product, marks: Mapping[str, str]) -> str:
    ranks = " · ".join(f"{mark} {product.other.get(system) or '–'}" for system, mark in marks.items())
    return f'<span class="places" title="its rank by each system">{ranks}</span>'


# -- grading -----------------------------------------------------------------------------------------------------------


def _grades(service: Service, state: State, mark: str, product: Product) -> str:
    """Buttons for the grades 0 to 4; none for a typed text, whose judgements would have no query."""
    row = service.labels[state.split].get(state.query)
    if row is None:
        return ""
    pair = [service.bundle.queries["query_id"].iat[row], product.product_id]
    buttons = "".join(
        f'<button type="button" role="radio" id="grade-{mark}-{product.item}-{grade}" data-grade="{grade}" '
        f'aria-checked="false" tabindex="{-1 if grade else 0}">{grade}</button>'
        for grade in GRADES
    )
    given = safe(json.dumps(judged(service).get(tuple(pair), {})))
    open_ = f' data-open="{product.rank}"' if product.score is None else ""
    return (
        f'<span class="grades" role="radiogroup" aria-label="Grade of {safe(product.title)}" '
        f'data-pair="{safe(json.dumps(pair))}" data-given="{given}"{open_}>{buttons}</span>'
    )


def _grading(service: Service, state: State) -> str:
    """Who grades, undo, the next product without a grade, qrels; a hosted demo keeps the grades in the browser."""
    if state.look == "lines" or state.query not in service.labels[state.split]:
        return ""
    here, queries, first = pending(service, state)
    query = state.query if (here and service.judgements) or first is None else first
    left = f"{here:,} unjudged in these lists, {queries:,} in those of all queries; 0 to 4 grade, n goes on"
    following = link(state, "Grade next", query=query, item="", kind="grade-next button", id="grade-next")
    if service.judgements is None:
        kept, out = (
            "browser",
            "".join(
                f'<button type="button" data-save="{form}">{name}</button>'
                for form, name in (("trec", "Qrels"), ("csv", "CSV"))
            ),
        )
    else:
        kept = "file"
        out = f"{download(state, 'judgements.txt', 'Qrels')} {download(state, 'judgements.csv', 'CSV')}" + (
            '<label class="button" for="import">Import</label>'
            '<input type="file" id="import" class="unseen" accept=".txt,.qrels,.trec,.csv">'
        )
    return (
        f'<section class="grading" data-script="grade" data-kept="{kept}" aria-label="Grading">'
        '<label>Judge <input name="judge" maxlength="100" placeholder="me"></label>'
        '<label>Note <input name="note" maxlength="500"></label>'
        f'<button type="button" data-undo id="grade-undo">Undo</button>{following}{out}<span class="note">{left}'
        "</span><output></output></section>"
    )


# -- rank-flow lines ---------------------------------------------------------------------------------------------------


def _lines(service: Service, state: State, rankings: Mapping[str, Ranking], ideal: Sequence[Product]) -> str:
    """The lists side by side, the ideal order after A, with a line from each product to its rank in the next list."""
    marks = {ranking.model: mark for mark, ranking in rankings.items()}
    sides = [(mark, _head(service, mark, rankings), ranking.products[:TOP]) for mark, ranking in rankings.items()]
    if ideal:
        sides.insert(1, (IDEAL, _ideal_head(rankings), ideal))
    columns: list[str] = []
    for place, (mark, head, products) in enumerate(sides):
        if place:
            columns.append(_flow(sides[place - 1][2], products))
        rows = "".join(
            _row(service, state, mark, product, _mark(product, rankings, mark, marks)) for product in products
        )
        columns.append(f'<div class="side">{head}<ol>{rows}</ol></div>')
    return _side_by_side("sides flow", columns, len(sides))


def _mark(product: Product, rankings: Mapping[str, Ranking], mark: str, marks: Mapping[str, str]) -> str:
    return _places(product, marks) if mark == IDEAL else _change(product, rankings, mark)


def _flow(left: Sequence[Product], right: Sequence[Product]) -> str:
    """Lines between two lists; a product that the other list lacks leads to its lower edge."""
    places = [{product.item: rank for rank, product in enumerate(side)} for side in (left, right)]
    levels = {product.item: product.level for product in (*left, *right)}
    low = TOP + 0.2
    lines = []
    for item, level in sorted(levels.items(), key=lambda pair: pair[1]):
        a, b = (side.get(item) for side in places)
        (x1, y1), (x2, y2) = (0.0, low if a is None else a + 0.5), (10.0, low if b is None else b + 0.5)
        x1, x2 = (4.0 if a is None else x1), (6.0 if b is None else x2)
        gone = " gone" if a is None or b is None else ""
        path = f"M{x1} {y1} C{(x1 + x2) / 2} {y1} {(x1 + x2) / 2} {y2} {x2} {y2}"
        lines.append(f'<path class="level{level}{gone}" data-item="{item}" d="{path}"></path>')
    return (
        f'<svg class="lines" viewBox="0 0 10 {TOP + 0.3}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(lines)}</svg>"
    )
