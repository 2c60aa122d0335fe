"""About: what is compared on which data, how to read the numbers, and the limits, as a page of prose."""

from __future__ import annotations

from gcl_toolkit.app.draw import safe, view
from gcl_toolkit.app.limits import MAX_K, MAX_QUERY
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.app.verdicts import about

API = {
    "/search": ("query, split, model, weight, more, less, k", "the first k products for a query"),
    "/compare": ("query, split, a, b, k", "two systems, the ideal order, and their difference in a sentence"),
    "/neighbours": ("product_id, model, k", "the products nearest to one in a model’s embedding space"),
}
"""Endpoint -> its parameters and its answer, as in api.py."""
VECTORS = "Vectors are stored as float16, so cosines may differ from the model’s by about 0.001. "


def draw(service: Service, state: State) -> str:
    return view(
        f'<article class="prose">{_data(service)}{_systems(service, state)}{_queries(service)}{_numbers(service)}'
        f"{_limits(service)}{_programs()}{_facts(service)}</article>",
    )


def _data(service: Service) -> str:
    bundle, study = service.bundle, service.bundle.manifest.get("study") or {}
    command = f" from <code>{safe(study['command'])}</code>" if study.get("command") else ""
    queries = bundle.queries["query_id"].nunique()
    return (
        f"<h2>What is compared</h2><p>{len(bundle.systems)} systems rank the products of "
        f"<b>{safe(bundle.manifest['world'])}</b>: {len(bundle.items):,} products, {queries:,} queries and "
        f"{len(bundle.qrels):,} scored pairs of both. They were made on {safe(bundle.manifest['made'])}{command}. "
        "The verdict compares A with the baseline B over the same queries; the other tabs show where they differ.</p>"
    )


def _systems(service: Service, state: State) -> str:
    first, baseline = state.a, state.b
    marks = {first: " (A)", baseline: " (B, the baseline)"}
    systems = {
        name + marks.get(name, ""): about(service, name)
        + (f" Its fields: {_fields(s.vectors.fields)}." if s.vectors else "")
        for name, s in service.bundle.systems.items()
    }
    return f"<h2>Systems</h2>{_list(systems)}"


def _queries(service: Service) -> str:
    splits = {
        name.replace("_", " "): f"{part['about']} {_size(part['queries'])} queries, {_size(part['items'])} products."
        for name, part in service.bundle.manifest["splits"].items()
    }
    return f"<h2>Queries and products</h2>{_list(splits)}"


def _numbers(service: Service) -> str:
    metrics = {str(metric): definition for metric, definition in service.bundle.metrics.items()}
    unlisted = (
        "A product that is not in a query’s list counts as irrelevant, although it may be relevant."
        if service.bundle.manifest.get("unlisted", "irrelevant") == "irrelevant"
        else "A product that nobody judged counts as irrelevant in the plain metrics; the verdict shows how far the "
        "difference could move if it were not."
    )
    return (
        "<h2>How to read the numbers</h2><p>A score says how relevant a product is for a query. A metric compares a "
        f"ranking with the best possible order of these scores, from 0 to 1, the larger the better. {unlisted} An "
        "interval of 95 % says how far the mean difference would move with other queries of the same kind; where it "
        f"contains 0, these queries do not separate the systems.</p>{_list(metrics)}"
    )


def _limits(service: Service) -> str:
    trained = any(system.kind == "model" for system in service.bundle.systems.values())
    runs = "One training run stands for each model; gcl compare --seeds shows how much runs differ. " if trained else ""
    return (
        f"<h2>Limits</h2><p>{runs}{VECTORS if service.searchable else ''}Texts are limited to {MAX_QUERY} characters, "
        f"lists to {MAX_K} products. Nothing leaves this machine: no analytics, no fonts or scripts of others.</p>"
    )


def _programs() -> str:
    api = {name: f"{answer} ({parameters})" for name, (parameters, answer) in API.items()}
    return (
        "<h2>From programs</h2><p><code>gradio_client.Client(this page’s address).predict(…, api_name=…)</code> calls "
        f"these; with <code>gcl app --mcp</code> they are tools of an MCP server at gradio_api/mcp/.</p>{_list(api)}"
    )


def _facts(service: Service) -> str:
    """The card of the data, folded."""
    card = {
        key: value for key, value in service.bundle.manifest["card"].items() if isinstance(value, (str, int, float))
    }
    shown = {key: f"{value:,.4g}" if isinstance(value, float) else value for key, value in card.items()}
    return f"<details><summary>All facts about the data</summary>{_list(shown)}</details>" if shown else ""


def _list(entries: dict) -> str:
    return "<dl>" + "".join(f"<dt>{safe(key)}</dt><dd>{safe(value)}</dd>" for key, value in entries.items()) + "</dl>"


def _fields(fields) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in fields.items())


def _size(span: list[int]) -> str:
    return f"{span[1] - span[0]:,}"
