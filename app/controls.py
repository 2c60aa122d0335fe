"""The controls of a tab, as native form elements. page.js turns their changes into a new URL."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gcl_toolkit.app.draw import link, safe
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import COLOURS, LOOKS, MAX_ALSO, ORDERS, PANELS, TABS, State
from gcl_toolkit.data.weighting import WEIGHTINGS

RESETS = {"split": "query slice image item", "a": "weight", "query": "image"}
"""Control -> parameters that return to their defaults when it changes."""
FIRST = "query"
"""The control that a phone shows outside the folded ones."""


def controls(service: Service, state: State) -> str:
    """The open tab's form; "" for a tab without controls."""
    names = TABS[state.tab].controls
    parts = {name: _CONTROLS[name](service, state) for name in names}
    first, folded = parts.pop(FIRST, ""), "".join(parts.values())
    if folded:
        folded = f'<details id="options"><summary>Systems and options</summary><div>{folded}</div></details>'
    return f'<form id="controls" autocomplete="off">{first}{folded}</form>'


def _named(name: str, label: str, control: str) -> str:
    return f'<div class="control"><label for="control-{name}">{safe(label)}</label>{control}</div>'


def _attributes(name: str) -> str:
    resets = f' data-resets="{RESETS[name]}"' if name in RESETS else ""
    return f'id="control-{name}" name="{name}"{resets}'


def _select(name: str, label: str, choices: Callable[[Service, State], Iterable]) -> Callable[[Service, State], str]:
    """choices: values, or pairs of value and label; without a choice to make, there is no control."""

    def drawn(service: Service, state: State) -> str:
        pairs = [c if isinstance(c, tuple) else (c, c) for c in choices(service, state)]
        now = getattr(state, name)
        options = "".join(
            f'<option value="{safe(value)}"{" selected" if value == now else ""}>{safe(text)}</option>'
            for value, text in pairs
        )
        select = f"<select {_attributes(name)}>{options}</select>"
        if name == "b":
            select = f'<div class="row">{select}{_swap(state)}</div>'
        return _named(name, label, select) if len(pairs) > 1 else ""

    return drawn


def _radio(name: str, label: str, choices: dict[str, str]) -> Callable[[Service, State], str]:
    def drawn(service: Service, state: State) -> str:
        boxes = "".join(
            f'<label><input type="radio" id="control-{name}-{value}" name="{name}" value="{value}"'
            f"{' checked' if getattr(state, name) == value else ''}>{safe(text)}</label>"
            for value, text in choices.items()
        )
        return _group(label, boxes)

    return drawn


def _group(label: str, boxes: str) -> str:
    return f'<fieldset class="control"><legend>{safe(label)}</legend><div class="boxes">{boxes}</div></fieldset>'


def _range(name: str, label: str, low: float, high: float, step: float) -> Callable[[Service, State], str]:
    def drawn(service: Service, state: State) -> str:
        value = getattr(state, name)
        return _slider(name, label, low, high, step, value)

    return drawn


def _slider(name: str, label: str, low: float, high: float, step: float, value: float) -> str:
    return (
        f'<div class="control"><label for="control-{name}">{safe(label)} <output>{value:g}</output></label>'
        f'<input type="range" {_attributes(name)} min="{low:g}" max="{high:g}" step="{step:g}" value="{value:g}"></div>'
    )


def _weight(service: Service, state: State) -> str:
    blend = service.blend(state.a)
    return _slider("weight", f"Weight of {blend[0]}, the rest {blend[1]}", 0, 1, 0.01, state.weight) if blend else ""


def _text(name: str, label: str, example: str) -> Callable[[Service, State], str]:
    def drawn(service: Service, state: State) -> str:
        value = safe(getattr(state, name))
        return _named(name, label, f'<input type="text" {_attributes(name)} value="{value}" placeholder="{example}">')

    return drawn


def _query(service: Service, state: State) -> str:
    """Any text; the stored queries are suggestions. A picture takes the text's place until it is removed."""
    offers = "".join(f"<option>{safe(label)}</option>" for label in service.choices(state.split))
    picture = bool(state.image) and state.tab == "search"
    value = "" if picture else safe(state.query)
    hint = "Searching by picture; type to search by text" if picture else "Type any text"
    label = "Query: choose one or type any text"
    if not service.searchable:  # rankings know the stored queries only
        hint, label = "Choose a query", "Query: choose one of those ranked"
    box = (
        f'<input type="text" {_attributes("query")} value="{value}" list="queries" placeholder="{hint}" '
        'enterkeyhint="search">'
    )
    return (
        f'<div class="control wide-control"><label for="control-query">{label}</label>'
        f'<div class="row">{box}<datalist id="queries">{offers}</datalist>{_picture(state)}</div></div>'
    )


def _picture(state: State) -> str:
    if state.image:
        where = "" if state.tab == "search" else " (Search uses it; this view uses the text)"
        remove = link(state, "×", image="", label="Remove the picture and search by text")
        return (
            f'<span class="chip"><img alt="" width="32" height="32" src="gcl/upload/{safe(state.image)}">'
            f"Picture{where} {remove}</span>"
        )
    if state.tab != "search":
        return ""
    accepted = "image/jpeg,image/png,image/webp"
    return (
        '<label class="button" for="control-upload" title="Search by picture">Picture …</label>'
        f'<input type="file" id="control-upload" name="upload" class="unseen" accept="{accepted}">'
    )


def _swap(state: State) -> str:
    return link(state, "⇄", a=state.b, b=state.a, weight="", label="Swap A and B", id="swap", kind="button")


def _also(service: Service, state: State) -> str:
    """Up to MAX_ALSO systems besides A and B."""
    chosen = [name for name in state.also.split(",") if name]
    others = [name for name in service.bundle.systems if name not in (state.a, state.b)]
    if not others:
        return ""
    boxes = "".join(
        f'<label><input type="checkbox" id="control-also-{at}" name="also" value="{safe(name)}"'
        f"{' checked' if name in chosen else ' disabled' if len(chosen) >= MAX_ALSO else ''}>{safe(name)}</label>"
        for at, name in enumerate(others)
    )
    return _group(f"Also (at most {MAX_ALSO})", boxes)


def _systems(service: Service, state: State) -> list[str]:
    return service.searchable if TABS[state.tab].needs == "vectors" else list(service.bundle.systems)


_CONTROLS: dict[str, Callable[[Service, State], str]] = {
    "query": _query,
    "a": _select("a", "A", _systems),
    "b": _select("b", "B, the baseline", _systems),
    "also": _also,
    "split": _select("split", "Split", lambda service, state: service.bundle.splits),
    "weight": _weight,
    "more": _text("more", "More of", "striped, red:0.8"),
    "less": _text("less", "Less of", "vintage"),
    "look": _radio("look", "View", LOOKS),
    "metric": _select("metric", "Metric", lambda service, state: [str(m) for m in service.bundle.metrics]),
    "order": _select("order", "Order", lambda service, state: [*ORDERS.items()]),
    "division": _select("division", "Division", lambda service, state: service.divisions),
    "slice": _select("slice", "Slice", lambda service, state: service.slices(state.split)),
    "find": _text("find", "Queries with", "red mug"),
    "panels": _radio("panels", "Maps", PANELS),
    "colour": _select("colour", "Colour by", lambda service, state: COLOURS),
    "weighting": _select("weighting", "Score → weight", lambda service, state: [*WEIGHTINGS]),
    "temperature": _range("temperature", "Temperature τ", 0.005, 0.5, 0.005),
    "score": _range("score", "Score of the first pair", 1, 100, 1),
}
