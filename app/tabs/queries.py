"""Queries: every query with the metric of both models; a row opens the comparison."""

from __future__ import annotations

from app.draw import download, figure, number, safe, view
from app.limits import MAX_ROWS
from app.service import Service
from app.state import State
from gcl_toolkit.statistics import Difference


def draw(service: Service, state: State) -> str:
    from gcl_toolkit.figures import TIE, differences

    table = chosen(service, state)
    if table.empty:
        return view(state, '<p class="note">No query here; choose another split, division or slice.</p>')
    wins, losses = (int((sign * table["difference"] >= TIE).sum()) for sign in (1, -1))
    said = (
        f"{state.a} is better on {wins} of {len(table)} queries, {state.b} on {losses}; they are equal on "
        f"{len(table) - wins - losses}."
    )
    widest = max(table["difference"].abs().max(), 1e-9)
    rows = "".join(_row(row, widest) for row in table.head(MAX_ROWS).itertuples())
    cut = f'<p class="note">The first {MAX_ROWS:,} are shown; the CSV has all.</p>' if len(table) > MAX_ROWS else ""
    head = "".join(f"<th>{safe(n)}</th>" for n in ("Query", f"A {state.a}", f"B {state.b}", "A − B"))
    return view(
        state,
        f'<p class="sentence">{safe(said)}</p>{_interval(service.difference(table, state.metric))}'
        f"{figure(differences(table['difference'].tolist(), f'{state.metric}, A − B'))}"
        f"{download(state, 'queries.csv', 'Download CSV')}"
        f'<table class="queries"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{cut}',
    )


def chosen(service: Service, state: State):
    """The table that is shown, and saved as CSV."""
    return service.queries(state.split, state.a, state.b, state.metric, state.order, state.division, state.slice)


def _interval(found: Difference | None) -> str:
    if found is None:
        return ""
    p_value = f"p = {found.p_value:.3f}" if found.p_value >= 0.001 else "p &lt; .001"
    return (
        f'<p class="note">Mean {safe(found.metric)}: A {number(found.mean_a)}, B {number(found.mean_b)}; '
        f"A − B = <b>{number(found.difference)}</b>, 95 % interval {number(found.low)} to {number(found.high)} "
        f"(paired, over these queries, one training each), {p_value}.</p>"
    )


def _row(row, widest: float) -> str:
    """The bar starts in the middle: to the right where A is better."""
    side, width = ("a" if row.difference > 0 else "b"), 50 * abs(row.difference) / widest
    bar = f'<span class="bar"><i class="{side}" style="width:{width:.1f}%"></i></span>'
    return (
        f'<tr data-query="{safe(row.query)}"><td><button type="button">{safe(row.query)}</button></td>'
        f"<td>{number(row.a)}</td><td>{number(row.b)}</td>"
        f'<td class="difference">{number(row.difference)}{bar}</td></tr>'
    )
