"""The ledger: every answer that was paid for and the cost of all requests, in one SQLite file; caps hold over restarts.

A request is recorded with its maximum cost before it is sent; its answer is stored in the transaction that corrects the
cost. After a kill in between, that maximum counts as spent and the request is sent again. After a power cut a few
requests without a cost may be missing from the count.
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote

from gcl_toolkit.curate.settings import ModelConfig
from gcl_toolkit.errors import UserError

TRIES = 6
"""Attempts at a request that fails temporarily."""
OPTIONAL_TRIES = 3
"""Attempts at a request that the data set can do without."""
BAD_ANSWERS = 3
"""Unusable answers to one request before it is given up for good."""
PATIENCE = 120.0
"""Longest accepted Retry-After, in seconds."""

_TABLES = """
create table if not exists spent (service text primary key, requests integer not null, cost real not null);
create table if not exists kept (key text primary key, body blob, reason text);
"""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Fault(Exception):
    """A request without an answer. then: retry it, give it up for good, or stop the run.

    after: seconds that the server asks to wait.  charged: whether it may have cost something.
    """

    def __init__(
        self, reason: str, then: Literal["again", "never", "stop"] = "again", after: float = 0.0, charged: bool = False
    ):
        super().__init__(reason)
        self.then, self.after, self.charged = then, after, charged

    @property
    def temporary(self) -> bool:
        return self.then == "again" and self.after <= PATIENCE

    @classmethod
    def of_status(cls, response: Any, host: str = "") -> Fault:
        """Of a response with an error status. host: of a service without which the run can't go on."""
        status = response.status_code
        temporary = status in (408, 409, 429) or status >= 500
        try:
            after = max(0.0, float(response.headers.get("retry-after", 0)))
        except ValueError:  # a date
            after = 0.0
        reason = f"{host} returns {status}: {' '.join(response.text.split())[:300]}" if host else f"status {status}"
        return cls(reason, "again" if temporary else "stop" if host else "never", after)


class Bad(Exception):
    """An unusable answer."""


class Request(NamedTuple):
    """What identifies a request, and its terms. most: the maximum cost.

    optional: if it keeps failing, it is skipped this time instead of stopping the run.
    """

    service: str
    what: object
    host: str
    most: float = 0.0
    optional: bool = False

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps([self.service, self.what], sort_keys=True).encode()).hexdigest()


class Answer(NamedTuple):
    """The stored part of an answer, or None and the reason why there is none."""

    body: bytes | None
    reason: str = ""


