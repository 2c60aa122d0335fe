"""The app under load: many clients search at once; no answer may be wrong, a busy server must say so.

python benchmarks/load.py --clients 100 --seconds 60        # on 20,000 generated products, without torch
python benchmarks/load.py --clients 8 --seconds 600         # a soak: is memory flat?
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "app")]


@dataclass
class Outcome:
    """outcomes: right, wrong, refused, failed; seconds of the right ones; memory in MB over time; the server's CPU."""

    outcomes: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def __str__(self) -> str:
        low, middle, high = np.quantile(self.seconds or [np.nan], [0.5, 0.95, 0.99])
        quarters = ", ".join(f"{np.median(part):.0f}" for part in np.array_split(self.memory, 4))
        kept = f"memory {self.memory[0]:.0f} MB at first, {max(self.memory):.0f} at most; by quarter {quarters}"
        each = 1000 * self.cpu_seconds / max(1, self.outcomes["right"])
        waits = f"seconds: median {low:.2f}, p95 {middle:.2f}, p99 {high:.2f}; CPU an answer {each:.0f} ms"
        return f"{dict(self.outcomes)}; {waits}; {kept}"


def megabytes(process: int) -> float:
    """Resident memory of a process."""
    line = next(s for s in Path(f"/proc/{process}/status").read_text().splitlines() if s.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def cpu(process: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def one(client: httpx.AsyncClient, url: str, query: str, weight: float, expected: list[str]) -> str:
    """A search as the page asks for it: "right", "wrong", "refused" or "failed"."""
    try:
        answer = await client.get(f"{url}gcl/view", params={"tab": "search", "query": query, "weight": weight})
    except httpx.HTTPError as error:
        return f"failed ({type(error).__name__})"
    if answer.status_code == 503 and answer.headers["Retry-After"]:
        return "refused"
    if answer.status_code != 200:
        return f"failed ({answer.status_code} {answer.text[:80]!r})"
    return "right" if re.findall(r'<li class="card[^>]* data-item="([0-9]+)"', answer.text) == expected else "wrong"


async def run(
    url: str, process: int, expected: dict[tuple[str, float], list[str]], clients: int, seconds: float
) -> Outcome:
    """`clients` at once, each with its next search as soon as the last is answered; a refused one waits a little."""
    load, end, used = Outcome(memory=[megabytes(process)]), time.monotonic() + seconds, cpu(process)
    # Without kept connections: the server closes idle ones, and one that closes as it is used again fails to be read.
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=0)

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            (query, weight), best = chance.choice(list(expected.items()))
            start = time.monotonic()
            outcome = await one(client, url, query, weight, best)
            load.outcomes[outcome] += 1
            if outcome == "right":
                load.seconds.append(time.monotonic() - start)
            else:
                await asyncio.sleep(chance.uniform(0.2, 1))

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(1)
            load.memory.append(megabytes(process))

    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
        await asyncio.gather(watch(), *(ask(client, number) for number in range(clients)))
    load.cpu_seconds = cpu(process) - used
    return load


def searches(folder: Path, count: int = 60) -> dict[tuple[str, float], list[str]]:
    """(query, weight) -> the rows of the first products, by the service in this process."""
    from gcl_toolkit.app.service import Service
    from gcl_toolkit.app.tabs.search import SHOWN
    from gcl_toolkit.views.bundle import read_bundle

    service, chance = Service(read_bundle(folder)), random.Random(0)
    state = service.state()
    asked = [(chance.choice(service.choices(state.split)), chance.randrange(101) / 100) for _ in range(count)]
    return {
        (query, weight): [str(p.item) for p in service.search(state.split, query, state.a, weight, SHOWN).products]
        for query, weight in asked
    }


def main() -> None:
    import big_bundle
    from chrome import served

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--products", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = big_bundle.make(Path(place) / "bundle", options.products, dimension=512)
        with served(folder) as url:
            expected = searches(folder)
            outcome = asyncio.run(run(url, url.pid, expected, options.clients, options.seconds))
    size = f"{options.products:,} products, {os.cpu_count()} cores"
    print(f"{options.clients} clients, {options.seconds:g} s, {size}: {outcome}")


if __name__ == "__main__":
    main()
