"""Verdict: is A better than the baseline B? In a sentence, by how much, on which queries, and how sure one can be."""

from __future__ import annotations

import numpy as np

from gcl_toolkit.app.draw import badge, cells, download, grid, letter, link, number, picture, safe, term, view
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.app.verdicts import Against, about, against, by_models, groups, judges, letters
from gcl_toolkit.measure.verdict import Verdict

PICTURES = 6
"""Products shown of each system in the two example queries."""


def draw(service: Service, state: State) -> str:
    found = against(service, state)
    if not found:
        why = "A verdict needs two systems, and two queries with judgements; choose another system, split or slice."
        return view(f'<p class="message" role="status">{why}</p>{_systems(service, state)}')
    first = found[0].found
    warnings = "".join(f'<p class="warning">{safe(text)}</p>' for text in first.warnings)
    return view(
        f'<h2 class="sentence verdict">{safe(first.sentence)}</h2>{interval(first)}{warnings}'
        f"{_systems(service, state)}{_words(service, state)}{_examples(service, state)}{_exports(state)}"
        f"{_against(service, state, found)}{_unjudged(service, state, found)}{_slices(service, state, first)}"
        f"{_by_models(service, state)}{_judges(service)}",
    )


# -- the first minute --------------------------------------------------------------------------------------------------


def interval(found: Verdict) -> str:
    """The difference with its interval on a scale with 0, and its bounds where unjudged products leave some."""
    d, bounds = found.difference, found.bounds if found.bounds[0] < found.bounds[1] else None
    ends = [0.0, d.low, d.high, *(bounds or ())]
    margin = max(0.08 * (max(ends) - min(ends)), 1e-3)
    low, wide = min(ends) - margin, max(ends) - min(ends) + 2 * margin

    def at(value: float) -> float:
        return 100 * (value - low) / wide

    def span(kind: str, start: float, stop: float) -> str:
        return f'<i class="{kind}" style="left:{at(start):.2f}%;width:{(at(stop) - at(start)):.2f}%"></i>'

    label = f"{d.metric} of A minus B: {signed(d.difference)}, 95 % interval {_range(d.low, d.high)}"
    label += f", with the unjudged as worst and as best {_range(*bounds)}" if bounds else ""
    ticks = f'<b style="left:{at(d.difference):.2f}%"></b><span class="zero" style="left:{at(0):.2f}%">0</span>'
    return (
        f'<div class="interval" role="img" aria-label="{safe(label)}" title="{safe(label)}"><span>B is better</span>'
        f'<div class="scale">{span("bounds", *bounds) if bounds else ""}{span("range", d.low, d.high)}{ticks}</div>'
        f"<span>A is better</span></div>"
    )


def _systems(service: Service, state: State) -> str:
    """What A, B and the others are, in words."""
    cards = "".join(
        f'<div class="system"><h3>{letter(mark)} {safe(name)}{" <small>the baseline</small>" if mark == "B" else ""}'
        f"</h3><p>{safe(about(service, name))}</p></div>"
        for mark, name in letters(service, state).items()
    )
    return f'<div class="two">{cards}</div>{_only(service, state)}'


def _only(service: Service, state: State) -> str:
    """What the one difference is, where B is A without something, as the names of controls say."""
    name, _, missing = service.system(state.b).about.partition(":")[0].partition(" - ")
    if name != state.a or not missing:
        return ""
    what = safe(missing)
    return f'<p class="only">B was trained like A, but without {what}: the difference shows what the {what} bring.</p>'


def _words(service: Service, state: State) -> str:
    """What a score is, what was measured, and on which queries."""
    missing = (
        "a product that is not in a query’s list counts as irrelevant"
        if service.bundle.manifest["unlisted"] == "irrelevant"
        else f"{term(service, 'unjudged')} products count as irrelevant, though they may not be"
    )
    chosen = [] if service.bundle.splits == ["all"] else [term(service, state.split, state.split.replace("_", "-"))]
    chosen += [] if state.division == "all" else [term(service, state.division)]
    chosen += [] if state.slice == "all" else [safe(state.slice)]
    about = service.bundle.manifest["splits"][state.split]["about"] if service.bundle.splits != ["all"] else ""
    measured = f"Measured on these queries: {', '.join(chosen)}. {safe(about)}" if chosen else ""
    return (
        f'<p class="note">Each product has a {term(service, "score")} for a query, here up to {service.bounds[-1]:g}; '
        f"{missing}. {term(service, state.metric)} is 1 where the best products come first, 0 where none is shown. "
        f"{measured}</p>"
    )