class Ledger:
    """One file; any number of threads and processes may send requests through it."""

    def __init__(self, path: Path, config: ModelConfig, secrets: Iterable[str] = ()):
        self._config = config
        # shorter ones are placeholders such as "none"
        self._secrets = [form for s in secrets if len(s) >= 8 for form in (s, quote(s, safe=""))]
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._error: BaseException | None = None
        self._next_turn: dict[str, float] = {}
        self._file = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._file.execute("pragma journal_mode = wal")
        self._file.executescript(_TABLES)

    def close(self) -> None:
        self._file.close()

    def spent(self) -> dict[str, dict[str, float]]:
        """Service -> requests and cost of all runs in this folder."""
        rows = self._file.execute("select service, requests, cost from spent order by service")
        return {service: {"requests": requests, "cost": round(cost, 6)} for service, requests, cost in rows}

    def ask(self, request: Request, send: Callable[[], tuple[bytes, float]], read: Callable[[bytes], bytes]) -> Answer:
        """The stored answer, or a new one. send: returns body and cost, or raises Fault.  read: returns the part of a
        body to store, or raises Bad."""
        answer, tries, unusable = self._stored(request), 0, 0
        while answer is None:
            self._wait_for_turn(request.host)
            self._reserve(request)
            tries += 1
            try:
                body, cost = send()
                for secret in self._secrets:
                    body = body.replace(secret.encode(), b"***")
                answer = self._settle(request, cost, Answer(read(body)))
            except Bad as bad:
                unusable += 1
                answer = self._settle(request, cost, Answer(None, str(bad)) if unusable == BAD_ANSWERS else None)
            except Fault as fault:
                refusal = Answer(None, str(fault)) if fault.then == "never" else None
                answer = self._settle(request, request.most if fault.charged else 0.0, refusal)
                if not answer and (tries >= (OPTIONAL_TRIES if request.optional else TRIES) or not fault.temporary):
                    return self._give_up(request, fault, tries)
                if not answer:
                    self._hold(request.host, fault.after or min(60.0, 2.0**tries / 4) * random.uniform(0.5, 1.0))
        return answer

    def _give_up(self, request: Request, fault: Fault, tries: int) -> Answer:
        if request.optional:
            return Answer(None, self._hidden(str(fault)))
        wait = f", asks to wait {fault.after:.0f} s" if fault.after else ""
        raise UserError(
            f"{request.service}: {self._hidden(str(fault))}{wait}; attempts: {tries}. All answers so far are stored; "
            "run the same command again to continue"
        )

    def each(
        self, function: Callable[[Item], Result], items: Iterable[Item], tick: Callable[[], object]
    ) -> list[Result]:
        """function(item) for all items, some at a time, in their order; the first error stops the others."""

        def run(item: Item) -> Result:
            try:
                self._wait(0)
                return function(item)
            except BaseException as error:
                self._error = self._error or error
                self._stopped.set()
                raise

        results = []
        with ThreadPoolExecutor(self._config.workers) as pool:
            try:
                for result in pool.map(run, items):
                    results.append(result)
                    tick()
            except BaseException:
                self._stopped.set()
                raise
        return results

    def _hidden(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    # -- the file -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, paid: bool = False) -> Iterator[None]:
        """Exclusive, also among processes. paid: synced to the disk, since a request that costs something follows."""
        with self._lock, self._file:
            self._file.execute(f"pragma synchronous = {'full' if paid else 'normal'}")
            self._file.execute("begin immediate")
            yield

    def _stored(self, request: Request) -> Answer | None:
        with self._lock:
            row = self._file.execute("select body, reason from kept where key = ?", (request.key,)).fetchone()
        return Answer(*row) if row else None

    def _reserve(self, request: Request) -> None:
        """Record a request with its maximum cost, or raise a UserError if that would exceed a cap."""
        max_requests, max_cost = self._config.max_requests, self._config.max_cost
        with self._transaction(paid=request.most > 0):
            sums = "select coalesce(sum(requests), 0), coalesce(sum(cost), 0) from spent"
            requests, cost = self._file.execute(sums).fetchone()
            advice = "All answers are stored: raise it and run the same command again to continue"
            if requests + 1 > max_requests:
                raise UserError(f"{requests:,} requests were sent, which is the cap (--max-requests). {advice}")
            if cost + request.most > max_cost:
                raise UserError(
                    f"{cost:.4f} are spent or reserved and the next request may cost {request.most:.4f}, which exceeds "
                    f"the cap of {max_cost:g} (--max-cost). {advice}"
                )
            self._add(request.service, 1, request.most)

    def _settle(self, request: Request, cost: float, answer: Answer | None) -> Answer | None:
        """Correct the reserved cost and store the answer, if there is one, in one transaction."""
        answer = answer and answer._replace(reason=self._hidden(answer.reason))
        with self._transaction():
            self._add(request.service, 0, cost - request.most)
            if answer:
                self._file.execute("insert or replace into kept values (?, ?, ?)", (request.key, *answer))
        return answer

    def _add(self, service: str, requests: int, cost: float) -> None:
        self._file.execute(
            "insert into spent values (?, ?, ?) on conflict do update set requests = requests + excluded.requests, "
            "cost = cost + excluded.cost",
            (service, requests, cost),
        )

    # -- time ---------------------------------------------------------------------------------------------------------

    def _wait_for_turn(self, host: str) -> None:
        while True:
            with self._lock:
                now, turn = time.monotonic(), self._next_turn.get(host, 0.0)
                if turn <= now:
                    self._next_turn[host] = now + 1 / self._config.rate
                    return
            self._wait(turn - now)

    def _wait(self, seconds: float) -> None:
        """Raises the error that stopped the run, if there is one."""
        if self._stopped.wait(seconds):
            raise self._error or UserError("stopped")

    def _hold(self, host: str, seconds: float) -> None:
        """Send nothing to this host for a while."""
        with self._lock:
            self._next_turn[host] = max(self._next_turn.get(host, 0.0), time.monotonic() + seconds)
