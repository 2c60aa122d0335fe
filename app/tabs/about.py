"""About: what the bundle holds, what the numbers mean, what the app doesn't do."""

from __future__ import annotations

from app.draw import safe, view
from app.limits import MAX_K, MAX_QUERY
from app.service import Service
from app.state import State

API = {
    "/search": ("query, split, model, weight, more, less, k", "The first k products for a query."),
    "/compare": ("query, split, a, b, k", "Two models and the ideal order, and what differs."),
    "/neighbours": ("product_id, model, k", "The products nearest to one in a model’s own space."),
}
"""Endpoint -> its parameters, and what it answers; as in app/api.py."""
LIMITS = (
    "Embeddings are stored as float16, so cosines may differ from the model’s own by about .001.",
    "Numbers are of one training of each model; gcl compare --seeds tells how much trainings differ.",
    f"A text may have {MAX_QUERY} characters, a list {MAX_K} products.",
    "A product that isn’t in a query’s list counts as irrelevant. It may be relevant all the same.",
    "Nothing leaves this machine: no analytics, no fonts or scripts from elsewhere.",
)


def draw(service: Service, state: State) -> str:
    manifest, bundle = service.bundle.manifest, service.bundle
    card = {key: value for key, value in manifest["card"].items() if isinstance(value, (str, int, float))}
    card = {key: value for key, value in card.items() if key not in ("name", "pairs")}  # told already
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
        name: f"{said['about']} {_size(said['queries'])} queries, {_size(said['items'])} products."
        for name, said in manifest["splits"].items()
    }
    metrics = {str(metric): told for metric, told in bundle.metrics.items()}
    api = {name: f"{told} ({said})" for name, (said, told) in API.items()}
    limits = "".join(f"<li>{safe(limit)}</li>" for limit in LIMITS)
    return view(
        state,
        f'<div class="prose"><h3>Models</h3>{_list(models)}<h3>Splits</h3>{_list(splits)}'
        f"<h3>Metrics</h3><p>All lie between 0 and 1; larger is better.</p>{_list(metrics)}"
        f"<h3>API</h3><p>gradio_client.Client(this page’s address).predict(..., api_name=...):</p>{_list(api)}"
        "<p>Started by gcl app --mcp, the same three are tools of an MCP server, at gradio_api/mcp/.</p>"
        f"<h3>Limits</h3><ul>{limits}</ul><h3>Bundle</h3>{_list(facts)}</div>",
    )


def _list(told: dict) -> str:
    return "<dl>" + "".join(f"<dt>{safe(key)}</dt><dd>{safe(value)}</dd>" for key, value in told.items()) + "</dl>"


def _fields(fields) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in fields.items())


def _size(span: list[int]) -> str:
    return f"{span[1] - span[0]:,}"
