"""How long a study will still take, by the steps that it has done."""

import math
import time

import numpy as np

from gcl_toolkit.studies.study import Progress

MEASURED = 10
"""Steps of a run before its speed counts."""


class Clock:
    """Call it with every progress of a study's trainings; `waiting` is how many of them have not begun."""

    def __init__(self, waiting: int):
        self.waiting = waiting
        self.began: dict[tuple, tuple[float, int]] = {}
        self.running: dict[tuple, tuple[float, int]] = {}
        """Training -> when its first and its last progress came, and the steps that it had done then."""

    def __call__(self, progress: Progress) -> float | None:
        """Minutes left, evaluation not counted; None while no running training has done enough steps."""
        key, now = progress.training, (time.perf_counter(), progress.done)
        self.waiting -= key not in self.began
        self.began.setdefault(key, now)
        self.running[key] = now
        if progress.whole:
            del self.running[key]
        moved = [np.subtract(last, self.began[running]) for running, last in self.running.items()]
        speeds = [seconds / steps for seconds, steps in moved if steps >= MEASURED]
        if not speeds:
            return None
        left = progress.total - min(done for _, done in self.running.values())
        rounds = math.ceil(self.waiting / len(self.running))
        return float(np.mean(speeds)) * (left + rounds * progress.total) / 60
