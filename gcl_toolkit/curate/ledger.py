"""The ledger: every answer that was paid for, and what all requests have cost; the caps hold over any kill.

A request is entered, with the most that it can cost, before it is sent. A process that dies in between has spent it as
far as the caps are concerned, and asks again. An answer is kept in the same transaction that enters its true cost.
After a power cut a few of the requests that cost nothing may be missing in the count.
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar
from urllib.parse import quote

from gcl_toolkit.errors import UserError

TRIES = 6
"""Of a request that fails in passing."""
OPTIONAL_TRIES = 3
"""Of one that the data set can do without."""
BAD_ANSWERS = 3
"""Unusable answers to one request, over all restarts, before it is given up."""
PATIENCE = 120.0
"""Seconds that a server may ask to wait."""
GO_ON = "All answers are kept: raise it, and the same command goes on"

_TABLES = """
create table if not exists spent (service text primary key, requests integer not null, cost real not null);
create table if not exists kept (key text primary key, body blob, reason text);
create table if not exists bad (key text primary key, answers integer not null);
"""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Fault(Exception):
    """A request without an answer. then: ask again, give this one up for good, or stop the whole run.

    after: seconds that the server asks to wait.  charged: it may have cost something.
    """

    def __init__(
        self, reason: str, then: Literal["again", "never", "stop"] = "again", after: float = 0.0, charged: bool = False
    ):
        super().__init__(reason)
        self.then, self.after, self.charged = then, after, charged


class Bad(Exception):
    """An answer that can't be used."""


class Answer(NamedTuple):
    """What was kept of an answer; None with the reason when there is none."""

    body: bytes | None
    reason: str = ""


