"""Named endpoints for programs (gradio_client): search, compare, neighbours. The service checks their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from typing import Any

import gradio as gr

from gcl_toolkit.app.answers import Product, Ranking
from gcl_toolkit.app.service import Service
from gcl_toolkit.errors import UserError


def add_api(service: Service) -> None:
    """Call it inside gradio's Blocks. An empty split or model means the page's default."""

    def search(
        query: str,
        split: str = "",
        model: str = "",
        weight: float | None = None,
        more: str = "",
        less: str = "",
        k: int = 10,
    ) -> dict:
        """The first k products for a query: {"model", "metrics", "products": [{"rank", "product_id", ...}]}."""
        state = service.state({"split": split, "a": model})
        return _ranking(service.search(state.split, query, state.a, weight, k, more=more, less=less))

    def compare(query: str, split: str = "", a: str = "", b: str = "", k: int = 10) -> dict:
        """Two models and the ideal order for a query: {"sentence", "a", "b", "ideal"}."""
        state = service.state({"split": split, "a": a, "b": b})
        answer = service.compare(state.split, query, state.a, state.b, k=k)
        ideal = [_product(product) for product in answer.ideal]
        return {"sentence": answer.sentence, "a": _ranking(answer.a), "b": _ranking(answer.b), "ideal": ideal}

    def neighbours(product_id: str, model: str = "", k: int = 10) -> dict:
        """The k products nearest to a product in a model's own space."""
        return _ranking(service.neighbours(service.row(product_id), service.state({"a": model}).a, k))

    for endpoint in (search, compare, neighbours):
        gr.api(_reporting(endpoint), api_name=endpoint.__name__)


def _reporting(endpoint: Callable[..., dict]) -> Callable[..., dict]:
    """The endpoint, reporting errors in the caller's input, and no others, to the caller."""

    @wraps(endpoint)
    def answer(*args: Any, **kwargs: Any) -> dict:
        try:
            return endpoint(*args, **kwargs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return answer


def _ranking(ranking: Ranking) -> dict:
    metrics = {str(metric): _number(value) for metric, value in ranking.metrics.items()}
    return {"model": ranking.model, "metrics": metrics, "products": [_product(p) for p in ranking.products]}


def _product(product: Product) -> dict:
    facts = {name: value for name, value in asdict(product).items() if name not in ("item", "level", "other")}
    parts = {field: _number(part) for field, part in product.parts.items()}
    return facts | {"cosine": _number(product.cosine), "parts": parts, "ranks": dict(product.other)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
