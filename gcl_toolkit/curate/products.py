"""Products for queries: an online shopping search, your own catalogue, or a table of search results."""

import html
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pyarrow as pa

from gcl_toolkit.curate.ledger import Answer, Bad, Fault, Ledger, Request
from gcl_toolkit.curate.settings import CurateConfig
from gcl_toolkit.data.columns import as_images, numbers
from gcl_toolkit.data.ranked_data import hash64, is_image, normalise_text
from gcl_toolkit.data.tabular import read_file
from gcl_toolkit.errors import DataError

MOST_LETTERS = 300
"""Of a title; longer ones are cut."""
TIMEOUT = 60.0


class Product(NamedTuple):
    """image: an address, or an image value ({bytes, path}), or None."""

    product_id: str
    title: str
    image: Any


class Shopping:
    """An API like SerpApi's Google Shopping: GET address?q=..., `shopping_results` in JSON.

    `find`, here and below: each query's products, best first, each id once; a query may have none.
    """

    def __init__(self, config: CurateConfig, ledger: Ledger, key: str):
        self._config, self._ledger, self._host = config, ledger, urlsplit(config.search).netloc
        headers = {"accept": "application/json"}
        self._client = httpx2.Client(transport=_Signed(key), timeout=TIMEOUT, headers=headers)

    def close(self) -> None:
        self._client.close()

    def find(self, queries: Sequence[str], tick: Callable[[], object]) -> list[list[Product]]:
        answers = self._ledger.each(self._ask, queries, tick)
        lists = [json.loads(answer.body)[: self._config.products] if answer.body else [] for answer in answers]
        return [[Product(*row) for row in rows] for rows in lists]

    def _ask(self, query: str) -> Answer:
        address, price = httpx2.URL(self._config.search), self._config.price_search
        url = address.copy_merge_params({"engine": "google_shopping", "q": query})
        what = [str(address).removeprefix(f"{address.scheme}://{self._host}"), query]
        request = Request("search", what, self._host, price)
        return self._ledger.ask(request, lambda: (self._send(url), price), _results_of)

    def _send(self, url: httpx2.URL) -> bytes:
        try:
            response = self._client.get(url)
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise Fault(f"{self._host} doesn't answer ({type(error).__name__})", charged=True) from None
        if response.status_code != 200:
            raise Fault.of_status(response, self._host)
        return response.content


class _Signed(httpx2.HTTPTransport):
    """Adds the key just before a request is sent, so that no log or exception contains it."""

    def __init__(self, key: str):
        super().__init__()
        self._key = {"api_key": key} if key else {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url.copy_merge_params(self._key)
        return super().handle_request(
            httpx2.Request(request.method, url, headers=request.headers, extensions=request.extensions)
        )


class Catalogue:
    """Your own table of products, searched by BM25 over the titles or by a model."""

    def __init__(self, corpus: pa.Table, config: CurateConfig):
        self._corpus, self._config, self._model = corpus, config, None
        if config.encoder != "bm25":
            from gcl_toolkit.data.fields import Fields
            from gcl_toolkit.models.model import GCLModel
            from gcl_toolkit.training.runs import load_model

            name = config.encoder
            self._model = load_model(name) if Path(name).is_dir() else GCLModel(name, right=Fields(title=1.0))

    def find(self, queries: Sequence[str], tick: Callable[[], object]) -> list[list[Product]]:
        lists = []
        for rows in self._rows(queries, self._config.products):
            matches = self._corpus.take(pa.array(rows)).to_pylist()
            lists.append([Product(row["product_id"], clean(row["title"]), row.get("image")) for row in matches])
            tick()
        return lists

    def _rows(self, queries: Sequence[str], count: int) -> Sequence[np.ndarray]:
        if self._model is None:
            from gcl_toolkit.measure.baselines import BM25

            return BM25(self._corpus["title"].to_pylist()).matching(queries, count)
        from gcl_toolkit.measure.search import top_k

        embedded = self._model.embed(pa.table({"query": list(queries)}), "left")
        return list(top_k(embedded, self._model.embed(self._corpus, "right"), count)[1])


class Results:
    """A table of search results from elsewhere: query, product_id, position, title, image."""

    def __init__(self, rows: pa.Table, path: Path, count: int):
        position = numbers(rows["position"])
        if not (position >= 1).all():
            row = int((~(position >= 1)).argmax())
            raise DataError(f"{path} row {row}: position is {rows['position'][row]}; it must be a number >= 1")
        self.queries = [query for query in dict.fromkeys(map(normalise_text, rows["query"].to_pylist())) if query]
        self._count, self._lists = count, {query: list[Product]() for query in self.queries}
        for row in rows.take(np.argsort(position, kind="stable")).to_pylist():
            if row["product_id"] and (query := normalise_text(row["query"])):
                self._lists[query].append(Product(row["product_id"], clean(row["title"]), row.get("image")))

    def find(self, queries: Sequence[str], tick: Callable[[], object]) -> list[list[Product]]:
        for _ in queries:
            tick()
        return [self._lists.get(query, [])[: self._count] for query in queries]


def open_table(config: CurateConfig) -> Catalogue | Results:
    """The table named by --search; with a column `query` it holds results."""
    path = Path(config.search)
    rows = read_file(path)
    columns = {name: rows[name] for name in rows.column_names}
    for name in ("product_id", "title", *(("position",) if "query" in columns else ())):
        if name not in columns:
            raise DataError(f"{path}: column {name!r} is missing; it has {', '.join(columns)}")
    for name in columns.keys() & {"query", "product_id", "title"}:
        columns[name] = columns[name].cast(pa.string()).fill_null("")
    if image := columns.get("image"):
        values = [] if is_image(image) else image.to_pylist()
        if not any(isinstance(value, str) and re.match("https?://", value) for value in values):
            columns["image"] = as_images(image, path.parent.absolute())
    rows = pa.table(columns)
    return Results(rows, path, config.products) if "query" in columns else Catalogue(rows, config)


def clean(title: object) -> str:
    """A title as one line of printable text."""
    text = html.unescape(title) if isinstance(title, str) else ""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())[:MOST_LETTERS]


def _results_of(body: bytes) -> bytes:
    """[product_id, title, address of the picture] of every result that has an id or a link, and a title; best first."""
    try:
        answer = json.loads(body)
        error = str(answer.get("error"))
    except (ValueError, AttributeError):
        raise Bad("the response is not a JSON object") from None
    results = answer.get("shopping_results", [] if "hasn't returned any results" in error else None)
    if not isinstance(results, list):
        raise Bad(f"the response has no shopping_results ({error[:200]})")
    products: dict[str, list] = {}
    for row in results:
        if isinstance(row, dict) and (title := clean(row.get("title"))):
            link, picture = row.get("product_link") or row.get("link"), row.get("thumbnail")
            product_id = str(row.get("product_id") or (link and f"link-{hash64(str(link)):016x}") or "").strip()
            if product_id:
                products.setdefault(product_id, [product_id, title, picture if isinstance(picture, str) else None])
    return json.dumps(list(products.values())).encode()
