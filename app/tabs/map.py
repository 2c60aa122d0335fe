"""Map: what is shown below the points that `map.js` draws: legend, what a map preserves, details, selection."""

from __future__ import annotations

import base64
import json

import numpy as np

from gcl_toolkit.app import mapping
from gcl_toolkit.app.draw import details, download, number, picture, safe, view
from gcl_toolkit.app.limits import MAX_GRID, MAX_ROWS
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State

MAP = '<div class="map"></div>'


def draw(service: Service, state: State) -> str:
    selection = mapping.select(service, state)
    shown = [state.a] if state.panels == "a" else [state.a, state.b]
    kept = "".join(_kept(service, letter, model) for letter, model in zip("AB", shown, strict=False))
    return view(
        state,
        f'<div data-map="{safe(json.dumps(_facts(service, state, shown, selection)))}"></div>'
        f'{_legend(service, state)}<ul class="kept">{kept}</ul>'
        f"{details(service, state)}{_selection(service, state, selection)}",
    )


def _facts(service: Service, state: State, shown: list[str], selection: mapping.Selection | None) -> dict:
    """For map.js: points, colours, edges, neighbours, and one bit per point for the selection."""
    query, edges = mapping.edges(service, state)
    near = service.neighbours(int(state.item), state.a).products if state.item else []
    chosen = np.zeros(len(service.bundle.items) + len(service.bundle.queries), bool)
    if selection is not None:
        chosen[selection.products] = True
        chosen[len(service.bundle.items) + selection.queries] = True
    return {
        "items": len(service.bundle.items),
        "version": service.version,
        "models": shown,
        "colours": f"gcl/colours{state.url()}",
        "query": query,
        "edges": edges,
        "item": int(state.item) if state.item else None,
        "near": [product.item for product in near],
        "lasso": state.lasso,
        "chosen": base64.b64encode(np.packbits(chosen, bitorder="little")).decode() if selection is not None else "",
    }


def _legend(service: Service, state: State) -> str:
    kind = {"score": "level", "difference": "change"}.get(state.colour, "group")
    swatches = "".join(
        f'<span><i class="{kind}{colour}" data-colour="{colour}"></i>{safe(meaning)}</span>'
        for colour, meaning in mapping.legend(service, state)
    )
    query = f'<span><i class="query" data-colour="{mapping.QUERY}"></i>query of {safe(state.split)}</span>'
    return f'<p class="swatches">{swatches}{query}</p>'


def _kept(service: Service, letter: str, model: str) -> str:
    kept = service.ranker(model).kept
    shares = [f"{100 * kept[name]:.0f} %" for name in ("products_kept", "queries_kept")]
    return (
        f'<li><span class="letter">{letter}</span> {safe(model)}: this map ({safe(kept["method"])}) preserves '
        f"<b>{shares[0]}</b> of a product’s 10 nearest products and <b>{shares[1]}</b> of a query’s first 10 "
        f"(at random: {100 * kept['chance']:.1f} %). Its distances are approximate; "
        "click a point for its true neighbours.</li>"
    )


def _selection(service: Service, state: State, selection: mapping.Selection | None) -> str:
    if selection is None:
        how = "Draw around points with the lasso to see them as pictures and a table, and to download them as CSV."
        return f'<p class="note">{how}</p>'
    products, queries = selection.products, selection.queries
    grid = "".join(_small(service, int(row)) for row in products[:MAX_GRID])
    more = f"; the first {MAX_GRID} are shown" if len(products) > MAX_GRID else ""
    labels = {row: label for label, row in service.labels[state.split].items()}
    asked = "".join(
        f'<li><button type="button" data-query="{safe(labels[row])}">{safe(labels[row])}</button></li>'
        for row in queries[:MAX_GRID].tolist()
    )
    return (
        f'<section class="selection"><p class="sentence"><b class="count">{len(products):,}</b> products and '
        f"<b>{len(queries):,}</b> queries are selected{more}. "
        f'<button type="button" data-lasso="">Clear</button> {download(state, "selection.csv", "Download CSV")}</p>'
        f'<ol class="grid">{grid}</ol>{f"<ul class=asked-queries>{asked}</ul>" if asked else ""}'
        f"{_table(service, state)}</section>"
    )


def _small(service: Service, row: int) -> str:
    title = safe(service.product(row, 0, float("nan")).title)
    return f'<li data-item="{row}" title="{title}">{picture(service, row)}</li>'


def _table(service: Service, state: State) -> str:
    table = mapping.selected(service, state)
    head = "".join(f"<th>{safe(name)}</th>" for name in table.columns)
    rows = "".join(
        f'<tr data-item="{row}">' + "".join(f"<td>{_cell(value)}</td>" for value in values) + "</tr>"
        for row, *values in table.head(MAX_ROWS).itertuples()
    )
    return (
        '<details class="rows"><summary>As a table</summary><table class="queries"><thead>'
        f"<tr>{head}</tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _cell(value) -> str:
    if value is None or value != value or str(value) == "<NA>":
        return "–"
    return number(value, 0) if isinstance(value, float) and value.is_integer() else safe(value)
