"""Queries: every query with the metric of both models; a row opens the comparison."""

from __future__ import annotations

from gcl_toolkit.app.draw import download, figure, number, safe, view
from gcl_toolkit.app.limits import MAX_ROWS
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.measure.statistics import Difference


def draw(service: Service, state: State) -> str:
    from gcl_toolkit.views.figures import TIE, differences

    table = chosen(service, state)
    if table.empty:
        return view(state, '<p class="note">No queries; choose another split, division or slice.</p>')
    wins, losses = (int((sign * table["difference"] >= TIE).sum()) for sign in (1, -1))
    summary = (
        f"{state.a} is better on {wins} of {len(table)} queries, {state.b} on {losses}; they are equal on "
        f"{len(table) - wins - losses}."
    )
    widest = max(table["difference"].abs().max(), 1e-9)
    rows = "".join(_row(row, widest) for row in table.head(MAX_ROWS).itertuples())
    cut = (
        f'<p class="note">The first {MAX_ROWS:,} are shown; the CSV contains all.</p>' if len(table) > MAX_ROWS else ""
    )
    head = "".join(f"<th>{safe(n)}</th>" for n in ("Query", f"A {state.a}", f"B {state.b}", "A − B"))
    return view(
        state,
        f'<p class="sentence">{safe(summary)}</p>{_interval(service.difference(table, state.metric))}'
        f"{figure(differences(table['difference'].tolist(), f'{state.metric}, A − B'))}"
        f"{download(state, 'queries.csv', 'Download CSV')}"
        f'<table class="queries"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{cut}',
    )


def chosen(service: Service, state: State):
    """The table that is shown, and downloaded as CSV."""
    return service.queries(state.split, state.a, state.b, state.metric, state.order, state.division, state.slice)


def _interval(d: Difference | None) -> str:
    if d is None:
        return ""
    p_value = f"p = {d.p_value:.3f}" if d.p_value >= 0.001 else "p &lt; .001"
    return (
        f'<p class="note">Mean {safe(d.metric)}: A {number(d.mean_a)}, B {number(d.mean_b)}; '
        f"A − B = <b>{number(d.difference)}</b>, 95 % interval {number(d.low)} to {number(d.high)} "
        f"(paired over these queries, one training run each), {p_value}.</p>"
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
