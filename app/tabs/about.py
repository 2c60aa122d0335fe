"""About: what the bundle contains, what the numbers mean, and the limits of the app."""

from __future__ import annotations

from gcl_toolkit.app.draw import safe, view
from gcl_toolkit.app.limits import MAX_K, MAX_QUERY
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State

API = {
    "/search": ("query, split, model, weight, more, less, k", "The first k products for a query."),
    "/compare": ("query, split, a, b, k", "Two models, the ideal order, and their difference in a sentence."),
    "/neighbours": ("product_id, model, k", "The products nearest to one in a model’s embedding space."),
}
"""Endpoint -> its parameters and its answer, as in api.py."""
LIMITS = (
    "Embeddings are stored as float16, so cosines may differ from the model’s by about 0.001.",
    "The numbers come from one training run per model; gcl compare --seeds shows how much runs differ.",
    f"Texts are limited to {MAX_QUERY} characters, lists to {MAX_K} products.",
    "A product that isn’t in a query’s list counts as irrelevant, although it may be relevant.",
    "Nothing leaves this machine: no analytics, no fonts or scripts from other hosts.",
)


def draw(service: Service, state: State) -> str:
    manifest, bundle = service.bundle.manifest, service.bundle
    card = {key: value for key, value in manifest["card"].items() if isinstance(value, (str, int, float))}
    card = {key: value for key, value in card.items() if key not in ("name", "pairs")}  # shown elsewhere
    facts = {
        "data": manifest["world"],
        "made": manifest["made"],
        "products": f"{len(bundle.items):,}",
        "scored pairs": f"{len(bundle.qrels):,}",
        **{key: f"{value:,.4g}" if isinstance(value, float) else value for key, value in card.items()},
        **{f"study: {key}": value for key, value in manifest["study"].items()},
    }
    models = {name: f"{r.about or 'trained by this study'} [{_fields(r.fields)}]" for name, r in bundle.models.items()}
    splits = {
        name: f"{part['about']} {_size(part['queries'])} queries, {_size(part['items'])} products."
        for name, part in manifest["splits"].items()
    }
    metrics = {str(metric): definition for metric, definition in bundle.metrics.items()}
    api = {name: f"{answer} ({parameters})" for name, (parameters, answer) in API.items()}
    limits = "".join(f"<li>{safe(limit)}</li>" for limit in LIMITS)
    return view(
        state,
        f'<div class="prose"><h3>Models</h3>{_list(models)}<h3>Splits</h3>{_list(splits)}'
        f"<h3>Metrics</h3><p>All are between 0 and 1; larger is better.</p>{_list(metrics)}"
        f"<h3>API</h3><p>gradio_client.Client(this page’s address).predict(..., api_name=...):</p>{_list(api)}"
        "<p>With gcl app --mcp, the same three are tools of an MCP server at gradio_api/mcp/.</p>"
        f"<h3>Limits</h3><ul>{limits}</ul><h3>Bundle</h3>{_list(facts)}</div>",
    )


def _list(entries: dict) -> str:
    return "<dl>" + "".join(f"<dt>{safe(key)}</dt><dd>{safe(value)}</dd>" for key, value in entries.items()) + "</dl>"


def _fields(fields) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in fields.items())


def _size(span: list[int]) -> str:
    return f"{span[1] - span[0]:,}"