class Ledger:
    """One file; any number of threads, and processes, may ask through it."""

    def __init__(self, path: Path, max_requests: int, max_cost: float, rate: float, secrets: Iterable[str] = ()):
        self.max_requests, self.max_cost, self.rate = max_requests, max_cost, rate
        self._secrets = [form for s in secrets if len(s) >= 8 for form in (s, quote(s, safe=""))]  # "none" is none
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._next: dict[str, float] = {}
        self._file = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._file.execute("pragma journal_mode = wal")
        self._file.executescript(_TABLES)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def spent(self) -> dict[str, dict[str, float]]:
        """Service -> requests and cost, of all runs in this folder."""
        rows = self._file.execute("select service, requests, cost from spent order by service")
        return {service: {"requests": requests, "cost": round(cost, 6)} for service, requests, cost in rows}

    def hidden(self, text: str) -> str:
        """A text without the secrets in it."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def ask(
        self,
        service: str,
        what: object,
        send: Callable[[], tuple[bytes, float]],
        read: Callable[[bytes], bytes],
        *,
        host: str,
        most: float = 0.0,
        optional: bool = False,
    ) -> Answer:
        """The answer to `what`, kept or fetched now.

        send: (body, cost), or raises Fault.  read: what to keep of a body, or raises Bad.  most: the cost at most.
        optional: a request that keeps failing is left out this time; otherwise it stops the run.
        """
        key = hashlib.sha256(json.dumps([service, what], sort_keys=True).encode()).hexdigest()
        if kept := self._kept(key):
            return kept
        tries = OPTIONAL_TRIES if optional else TRIES
        for tried in range(1, tries + BAD_ANSWERS + 1):
            self._wait_for_turn(host)
            self._reserve(service, most)
            try:
                body, cost = send()
            except Fault as fault:
                self._settle(service, most if fault.charged else 0.0, most)
                reason = self.hidden(str(fault))
                if fault.then == "never":
                    return self._keep(key, Answer(None, reason))
                if fault.then == "again" and tried < tries and fault.after <= PATIENCE:
                    self._hold(host, fault.after or min(60.0, 2.0**tried / 4) * random.uniform(0.5, 1.0))
                    continue
                if optional:
                    return Answer(None, reason)
                raise UserError(
                    f"{service}: {reason}{f', asks to wait {fault.after:.0f} s' if fault.after else ''}, after {tried} "
                    f"tr{'y' if tried == 1 else 'ies'}; all answers so far are kept, the same command goes on"
                ) from None
            try:
                for secret in self._secrets:
                    body = body.replace(secret.encode(), b"***")
                kept = Answer(read(body))
            except Bad as bad:
                self._settle(service, cost, most)
                if self._count_bad(key) >= BAD_ANSWERS:
                    return self._keep(key, Answer(None, self.hidden(str(bad))))
                continue
            return self._keep(key, kept, service, cost, most)
        return Answer(None, "no usable answer")

    def each(
        self, function: Callable[[Item], Result], items: Iterable[Item], workers: int, tick: Callable[[], object]
    ) -> list[Result]:
        """function(item) for all items, some at a time, in their order; the first error stops the others."""

        failed: list[BaseException] = []

        def run(item: Item) -> Result:
            if self._stopped.is_set():
                raise UserError("stopped")
            try:
                return function(item)
            except BaseException as error:
                failed.append(error)
                self._stopped.set()
                raise

        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(run, item) for item in items]
            try:
                for future in as_completed(futures):
                    future.result()
                    tick()
            except BaseException as error:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise (failed or [error])[0] from None
        return [future.result() for future in futures]

    # -- money --------------------------------------------------------------------------------------------------------

    def _reserve(self, service: str, most: float) -> None:
        with self._lock, self._transaction(paid=most > 0):
            sums = "select coalesce(sum(requests), 0), coalesce(sum(cost), 0) from spent"
            requests, cost = self._file.execute(sums).fetchone()
            if requests + 1 > self.max_requests:
                raise UserError(f"{requests:,} requests are sent, the cap (--max-requests). {GO_ON}")
            if cost + most > self.max_cost:
                raise UserError(
                    f"{cost:.4f} are spent or under way, and the next request may cost {most:.4f}: more than "
                    f"{self.max_cost:g}, the cap (--max-cost). {GO_ON}"
                )
            self._add(service, 1, most)

    def _settle(self, service: str, cost: float, most: float) -> None:
        if cost != most:
            with self._lock, self._transaction():
                self._add(service, 0, cost - most)

    def _add(self, service: str, requests: int, cost: float) -> None:
        self._file.execute(
            "insert into spent values (?, ?, ?) on conflict do update set requests = requests + excluded.requests, "
            "cost = cost + excluded.cost",
            (service, requests, cost),
        )

    # -- answers ------------------------------------------------------------------------------------------------------

    def _kept(self, key: str) -> Answer | None:
        with self._lock:
            row = self._file.execute("select body, reason from kept where key = ?", (key,)).fetchone()
        return Answer(*row) if row else None

    def _keep(self, key: str, answer: Answer, service: str = "", cost: float = 0.0, most: float = 0.0) -> Answer:
        with self._lock, self._transaction():
            self._file.execute("insert or replace into kept values (?, ?, ?)", (key, *answer))
            if service:
                self._add(service, 0, cost - most)
        return answer

    def _count_bad(self, key: str) -> int:
        with self._lock, self._transaction():
            count = "insert into bad values (?, 1) on conflict do update set answers = answers + 1 returning answers"
            return self._file.execute(count, (key,)).fetchall()[0][0]

    def _transaction(self, paid: bool = False) -> _Transaction:
        return _Transaction(self._file, paid)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _wait_for_turn(self, host: str) -> None:
        while True:
            with self._lock:
                now, at = time.monotonic(), self._next.get(host, 0.0)
                if at <= now:
                    self._next[host] = now + 1 / self.rate
                    return
            if self._stopped.wait(at - now):
                raise UserError("stopped")

    def _hold(self, host: str, seconds: float) -> None:
        """Nobody asks this host for so long."""
        with self._lock:
            self._next[host] = max(self._next.get(host, 0.0), time.monotonic() + seconds)


class _Transaction:
    """Whole or not at all, and alone in the file, also among processes. paid: on the disk before anything is sent."""

    def __init__(self, file: sqlite3.Connection, paid: bool):
        self._file, self._paid = file, paid

    def __enter__(self) -> None:
        self._file.execute(f"pragma synchronous = {'full' if self._paid else 'normal'}")
        self._file.execute("begin immediate")

    def __exit__(self, kind: type | None, *_) -> None:
        self._file.execute("rollback" if kind else "commit")
