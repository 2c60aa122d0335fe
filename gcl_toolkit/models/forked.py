"""Pictures decoded in forked processes, which leave the interpreter lock to the thread that trains."""

import mmap
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import torch

from gcl_toolkit.errors import UserError

ROWS = 32
"""Pictures of one task."""

Decode = Callable[[str, int, np.ndarray], str | None]

_child: tuple[Decode, np.ndarray]


class Forked:
    """decode(name, row, into) for many rows, in `count` processes.

    They are forked at once, so that they see the tables of this process, and write pixels (3 x height x width, uint8)
    into memory that they share with it. They end with it, or at `close`.
    """

    def __init__(self, decode: Decode, shape: tuple[int, int], count: int):
        size = (2 * count, ROWS, 3, *shape)
        self.groups = np.frombuffer(mmap.mmap(-1, int(np.prod(size))), np.uint8).reshape(size)
        context = multiprocessing.get_context("fork")
        self.pool = ProcessPoolExecutor(count, context, _begin, (os.getpid(), decode, self.groups))
        with warnings.catch_warnings():  # of threads at a fork: a child decodes in one, and touches no GPU
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pool.submit(_decode, "", [], 0).result()

    def __call__(self, name: str, rows: np.ndarray, into: np.ndarray, where: np.ndarray) -> list[str | None]:
        """Decode `rows` into the places `where` of `into`; returns what `decode` returned for each."""
        reasons: list[str | None] = []
        waiting: deque[tuple[np.ndarray, int, Future]] = deque()

        def take() -> None:
            places, group, future = waiting.popleft()
            reasons.extend(future.result())
            into[places] = self.groups[group, : len(places)]

        try:
            for number, start in enumerate(range(0, len(rows), ROWS)):
                if len(waiting) == len(self.groups):
                    take()
                group, part = number % len(self.groups), slice(start, start + ROWS)
                waiting.append((where[part], group, self.pool.submit(_decode, name, rows[part].tolist(), group)))
            while waiting:
                take()
        except BrokenProcessPool:  # killed for its memory, most likely
            raise UserError("a process that decodes pictures died; use fewer workers, or more memory") from None
        return reasons

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


def _begin(parent: int, decode: Decode, groups: np.ndarray) -> None:
    global _child
    _child = decode, groups
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _decode(name: str, rows: list[int], group: int) -> list[str | None]:
    decode, groups = _child
    return [decode(name, row, into) for row, into in zip(rows, groups[group], strict=False)]
