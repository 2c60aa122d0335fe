"""Map: what is shown below the points that `map.js` draws: legend, what a map preserves, details, selection."""

from __future__ import annotations

import base64
import json
from math import nan

import numpy as np

from gcl_toolkit.app import mapping
from gcl_toolkit.app.answers import Product
from gcl_toolkit.app.draw import cells, details, download, grid, letter, link, number, picture, safe, view
from gcl_toolkit.app.limits import MAX_GRID, MAX_ROWS
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State

LISTED = 10
"""Products of A's list beside the map."""


def draw(service: Service, state: State) -> str:
    selection = mapping.select(service, state)
    shown = list(dict.fromkeys([state.a] if state.panels == "a" else [state.a, state.b]))
    kept = "".join(_kept(service, mark, system) for mark, system in zip("AB", shown, strict=False))
    missing = [name for name in service.bundle.systems if name not in service.searchable]
    without = f"<li>Not shown, as they have no vectors: {safe(', '.join(missing))}.</li>" if missing else ""
    return view(
        f'<div data-script="map" data-map="{safe(json.dumps(_facts(service, state, shown, selection)))}"></div>'
        f'{_legend(service, state)}<ul class="kept">{kept}{without}</ul>{details(service, state)}'
        f"{_first(service, state)}{_selection(service, state, selection)}",
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
        "queries": len(service.labels[state.split]),
        "version": service.version,
        "models": shown,
        "colours": f"gcl/colours{state.url()}",
        "over": mapping.over(state),
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


def _kept(service: Service, mark: str, model: str) -> str:
    kept = service.vectors(model).kept
    shares = [f"{100 * kept[name]:.0f} %" for name in ("products_kept", "queries_kept")]
    return (
        f"<li>{letter(mark)} {safe(model)}: this map ({safe(kept['method'])}) preserves "
        f"<b>{shares[0]}</b> of a product’s 10 nearest products and <b>{shares[1]}</b> of a query’s first 10 "
        f"(at random: {100 * kept['chance']:.1f} %). Its distances are approximate; "
        "click a point for its true neighbours.</li>"
    )


def _first(service: Service, state: State) -> str:
    """The query's first products by A, which a keyboard reaches without the map."""
    found = service.search(state.split, state.query, state.a, k=LISTED).products
    items = "".join(_small(service, state, product) for product in found)
    return f'<section><h3>First by A for “{safe(state.query)}”</h3><ol class="grid">{items}</ol></section>'


def _selection(service: Service, state: State, selection: mapping.Selection | None) -> str:
    if selection is None:
        how = "Draw around points with the lasso to see them as pictures and a table, and to download them as CSV."
        return f'<p class="note">{how}</p>'
    products, queries = selection.products, selection.queries
    pictures = "".join(_small(service, state, service.product(int(row), 0, nan)) for row in products[:MAX_GRID])
    more = f"; the first {MAX_GRID} are shown" if len(products) > MAX_GRID else ""
    names = [service.label(row) for row in queries[:MAX_GRID].tolist()]
    asked = "".join(f"<li>{link(state, safe(name), query=name)}</li>" for name in names)
    return (
        f'<section class="selection"><p class="sentence"><b class="count">{len(products):,}</b> products and '
        f"<b>{len(queries):,}</b> queries are selected{more}. "
        f"{link(state, 'Clear', lasso='', id='clear')} {download(state, 'selection.csv', 'Download CSV')}</p>"
        f'<ol class="grid">{pictures}</ol>{f"<ul class=asked-queries>{asked}</ul>" if asked else ""}'
        f"{_table(service, state)}</section>"
    )


def _small(service: Service, state: State, product: Product) -> str:
    shown = f'{picture(service, product.item, product.title)}<span class="unseen">{safe(product.title)}</span>'
    return (
        f'<li data-item="{product.item}" title="{safe(product.title)}">'
        f"{link(state, shown, item=str(product.item))}</li>"
    )


def _table(service: Service, state: State) -> str:
    table = mapping.selected(service, state)
    rows = (
        cells(link(state, safe(first), item=str(row)), *map(_cell, values), attributes=f' data-item="{row}"')
        for row, first, *values in table.head(MAX_ROWS).itertuples()
    )
    shown = grid("Selected products", map(safe, table.columns), rows)
    return f'<details class="rows"><summary>As a table</summary>{shown}</details>'


def _cell(value) -> str:
    if value is None or value != value or str(value) == "<NA>":
        return "–"
    return number(value, 0) if isinstance(value, float) and value.is_integer() else safe(value)
