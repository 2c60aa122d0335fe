"""Products for queries: a shopping search over the network, a catalogue of one's own, or a table of results."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import httpx2
import pyarrow as pa

from gcl_toolkit.curate.language import seconds
from gcl_toolkit.curate.ledger import Answer, Bad, Fault, Ledger
from gcl_toolkit.curate.settings import CurateConfig
from gcl_toolkit.errors import DataError
from gcl_toolkit.findings import numbers
from gcl_toolkit.ranked_data import hash64, is_image, normalise_text
from gcl_toolkit.sources.rows import as_images, read_file

MOST_LETTERS = 300
"""Of a title; the rest is cut."""
MOST_BYTES = 20_000_000
TIMEOUT = 60.0


class Product(NamedTuple):
    """image: an address, or an image value ({bytes, path}), or None."""

    product_id: str
    title: str
    image: Any


class Finder(Protocol):
    """Each query's products, best first, and for each id once; a query may have none."""

    def find(self, queries: Sequence[str], tick: Callable[[], object]) -> list[list[Product]]: ...


class Shopping:
    """An API of the shape of SerpApi's Google Shopping: GET address?q=..., `shopping_results` in JSON."""

    def __init__(self, config: CurateConfig, ledger: Ledger, key: str):
        self._config, self._ledger, self._host = config, ledger, urlsplit(config.search).netloc
        self._client = httpx2.Client(
            transport=_Signed(key), follow_redirects=False, timeout=TIMEOUT, headers={"accept": "application/json"}
        )

    def close(self) -> None:
        self._client.close()

    def find(self, queries: Sequence[str], tick: Callable[[], object]) -> list[list[Product]]:
        answers = self._ledger.each(self._ask, queries, self._config.workers, tick)
        rows = [json.loads(answer.body)[: self._config.products] if answer.body else [] for answer in answers]
        return [[Product(*row) for row in found] for found in rows]

    def _ask(self, query: str) -> Answer:
        address = httpx2.URL(self._config.search)
        what = [str(address).removeprefix(f"{address.scheme}://{self._host}"), query]
        url = address.copy_merge_params({"engine": "google_shopping", "q": query})
        price = self._config.price_search
        return self._ledger.ask(
            "search", what, lambda: (self._send(url), price), _results_of, host=self._host, most=price
        )

    def _send(self, url: httpx2.URL) -> bytes:
        try:
            with self._client.stream("GET", url) as answer:
                body = bytearray()
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > MOST_BYTES:
                        raise Fault(f"{self._host} answers more than {MOST_BYTES:,} bytes", "stop", charged=True)
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise Fault(f"{self._host} doesn't answer ({type(error).__name__})", charged=True) from None
        if answer.status_code == 200:
            return bytes(body)
        passing = answer.status_code in (408, 429) or answer.status_code >= 500
        reason = f"{self._host} says {answer.status_code}: {' '.join(body.decode('utf-8', 'replace').split())[:300]}"
        raise Fault(reason, "again" if passing else "stop", seconds(answer.headers))


class _Signed(httpx2.HTTPTransport):
    """Adds the key where a request leaves, so that no log and no exception ever holds an address with it."""

    def __init__(self, key: str):
        super().__init__()
        self._key = key

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if not self._key:
            return super().handle_request(request)
        url = request.url.copy_add_param("api_key", self._key)
        signed = httpx2.Request(
            request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
        )
        return super().handle_request(signed)


class Catalogue:
    """A table of one's own, searched by BM25 over its texts or by a model."""

    def __init__(self, corpus: pa.Table, config: CurateConfig):
        self._corpus, self._config = corpus, config
        self._model = None if config.encoder == "bm25" else _model(config.encoder)

    def find(self, queries: Sequence[str], tick: Callable[[], object]) -> list[list[Product]]:
        count = self._config.products
        ids, titles = self._corpus["product_id"].to_pylist(), self._corpus["title"].to_pylist()
        images = self._corpus["image"] if "image" in self._corpus.column_names else None
        if self._model is None:
            from gcl_toolkit.baselines import BM25

            found = BM25(titles).matching(queries, count)
        else:
            from gcl_toolkit.search import top_k

            embedded = self._model.embed(pa.table({"query": list(queries)}), "left")
            found = list(top_k(embedded, self._model.embed(self._corpus, "right"), count)[1])
        lists = []
        for rows in found:
            lists.append([Product(ids[row], clean(titles[row]), images and images[int(row)].as_py()) for row in rows])
            tick()
        return lists