def _examples(service: Service, state: State) -> str:
    """One query where A wins and one where it loses, each with the first products of both."""
    rows = _chosen_examples(service, state)
    return '<div class="two">' + "".join(_example(service, state, kind, row) for kind, row in rows.items()) + "</div>"


def _chosen_examples(service: Service, state: State) -> dict[str, int]:
    """The bundle's choice for its first two systems; for others the queries with the largest differences."""
    opening = service.bundle.manifest["opening"].get(state.split, {})
    if (state.a, state.b) == service.bundle.pair and opening and state.slice == "all":
        return opening
    table = service.queries_of(state).set_index("row")["difference"]
    sides = {"win": (table.max(), table.idxmax()), "loss": (-table.min(), table.idxmin())}
    return {kind: int(row) for kind, (gap, row) in sides.items() if gap > 0}


def _example(service: Service, state: State, kind: str, row: int) -> str:
    label, lines = service.label(row), ""
    for mark, name in (("A", state.a), ("B", state.b)):
        value = service.metrics(name)[state.metric].iat[row]
        first = [int(item) for item in service.system(name).ranking_QxK[row][:PICTURES] if item >= 0]
        products = "".join(
            f'<span class="small" title="{safe(product.title)}">{picture(service, product.item, product.title)}'
            f"{badge(service, product)}</span>"
            for product in (service.judged_product(row, item) for item in first)
        )
        lines += f'<div class="line">{letter(mark)}<b title="{safe(state.metric)}">{number(value)}</b>{products}</div>'
    words = {"win": "A wins", "loss": "A loses"}[kind] + f": <b>“{safe(label)}”</b>"
    title = link(state, words, tab="compare", query=label, item="", id=f"example-{kind}")
    return f'<section class="example {kind}"><h3>{title}</h3>{lines}</section>'


# -- tables ------------------------------------------------------------------------------------------------------------


