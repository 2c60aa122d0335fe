"""Queries: every query with the metric of each system and its unjudged products; a row opens the comparison."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from gcl_toolkit.app.answers import TOP
from gcl_toolkit.app.draw import cells, download, grid, letter, link, number, safe, view
from gcl_toolkit.app.limits import MAX_ROWS
from gcl_toolkit.app.scores import pairs_of
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.app.verdicts import Against, against, letters
from gcl_toolkit.measure.unjudged import grades, unjudged

TIE = 0.0005
"""Smaller differences are shown as equal."""
BARS = 10
"""Bars of wins, and of losses, in the histogram."""


def draw(service: Service, state: State) -> str:
    table = chosen(service, state)
    if table.empty:
        return view('<p class="note">No queries; choose another split, division, slice or text.</p>')
    wins, losses = (int((sign * table["difference"] >= TIE).sum()) for sign in (1, -1))
    summary = (
        f"{state.a} is better on {wins} of {len(table)} queries, {state.b} on {losses}; they are equal on "
        f"{len(table) - wins - losses}."
    )
    cut = f"The first {MAX_ROWS:,} are shown; the CSV contains all." if len(table) > MAX_ROWS else ""
    return view(
        f'<p class="sentence">{safe(summary)}</p>{_interval([] if state.find else against(service, state))}'
        f"{histogram(table['difference'].to_numpy(), f'{state.metric}, A − B')}"
        f'{download(state, "queries.csv", "Download CSV")}{_table(service, state, table)}<p class="note">{cut}</p>',
    )


def chosen(service: Service, state: State) -> pd.DataFrame:
    """The table that is shown, and downloaded as CSV: with the unjudged products of each system's first ten."""
    table = service.queries(state)
    table = table[np.array([state.find.lower() in text.lower() for text in table["query"]], bool)].copy()
    rows = np.sort(table["row"].to_numpy())
    place, qrels = np.searchsorted(rows, table["row"]), pairs_of(service.qrels, rows)
    for mark, name in letters(service, state).items():
        shown_Qxk = service.system(name).ranking_QxK[rows, :TOP]
        table[f"unjudged {mark.lower()}"] = unjudged(grades(qrels, shown_Qxk), TOP)[place]
    return table


def _interval(found: list[Against]) -> str:
    """The same numbers as in the verdict."""
    if not found:
        return ""
    d = found[0].found.difference
    p_value = f"p = {d.p_value:.3f}" if d.p_value >= 0.001 else "p &lt; .001"
    return (
        f'<p class="note">Mean {safe(d.metric)}: A {number(d.mean_a)}, B {number(d.mean_b)}; '
        f"A − B = <b>{number(d.difference)}</b>, 95 % interval {number(d.low)} to {number(d.high)} "
        f"(paired over these queries), {p_value}.</p>"
    )


def histogram(values_Q: np.ndarray, title: str) -> str:
    """Queries by difference: losses on the left, ties in the middle, wins on the right, in the colours of B and A.

    Plain elements, whose hatching doesn't depend on the page's address.
    """
    limit = max(0.1, np.ceil(10 * np.abs(values_Q).max()) / 10)
    edges = np.linspace(0, limit, BARS + 1)
    wins, losses = (np.histogram(side[side >= TIE], edges)[0] for side in (values_Q, -values_Q))
    ties = len(values_Q) - wins.sum() - losses.sum()
    spans = [f"{low:.2f} to {high:.2f}" for low, high in pairwise(edges)]
    bars = [("b", f"B by {span}", count) for span, count in zip(spans, losses, strict=True)][::-1]
    bars += [("tie", "equal", ties), *(("a", f"A by {span}", count) for span, count in zip(spans, wins, strict=True))]
    most = max(count for _, _, count in bars)
    drawn = "".join(
        f'<i class="{kind}" style="height:{100 * count / most:.1f}%" title="{span}: {count} queries"></i>'
        for kind, span, count in bars
    )
    label = f"{title}: B is better on {losses.sum()} queries, equal on {ties}, A on {wins.sum()}"
    ends = f"<span>{letter('B')} by {limit:.1f}</span><span>equal</span><span>{letter('A')} by {limit:.1f}</span>"
    return (
        f'<figure class="histogram"><div role="img" aria-label="{safe(label)}">{drawn}</div><p>{ends}</p>'
        f"<figcaption>{safe(title)}; the tallest bar has {most:,} queries</figcaption></figure>"
    )


def _table(service: Service, state: State, table: pd.DataFrame) -> str:
    marks = letters(service, state)
    heads = [_head(state, "query", "Query")]
    for mark, name in marks.items():
        shown = f"{letter(mark)} {safe(name)}"
        heads.append(_head(state, mark.lower(), shown) if mark in "AB" else shown)
    heads += [_head(state, "difference", "A − B"), _head(state, "unjudged", f"Unjudged@10 {' '.join(marks)}")]
    widest = max(table["difference"].abs().max(), 1e-9)
    rows = [_row(state, row, marks, widest) for row in table.head(MAX_ROWS).to_dict("records")]
    return grid("Queries", heads, rows, "sortable")


def _head(state: State, order: str, html: str) -> str:
    """Sorts by its column; again: the other way."""
    sign = {order: " ▲", f"-{order}": " ▼"}.get(state.order, "")
    return link(state, html + sign, order=f"-{order}" if state.order == order else order, id=f"sort-{order}")


def _row(state: State, row: dict, marks: dict[str, str], widest: float) -> str:
    """The bar starts in the middle: to the right where A is better."""
    difference = row["difference"]
    side, width = ("a" if difference > 0 else "b"), 50 * abs(difference) / widest
    bar = f'<span class="bar"><i class="{side}" style="width:{width:.1f}%"></i></span>'
    title = link(state, safe(row["query"]), tab="compare", query=row["query"], item="")
    values = [number(row[mark.lower()]) for mark in marks]
    holes = " ".join(f"{row[f'unjudged {mark.lower()}']:.0f}" for mark in marks)
    return cells(title, *values, f"{number(difference)}{bar}", holes, attributes=f' data-query="{safe(row["query"])}"')
