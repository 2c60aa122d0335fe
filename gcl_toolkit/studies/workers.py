"""Runs of a study side by side: processes that share torch's memory, each with one thread and the data read once."""

import gc
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import torch

from gcl_toolkit.errors import UserError
from gcl_toolkit.machine import release_memory


def side_by_side(tasks: Sequence[Any], worlds: Mapping[str, Any], jobs: int) -> Iterator[Any]:
    """What task.run(worlds[task.world]) yields for every task, `jobs` at a time; 0: one a core, or 1 with a GPU; 1: one
    after the other, in this process."""
    jobs = jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    if jobs == 1:
        for task in tasks:
            yield from task.run(worlds[task.world])
        return
    fork_server = "forkserver" in multiprocessing.get_all_start_methods()  # its workers share torch's memory
    context: Any = multiprocessing.get_context("forkserver" if fork_server else "spawn")
    if fork_server:
        context.set_forkserver_preload(["gcl_toolkit.studies.study"])
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # for the workers; more arenas only hold freed memory
    news = context.Queue()
    workers = ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(news,))
    with TemporaryDirectory(prefix="gcl-worlds-") as place, workers as pool:
        files, others = _written(worlds, Path(place)), set(multiprocessing.active_children())
        _release_memory()
        waiting: set[Future] = set()
        try:
            waiting = {pool.submit(_run, files[task.world], task) for task in tasks}
            while waiting:
                done, waiting = wait(waiting, timeout=0.2)
                while not news.empty():
                    yield news.get()
                for future in done:
                    yield future.result()
        except BaseException:  # an error, Ctrl-C, a caller that stops listening: don't wait for what runs
            for future in waiting:
                future.cancel()
            for worker in {*multiprocessing.active_children()} - others:
                worker.terminate()
            raise


def _written(worlds: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """World -> its file, from which each worker reads it once."""
    files = {name: folder / f"{number}.pickle" for number, name in enumerate(worlds)}
    try:
        for name, file in files.items():
            with file.open("wb") as opened:
                pickle.dump(worlds[name], opened)
    except OSError as error:
        raise UserError(
            f"{folder}: the data can't be written ({error.strerror}); set TMPDIR to a larger disk"
        ) from None
    return files


@lru_cache(maxsize=1)
def _read(file: Path) -> Any:
    with file.open("rb") as opened:
        return pickle.load(opened)  # written above, by this very study


_news: Any = None


def _start_worker(news) -> None:
    global _news
    _news = news
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends the workers
    gc.freeze()  # collections leave the server's objects alone, so that they stay shared
    torch.set_num_threads(1)


def _run(file: Path, task: Any) -> Any:
    """Run a task on the world in a file and send its progress; returns the last, that the run is whole."""
    for progress in task.run(_read(file)):
        if not progress.whole:
            _news.put(progress)
    _release_memory()
    return progress


def _release_memory() -> None:
    pa.default_memory_pool().release_unused()
    release_memory()
