"""What `gcl curate` is asked for, and all that can be checked of it before anything is spent."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

import tyro

from gcl_toolkit.errors import DataError, UserError

KEYS = {"model": "OPENAI_API_KEY", "search": "SERPAPI_API_KEY"}
"""Secrets come from these environment variables alone; there is no setting for them."""

INTENTS = {
    "specific": "names the kind of product and one to three properties, such as colour, pattern, material, size, style",
    "broad": "names a wider kind of product than the category, with at most two properties",
    "occasion": "names an occasion, a person or a use instead of the product",
}

PER_REQUEST = 20
"""Queries asked for, and products judged, in one request."""


@dataclass(frozen=True)
class CurateConfig:
    """What to curate, from what, and what it may cost."""

    tree: tyro.conf.Positional[Path | None] = None
    """Categories, one a line, such as "Home > Kitchen > Mugs"; not needed with a table of results."""
    out: Path = Path("runs/curate")
    """Folder of the data set and of all answers; the same command goes on where it was stopped."""
    model: str = ""
    """Name of the language model."""
    model_url: str = "https://api.openai.com/v1"
    """Of any OpenAI-compatible server; the key is read from OPENAI_API_KEY."""
    search: str = ""
    """Address of an API of SerpApi's Google Shopping shape (https://serpapi.com/search.json; key: SERPAPI_API_KEY), or
    a table: a catalogue (product_id, title, image) or results (query, product_id, position, title, image). Without it
    only queries.csv is written."""
    encoder: str = "bm25"
    """What searches a catalogue: bm25, an encoder such as text:FOLDER, or the folder of a trained model."""
    queries: int = 500
    """So many at most, evenly over categories and intents."""
    products: int = 40
    """The first so many of each query."""
    scores: Literal["linear", "reciprocal", "judge"] = "linear"
    """linear: 101 - position; reciprocal: 100 / position; judge: the language model grades each pair 0 to 3."""
    judged_twice: float = 0.2
    """Share of the queries that the judge sees again, in another order, to measure whether it agrees with itself."""
    max_requests: int = 10_000
    """Never more requests than this in all (model, search, pictures; redirects and retries too), over all restarts."""
    max_cost: float = 5.0
    """Never a higher cost than this in all, in the currency of the prices."""
    price_input: float = 0.0
    """Of a million tokens read by the model."""
    price_output: float = 0.0
    """Of a million tokens written by the model."""
    price_search: float = 0.0
    """Of one search."""
    rate: float = 5.0
    """Requests a second to one host."""
    workers: int = 4
    """Requests at a time."""
    image_size: int = 512
    """Longest side of a kept picture, pixels."""
    seed: int = 0
    """Of the split and of what is judged twice."""

    def __post_init__(self):
        whole = {"queries": 1_000_000, "products": 100, "max_requests": 10**9, "workers": 64}
        for name, most in whole.items():
            _within(name, getattr(self, name), 1, most)
        for name in ("max_cost", "price_input", "price_output", "price_search"):
            _within(name, getattr(self, name), 0, math.inf)
        _within("rate", self.rate, 0.01, 10_000)
        _within("image_size", self.image_size, 32, 4096)
        _within("judged_twice", self.judged_twice, 0, 1)
        for name in ("model_url", "search"):
            if "://" in getattr(self, name):
                _check_url(name, getattr(self, name))

    @property
    def searches_online(self) -> bool:
        return "://" in self.search

    def described(self) -> dict:
        """The settings that the data set depends on, for its card; of files the names."""
        told = asdict(self) | {"tree": self.tree and self.tree.name}
        told["search"] = self.search if self.searches_online else Path(self.search).name
        left_out = ("out", "workers", "rate", "max_", "price_")
        return {name: value for name, value in told.items() if not name.startswith(left_out)}


def read_tree(path: Path) -> list[str]:
    """The leaves of a file of categories, one a line ("Home > Kitchen > Mugs"; `#` begins a comment), in its order."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as text ({error}); a category a line is expected") from None
    paths = [re.sub(r"^\d+ - ", "", line.split("#")[0].strip()) for line in lines]  # Google's taxonomy has numbers
    nodes = list(dict.fromkeys(" > ".join(part.strip() for part in node.split(">")) for node in paths if node))
    for node in nodes:
        if not all(node.split(" > ")) or len(node) > 200:
            raise DataError(f"{path}: {node[:200]!r} is no category; one such as 'Home > Kitchen > Mugs' is expected")
    inner = {node.rsplit(" > ", depth)[0] for node in nodes for depth in range(1, node.count(" > ") + 1)}
    leaves = [node for node in nodes if node not in inner]
    if not leaves:
        raise DataError(f"{path}: holds no category; one a line is expected, such as 'Home > Kitchen > Mugs'")
    return leaves


def check(config: CurateConfig, environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Everything about the settings that can be wrong; returns the requests they ask for, by service, at most."""
    judges = config.scores == "judge"
    if not config.tree and (not config.search or config.searches_online):
        raise UserError("no category tree; name a file of categories, or with --search a table of results")
    if (config.tree or judges) and not config.model:
        raise UserError("no language model; name one with --model, as its server calls it, and --model-url")
    for package in ("openai", "httpx2"):
        if find_spec(package) is None:
            raise UserError(f"{package} is not installed; run: pip install 'gcl-toolkit[curate]'")
    if (config.tree or judges) and is_at(config.model_url, "openai.com") and not environment.get(KEYS["model"]):
        raise UserError(f"{config.model_url} wants a key; set the environment variable {KEYS['model']}")
    if config.searches_online and is_at(config.search, "serpapi.com") and not environment.get(KEYS["search"]):
        raise UserError(f"{config.search} wants a key; set the environment variable {KEYS['search']}")
    if config.search and not config.searches_online and not Path(config.search).is_file():
        raise UserError(f"{config.search}: no address (http://...) and no file; one of both is expected as --search")
    needed = _requests(config)
    least = sum(count for service, count in needed.items() if service != "picture")
    if least > config.max_requests:
        said = ", ".join(f"{count:,} for {service}" for service, count in needed.items())
        raise UserError(
            f"--max-requests is {config.max_requests:,}, but {least:,} are needed without pictures ({said}); "
            "raise it, or ask for fewer --queries"
        )
    return needed


def _requests(config: CurateConfig) -> dict[str, int]:
    """Requests by service, at most, if every answer is good."""
    needed = {}
    if config.tree:
        strata = min(config.queries, len(read_tree(config.tree)) * len(INTENTS))
        needed["queries"] = strata * math.ceil(math.ceil(config.queries / strata) / PER_REQUEST)
    if config.searches_online:
        needed |= {"search": config.queries, "picture": config.queries * config.products}
    if config.scores == "judge":
        lists = config.queries + math.ceil(config.queries * config.judged_twice)
        needed["judge"] = lists * math.ceil(config.products / PER_REQUEST)
    return needed


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UserError(f"{name} is {value}; {least:g} to {most:g} is expected")


def _check_url(name: str, url: str) -> None:
    option = f"--{name.replace('_', '-')}"
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        whole = False
    if not whole:
        raise UserError(f"{option} is no address; one such as https://host/path is expected")
    secret = [key for key, _ in parse_qsl(parts.query) if re.search("key|token|secret|passw", key, re.IGNORECASE)]
    if parts.username or parts.password or secret:
        raise UserError(f"{option} holds a secret; leave it out and set the environment variable {_variable(name)}")


def _variable(name: str) -> str:
    return KEYS["search" if name == "search" else "model"]


def is_at(url: str, domain: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == domain or host.endswith(f".{domain}")