def _against(service: Service, state: State, found: list[Against]) -> str:
    """Every chosen system against the baseline, and which can't be separated."""
    heads = ["System", f"Mean {safe(state.metric)}", "Difference to B", term(service, "interval", "95 % interval")]
    heads += [term(service, "p"), *([term(service, "Holm", "p (Holm)")] if len(found) > 1 else []), "Queries"]
    rows = []
    for mark, each, p_value in found:
        d = each.difference
        shown = [number(d.mean_a), signed(d.difference), _range(d.low, d.high), _p(d.p_value)]
        shown += [*([_p(p_value)] if len(found) > 1 else []), f"{d.queries:,}"]
        rows.append((d.difference, cells(f"{letter(mark)} {safe(each.a)}", *shown)))
    mean_b = number(found[0].found.difference.mean_b)
    rows.append((0.0, cells(f"{letter('B')} {safe(state.b)}", mean_b, *["–"] * (len(heads) - 2))))
    ordered = [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
    joined = ["{" + ", ".join(group) + "}" if len(group) > 1 else group[0] for group in groups(service, state)]
    order = f"Best first, in groups that can’t be separated: {'; '.join(joined)}." if len(found) > 1 else ""
    worst = " · ".join(
        link(state, f"worst queries of {mark}", tab="queries", order=mark.lower(), id=f"worst-{mark}") for mark in "AB"
    )
    lost = link(state, "largest losses", tab="queries", order="difference", id="losses")
    return (
        f"<h3>Against the baseline</h3>{grid('Systems', heads, ordered, sorts=True)}"
        f'<p class="note">{safe(order)} See the {worst} · {lost}</p>'
    )


def _unjudged(service: Service, state: State, found: list[Against]) -> str:
    """How far products without a judgement could move the differences, and forms that leave them out."""
    forms = list(found[0].found.variants)
    heads = ["System", "Unjudged in the first 10", "Difference to B"]
    heads += [term(service, "bounds", "With the unjudged as worst and best")] if forms else []
    heads += [term(service, form, form.capitalize()) for form in forms]
    rows = []
    for mark, v, _ in found:
        shown = [f"{v.unjudged[v.a]:.1f}", signed(v.difference.difference)]
        shown += [_range(*v.bounds)] if forms else []
        shown += [f"{signed(d.difference)} <small>{_range(d.low, d.high)}</small>" for d in v.variants.values()]
        rows.append(cells(f"{letter(mark)} {safe(v.a)}", *shown))
    share = f"{found[0].found.unjudged[state.b]:.1f}"
    rows.append(cells(f"{letter('B')} {safe(state.b)}", share, *["–"] * (len(heads) - 2)))
    note = "" if forms else "In these data a product that is not listed counts as irrelevant, so nothing is corrected."
    return (
        f"<h3>{term(service, 'unjudged', 'Unjudged products')}</h3>{grid('Unjudged products', heads, rows, sorts=True)}"
        f'<p class="note">{note}</p>'
    )


def _slices(service: Service, state: State, found: Verdict) -> str:
    """Slices of the queries, the largest loss first."""
    rows = []
    for row in found.slices.to_dict("records"):
        d, name = row["difference"], f"{row['way']}: {row['slice']}"
        few = ' <small class="few" title="fewer than 30 queries: the interval is unreliable">few</small>'
        where = link(state, safe(name), tab="queries", slice=name, order="difference")
        shown = [f"{row['queries']:,}{few if row['few'] else ''}", number(d.mean_a), number(d.mean_b)]
        shown += [signed(d.difference), _range(d.low, d.high), _p(row["p_corrected"])]
        rows.append(cells(where + (' <b class="down">regressed</b>' if row["regressed"] else ""), *shown))
    if not rows:
        return ""
    heads = [
        term(service, "slice", "Slice"),
        "Queries",
        "A",
        "B",
        "A − B",
        "95 % interval",
        term(service, "Holm", "p (Holm)"),
    ]
    lost = int(found.slices["regressed"].sum())
    return f'<h3 id="slices">Slices: {lost} of {len(rows)} regressed</h3>{grid("Slices", heads, rows, sorts=True)}'


def _by_models(service: Service, state: State) -> str:
    """The verdict by each language model's grades, corrected by those of people; "" without one."""
    texts, rows = "", []
    for name, found in by_models(service, state).items():
        notes = [found] if isinstance(found, str) else [found.sentence, *found.warnings]
        texts += f'<p class="note"><b>{safe(name)}</b> {safe(". ".join(notes))}.</p>'
        if not isinstance(found, str):
            each = [found.difference, *found.variants.values()]
            shown = [f"{signed(d.difference)} <small>{_range(d.low, d.high)}</small>" for d in each]
            rows.append(cells(safe(name), *shown))
    heads = ["Judge", term(service, "corrected", "Corrected by people’s grades"), "Judge alone", "People alone"]
    table = grid("Language models", heads, rows) if rows else ""
    return f"<h3>By a language model’s grades</h3>{texts}{table}" if texts else ""


def _judges(service: Service) -> str:
    """How far the people and models that graded agree; "" for fewer than two."""
    rows = [cells(safe(names), number(value, 2), f"{pairs:,}") for names, value, pairs in judges(service)]
    return f"<h3>Agreement of the judges</h3>{grid('Judges', ['Judges', 'Agreement', 'Pairs'], rows)}" if rows else ""


def _exports(state: State) -> str:
    files = (("verdict.html", "Report"), ("queries.csv", "Queries as CSV"), ("qrels.txt", "Qrels"))
    return f'<p class="exports">Save: {" ".join(download(state, name, label) for name, label in files)}</p>'


# -- parts -------------------------------------------------------------------------------------------------------------


def signed(value: float) -> str:
    """With a plus sign where it is positive."""
    return f"+{number(value)}" if value >= 0.0005 else number(value)


def _range(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}"


def _p(value: float) -> str:
    return "–" if np.isnan(value) else "&lt; .001" if value < 0.001 else f"{value:.3f}"
