"""The settings of `gcl curate`, and every check of them that is possible before anything is spent."""

import math
import os
import re
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

import tyro

from gcl_toolkit.errors import DataError, UserError

KEYS = {"model_url": "OPENAI_API_KEY", "search": "SERPAPI_API_KEY"}
"""Setting -> environment variable of its secret; there is no setting for secrets."""

INTENTS = {
    "specific": "names the kind of product and one to three properties, such as colour, pattern, material, size, style",
    "broad": "names a wider kind of product than the category, with at most two properties",
    "occasion": "names an occasion, a person or a use instead of the product",
}

PER_REQUEST = 20
"""Queries written, and products judged, in one request."""

LIMITS = {
    "queries": (1, 1_000_000),
    "products": (1, 100),
    "judged_twice": (0, 1),
    "max_requests": (1, 10**9),
    "max_cost": (0, math.inf),
    "price_input": (0, math.inf),
    "price_output": (0, math.inf),
    "price_search": (0, math.inf),
    "rate": (0.01, 10_000),
    "workers": (1, 64),
    "image_size": (32, 4096),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A language model, and what it may cost."""

    model: str = ""
    """Name of the language model."""
    model_url: str = "https://api.openai.com/v1"
    """Address of an OpenAI-compatible server; the key is read from OPENAI_API_KEY."""
    max_requests: int = 10_000
    """Cap on all requests (model, search, pictures; with redirects and retries), over all restarts."""
    max_cost: float = 5.0
    """Cap on the total cost over all restarts, in the currency of the prices."""
    price_input: float = 0.0
    """Price of a million input tokens."""
    price_output: float = 0.0
    """Price of a million output tokens."""
    rate: float = 5.0
    """Maximum requests a second to one host."""
    workers: int = 4
    """Parallel requests."""

    def __post_init__(self):
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name, least) <= most:
                raise UserError(f"{name} is {getattr(self, name)}; it must be from {least:g} to {most:g}")
        _check_url("model_url", self.model_url)


@dataclass(frozen=True)
class CurateConfig(ModelConfig):
    """What to curate, from which sources, and what it may cost."""

    tree: tyro.conf.Positional[Path | None] = None
    """File of categories, one a line, such as "Home > Kitchen > Mugs"; not needed with a table of results."""
    out: Path = Path("runs/curate")
    """Folder of the data set and of all answers; run the same command again to continue."""
    search: str = ""
    """Address of an API like SerpApi's Google Shopping (https://serpapi.com/search.json; key: SERPAPI_API_KEY), or a
    table: a catalogue (product_id, title, image) or results (query, product_id, position, title, image). Without it
    only queries.csv is written."""
    encoder: str = "bm25"
    """How to search a catalogue: bm25, an encoder such as text:FOLDER, or the folder of a trained model."""
    queries: int = 500
    """Maximum number of queries, spread evenly over categories and intents."""
    products: int = 40
    """Maximum number of products a query."""
    scores: Literal["linear", "reciprocal", "judge"] = "linear"
    """linear: 101 - position; reciprocal: 100 / position; judge: the language model grades each pair 0 to 3."""
    judged_twice: float = 0.2
    """Share of the queries that are judged again, in another order, to measure the judge's self-agreement."""
    price_search: float = 0.0
    """Price of one search."""
    image_size: int = 512
    """Longest side of a stored picture, pixels."""
    seed: int = 0
    """Seed of the split and of the choice of queries that are judged twice."""

    def __post_init__(self):
        super().__post_init__()
        if self.searches_online:
            _check_url("search", self.search)

    @property
    def searches_online(self) -> bool:
        return "://" in self.search

    @property
    def asks_model(self) -> bool:
        return bool(self.tree) or self.scores == "judge"

    def described(self) -> dict:
        """The settings that the data set depends on, for its card; file names without folders."""
        settings = asdict(self) | {"tree": self.tree and self.tree.name}
        settings["search"] = self.search if self.searches_online else Path(self.search).name
        excluded = ("out", "workers", "rate", "max_", "price_")
        return {name: value for name, value in settings.items() if not name.startswith(excluded)}


def read_tree(path: Path) -> list[str]:
    """The leaves of a file of categories, one a line ("Home > Kitchen > Mugs"; `#` starts a comment), in file order."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as text ({error}); expected one category a line") from None
    paths = [re.sub(r"^\d+ - ", "", line.split("#")[0].strip()) for line in lines]  # Google's taxonomy has numbers
    nodes = list(dict.fromkeys(" > ".join(part.strip() for part in node.split(">")) for node in paths if node))
    for node in nodes:
        if not all(node.split(" > ")) or len(node) > 200:
            raise DataError(f"{path}: {node[:200]!r} is not a category; expected one like 'Home > Kitchen > Mugs'")
    inner = {node.rsplit(" > ", depth)[0] for node in nodes for depth in range(1, node.count(" > ") + 1)}
    if not nodes:
        raise DataError(f"{path}: no categories; expected one a line, such as 'Home > Kitchen > Mugs'")
    return [node for node in nodes if node not in inner]


def check(config: CurateConfig) -> dict[str, int]:
    """Raise a UserError for whatever is wrong with the settings; returns the maximum requests they need, by service."""
    if not config.tree and (not config.search or config.searches_online):
        raise UserError("no category tree; name a file of categories, or with --search a table of results")
    check_model(config, used=config.asks_model)
    if config.searches_online:
        _check_key("search", config.search, "serpapi.com")
    if config.search and not config.searches_online and not Path(config.search).is_file():
        raise UserError(f"--search {config.search}: neither an address (http://...) nor a file")
    needed = _requests(config)
    least = sum(count for service, count in needed.items() if service != "picture")
    if least > config.max_requests:
        raise UserError(
            f"--max-requests is {config.max_requests:,}, but {least:,} are needed without pictures "
            f"({listed(needed)}); raise it, or lower --queries"
        )
    return needed


def check_model(config: ModelConfig, used: bool = True) -> None:
    """Raise a UserError for a missing model, package or key. used: whether the model is asked at all."""
    if used and not config.model:
        raise UserError("no language model; give its name on the server with --model, and --model-url")
    for package in ("openai", "httpx2"):
        if find_spec(package) is None:
            raise UserError(f"{package} is not installed; run: pip install 'gcl-toolkit[curate]'")
    if used:
        _check_key("model_url", config.model_url, "openai.com")


def _check_key(name: str, url: str, domain: str) -> None:
    if is_at(url, domain) and not os.environ.get(KEYS[name]):
        raise UserError(f"{url} needs a key; set the environment variable {KEYS[name]}")


def _requests(config: CurateConfig) -> dict[str, int]:
    """Maximum requests by service, if every answer is usable."""
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


def listed(needed: dict[str, int]) -> str:
    return ", ".join(f"{count:,} for {service}" for service, count in needed.items())


def _check_url(name: str, url: str) -> None:
    option = f"--{name.replace('_', '-')}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{option} is not an address; expected one like https://host/path")
    secret = [key for key, _ in parse_qsl(parts.query) if re.search("key|token|secret|passw", key, re.IGNORECASE)]
    if parts.username or parts.password or secret:
        raise UserError(f"{option} contains a secret; remove it and set the environment variable {KEYS[name]}")


def is_at(url: str, domain: str) -> bool:
    return f".{urlsplit(url).hostname or ''}".endswith(f".{domain}")
