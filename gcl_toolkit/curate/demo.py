"""The demo's server on 127.0.0.1: a language model and a shopping search made of templates over the generated shop.

It has the two APIs that `gcl curate` uses, POST /v1/chat/completions and GET /search.json, and serves the pictures.
Every answer is a function of the seed and the request, so a run that was killed continues with the same answers.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from gcl_toolkit.curate.settings import INTENTS, CurateConfig
from gcl_toolkit.data.ranked_data import hash64
from gcl_toolkit.data.sources.shop import ShopConfig
from gcl_toolkit.data.sources.shop.catalogue import make_catalogue
from gcl_toolkit.data.sources.shop.draw import to_png
from gcl_toolkit.data.sources.shop.engine import make_engine
from gcl_toolkit.data.sources.shop.queries import make_queries
from gcl_toolkit.data.sources.shop.words import CATEGORIES
from gcl_toolkit.errors import UserError
from gcl_toolkit.files import writable_folder

KINDS = {INTENTS["specific"]: "category", INTENTS["broad"]: "group", INTENTS["occasion"]: "occasion"}
"""Intent -> the kind of query in the shop."""

SECOND_SELLER = 40
"""Every 40th product has a second seller, with the same picture and another id."""


class Reply(NamedTuple):
    status: int
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Shop:
    """What the server answers; tests override `answer` to make it misbehave."""

    def __init__(self, products: int = 1_200, queries: int = 1_500, seed: int = 0):
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
        self.catalogue, self.queries = make_catalogue(products, streams[0]), make_queries(queries, streams[1])
        config = ShopConfig()
        strengths = {part: getattr(config, part) for part in ("brand", "looks", "popularity", "noise")}
        engine = make_engine(self.catalogue, self.queries, strengths, streams[2])
        self.rankings, self._match_QxP = engine.rank(100), engine.match_QxP
        self._row_of = {query.text: row for row, query in enumerate(self.queries)}
        self._product_of = {title: product for product, title in enumerate(self.catalogue.titles)}
        self._picture = lru_cache(products)(lambda product: to_png(self.catalogue.look(product), 96))

    def answer(self, path: str, parameters: dict[str, str], body: bytes, origin: str) -> Reply:
        """The reply to a request. origin: the server's address, for those of pictures."""
        if path == "/v1/chat/completions":
            return _json(self._complete(json.loads(body)))
        if path == "/search.json":
            return _json({"shopping_results": self._search(parameters.get("q", ""), origin)})
        name = path.removeprefix("/pictures/").removesuffix(".png")
        if name.isdecimal() and int(name) < len(self.catalogue):
            return Reply(200, self._picture(int(name)), "image/png")
        return Reply(404, b"no such page", "text/plain")

    def _complete(self, request: dict[str, Any]) -> dict[str, Any]:
        text = request["messages"][-1]["content"]
        data = json.loads(text.split("<data>")[1].split("</data>")[0])
        content = json.dumps(self._grades(data) if "products" in data else self._written(data))
        usage = {"prompt_tokens": len(str(request["messages"])) // 4, "completion_tokens": len(content) // 4}
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        return {"object": "chat.completion", "model": request["model"], "choices": [choice], "usage": usage}

    def _written(self, data: dict[str, Any]) -> dict[str, list[str]]:
        category = data["category"].split(" > ")[-1]
        kind = KINDS[data["intent"]]
        fitting = [q.text for q in self.queries if q.kind == kind and category in q.categories]
        rest = [text for text in fitting if text not in data["avoid"]]
        rng = np.random.default_rng(hash64(json.dumps(data)))
        chosen = [rest[row] for row in rng.permutation(len(rest))[: data["count"]]]
        return {"queries": chosen or fitting[:1] or [category]}

    def _search(self, query: str, origin: str) -> list[dict[str, Any]]:
        row, results = self._row_of.get(query), list[dict[str, Any]]()
        for product in () if row is None else self.rankings[row]:
            for seller in ("", "-b")[: 1 + (product % SECOND_SELLER == 0)]:
                results.append(
                    {
                        "position": len(results) + 1,
                        "title": self.catalogue.titles[product],
                        "product_id": f"{product:05d}{seller}",
                        "thumbnail": f"{origin}/pictures/{product}.png",
                    }
                )
        return results

    def _grades(self, data: dict[str, Any]) -> dict[str, dict[str, int]]:
        """By how much a product has of what the query asks for; one grade in ten is off by one."""
        row, grades = self._row_of.get(data["query"]), {}
        for product in data["products"]:
            column = self._product_of.get(product["title"])
            match = -np.inf if row is None or column is None else self._match_QxP[row, column]
            grade = 0 if match < 1 else 1 + int(match >= 3) + int(match >= self._match_QxP[row].max() - 0.7)
            slip = hash64(json.dumps([data["query"], product])) % 20
            grades[str(product["id"])] = min(3, max(0, grade + (slip == 0) - (slip == 1))) if match > -np.inf else 0
        return {"grades": grades}


@contextmanager
def serve(shop: Shop, port: int = 0) -> Iterator[str]:
    """A running server; the value is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one packet; otherwise each reply waits for an acknowledgement

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            parts = urlsplit(self.path)
            reply = shop.answer(parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()}, body, address)
            self.send_response(reply.status)
            for name, value in (("content-type", reply.kind), ("content-length", str(len(reply.body))), *reply.headers):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_POST = do_GET

        def log_message(self, *_) -> None:
            pass

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(f"port {port} can't be opened ({error.strerror}); another --out uses another port") from None
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def demo(config: CurateConfig) -> Iterator[CurateConfig]:
    """Run the server; the value is the settings of a small set with prices, changed where `config` isn't the default.

    The port is a function of the folder, so that a demo that was killed continues with the same addresses.
    """
    changed = {f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) != f.default}
    if fixed := changed.keys() & {"tree", "model", "model_url", "search", "encoder"}:
        raise UserError(f"--demo sets {', '.join(sorted(fixed))} itself; leave it out")
    tree = writable_folder(config.out) / "tree.txt"
    tree.write_text("".join(f"Shop > {word.group.title()} > {name}\n" for name, word in CATEGORIES.items()), "utf-8")
    small: dict[str, Any] = {"queries": 180, "products": 30, "rate": 10_000.0, "image_size": 96, "max_requests": 7_000}
    prices = {"price_input": 0.5, "price_output": 1.5, "price_search": 0.01}
    with serve(Shop(), 20_000 + hash64(str(config.out.resolve())) % 10_000) as address:
        urls = {"model_url": f"{address}/v1", "search": f"{address}/search.json"}
        yield CurateConfig(**{**small, **prices, **urls, "tree": tree, "model": "template", **changed})


def _json(value: object) -> Reply:
    return Reply(200, json.dumps(value).encode())
