"""The demo's own server on 127.0.0.1: a language model and a shopping search made of templates over the generated shop.

It speaks the two protocols that `gcl curate` speaks, POST /v1/chat/completions and GET /search.json, and serves the
pictures. Every answer is a function of the seed and the request, so that a run that was killed meets the same world.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from gcl_toolkit.curate.settings import INTENTS, CurateConfig
from gcl_toolkit.errors import UserError
from gcl_toolkit.ranked_data import hash64
from gcl_toolkit.sources.shop import ShopConfig
from gcl_toolkit.sources.shop.catalogue import make_catalogue
from gcl_toolkit.sources.shop.draw import to_png
from gcl_toolkit.sources.shop.engine import make_engine
from gcl_toolkit.sources.shop.wishes import make_wishes
from gcl_toolkit.sources.shop.words import CATEGORIES

KINDS = {"specific": "category", "broad": "group", "occasion": "occasion"}
"""Intent -> the kind of wish of the shop that has it."""

OFFERED_TWICE = 40
"""Every so many products have a second seller, with the same picture and an id of its own."""


class Reply(NamedTuple):
    status: int
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Shop:
    """What the server knows and says; tests make it misbehave by overriding `answer`."""

    def __init__(self, products: int = 1_200, wishes: int = 1_500, seed: int = 0):
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
        self.catalogue, self.wishes = make_catalogue(products, streams[0]), make_wishes(wishes, streams[1])
        config = ShopConfig()
        strengths = {part: getattr(config, part) for part in ("brand", "looks", "popularity", "noise")}
        engine = make_engine(self.catalogue, self.wishes, strengths, streams[2])
        self._listed, self._match_QxP = engine.rank(100), engine.match_QxP
        self._row_of = {wish.text: row for row, wish in enumerate(self.wishes)}
        self._product_of = {title: product for product, title in enumerate(self.catalogue.titles)}
        self._picture = lru_cache(products)(lambda product: to_png(self.catalogue.look(product), 96))

    @staticmethod
    def tree() -> str:
        return "".join(f"Shop > {word.group.title()} > {category}\n" for category, word in CATEGORIES.items())

    def answer(self, path: str, parameters: dict[str, str], body: bytes, origin: str) -> Reply:
        """The reply to a request. origin: the server's address, for those of pictures."""
        if path == "/v1/chat/completions":
            return self._complete(json.loads(body))
        if path == "/search.json":
            return _json({"shopping_results": self._search(parameters.get("q", ""), origin)})
        picture = re.fullmatch(r"/pictures/(\d+)\.png", path)
        if picture and int(picture[1]) < len(self.catalogue):
            return Reply(200, self._picture(int(picture[1])), "image/png")
        return Reply(404, b"no such page", "text/plain")

    def _complete(self, request: dict[str, Any]) -> Reply:
        text = request["messages"][-1]["content"]
        data = json.loads(text.split("<data>")[1].split("</data>")[0])
        said = json.dumps(self._grades(data) if "products" in data else self._queries(data))
        used = {"prompt_tokens": len(str(request["messages"])) // 4, "completion_tokens": len(said) // 4}
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        return _json({"object": "chat.completion", "model": request["model"], "choices": [choice], "usage": used})

    def _queries(self, data: dict[str, Any]) -> dict[str, list[str]]:
        category = data["category"].split(" > ")[-1]
        kind = KINDS[next(name for name, meaning in INTENTS.items() if meaning == data["intent"])]
        fitting = [w.text for w in self.wishes if w.kind == kind and category in w.categories]
        rest = [text for text in fitting if text not in data["avoid"]]
        rng = np.random.default_rng(hash64(json.dumps(data)))
        chosen = [rest[row] for row in rng.permutation(len(rest))[: data["count"]]]
        return {"queries": chosen or fitting[:1] or [category]}

    def _search(self, query: str, origin: str) -> list[dict[str, Any]]:
        row, results = self._row_of.get(query), list[dict[str, Any]]()
        for product in self._listed[row] if row is not None else ():
            sellers = ("", "-b") if product % OFFERED_TWICE == 0 else ("",)
            for seller in sellers:
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
        """By how much of what the query asks for a product has; one grade in ten is off by one."""
        row, grades = self._row_of.get(data["query"]), {}
        for product in data["products"]:
            at = self._product_of.get(product["title"])
            match = self._match_QxP[row, at] if row is not None and at is not None else -np.inf
            grade = 0 if match < 1 else 1 + int(match >= 3) + int(match >= self._match_QxP[row].max() - 0.7)
            slip = hash64(json.dumps([data["query"], product])) % 20
            grades[str(product["id"])] = min(3, max(0, grade + (slip == 0) - (slip == 1))) if match > -np.inf else 0
        return {"grades": grades}


@contextmanager
def serve(shop: Shop, port: int = 0) -> Iterator[str]:
    """The address of a server that runs meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one piece: else each reply waits for the acknowledgement of its head

        def do_GET(self) -> None:
            self._reply(b"")

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers.get("content-length", 0))))

        def _reply(self, body: bytes) -> None:
            parts = urlsplit(self.path)
            parameters = {name: values[0] for name, values in parse_qs(parts.query).items()}
            reply = shop.answer(parts.path, parameters, body, address)
            self.send_response(reply.status)
            for name, value in (("content-type", reply.kind), ("content-length", str(len(reply.body))), *reply.headers):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_) -> None:
            pass

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(f"port {port} can't be had ({error.strerror}); another --out has another port") from None
    address = f"http://127.0.0.1:{server.server_port}"
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()


def port_of(folder: Path) -> int:
    """The same for the same folder, so that a demo that was killed finds its server again."""
    return 20_000 + hash64(str(folder.resolve())) % 10_000


def demo_config(address: str, out: Path, **changed: Any) -> CurateConfig:
    """A small set: 180 queries, 30 products each, with prices so that the card has costs."""
    tree = out / "tree.txt"
    tree.write_text(Shop.tree(), "utf-8")
    prices = {"price_input": 0.5, "price_output": 1.5, "price_search": 0.01}
    small = {"queries": 180, "products": 30, "rate": 10_000.0, "image_size": 96, "max_requests": 7_000}
    urls = {"model_url": f"{address}/v1", "search": f"{address}/search.json"}
    return CurateConfig(tree=tree, out=out, model="template", **{**prices, **small, **urls, **changed})


def _json(value: object) -> Reply:
    return Reply(200, json.dumps(value).encode())