class Results:
    """A table of what a search found elsewhere: query, product_id, position, title, image."""

    def __init__(self, rows: pa.Table, path: Path, count: int):
        position = numbers(rows["position"])
        if not (position >= 1).all():
            row = int((~(position >= 1)).argmax())
            raise DataError(f"{path} row {row}: position {rows['position'][row]} is no number from 1")
        image = rows["image"].to_pylist() if "image" in rows.column_names else [None] * rows.num_rows
        columns = (rows[name].to_pylist() for name in ("query", "product_id", "title"))
        self._lists: dict[str, list[Product]] = {}
        self.queries: list[str] = []
        for _, query, product_id, title, picture in sorted(
            zip(position.tolist(), *columns, image, strict=True), key=lambda row: row[0]
        ):
            if normalise_text(query or "") and product_id:
                products = self._lists.setdefault(normalise_text(query), [])
                products.append(Product(product_id, clean(title), picture))
        self.queries = [query for query in dict.fromkeys(map(normalise_text, rows["query"].to_pylist())) if query]
        self._count = count

    def find(self, queries: Sequence[str], tick: Callable[[], object]) -> list[list[Product]]:
        for _ in queries:
            tick()
        return [self._lists.get(query, [])[: self._count] for query in queries]


def open_table(config: CurateConfig) -> Catalogue | Results:
    """The table named by --search; with a column `query` it holds results."""
    path = Path(config.search)
    rows = read_file(path, ("query", "product_id", "title", "image"))
    results = "query" in rows.column_names
    for name in ("product_id", "title", *(("position",) if results else ())):
        if name not in rows.column_names:
            raise DataError(f"{path}: column {name!r} is missing; it has {', '.join(rows.column_names)}")
    for name in ("query", "product_id", "title"):
        if name in rows.column_names:
            at = rows.column_names.index(name)
            rows = rows.set_column(at, name, rows[name].cast(pa.string()).fill_null(""))
    if "image" in rows.column_names and not _holds_addresses(rows["image"]):
        at = rows.column_names.index("image")
        rows = rows.set_column(at, "image", as_images(rows["image"], path.parent.absolute()))
    return Results(rows, path, config.products) if results else Catalogue(rows, config)


def clean(title: object) -> str:
    """A title as one line of printable text."""
    text = html.unescape(title) if isinstance(title, str) else ""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())[:MOST_LETTERS]


def _holds_addresses(column: pa.ChunkedArray) -> bool:
    return not is_image(column) and any(
        isinstance(value, str) and re.match("https?://", value) for value in column.to_pylist()
    )


def _results_of(body: bytes) -> bytes:
    """[product_id, title, address of the picture] of every result that has an id or a link, and a title; best first."""
    try:
        answer = json.loads(body)
    except ValueError:
        raise Bad("the answer is no JSON") from None
    if not isinstance(answer, dict):
        raise Bad("the answer is no JSON object")
    results = answer.get("shopping_results", [] if "hasn't returned any results" in str(answer.get("error")) else None)
    if not isinstance(results, list):
        raise Bad(f"the answer has no shopping_results ({str(answer.get('error'))[:200]})")
    found: dict[str, list] = {}
    for row in results:
        if isinstance(row, dict) and clean(row.get("title")):
            link = row.get("product_link") or row.get("link")
            product_id = str(row.get("product_id") or (link and f"link-{hash64(str(link)):016x}") or "").strip()
            picture = row.get("thumbnail")
            if product_id:
                address = picture if isinstance(picture, str) else None
                found.setdefault(product_id, [product_id, clean(row["title"]), address])
    return json.dumps(list(found.values())).encode()


def _model(name: str):
    from gcl_toolkit.fields import Fields
    from gcl_toolkit.model import GCLModel
    from gcl_toolkit.runs import load_model

    return load_model(name) if Path(name).is_dir() else GCLModel(name, right=Fields(title=1.0))
