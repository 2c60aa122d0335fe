"""What the steps of a training see: this rank's rows of each batch, read, augmented and cut into chunks.

Everything is a function of (seed, step) alone, so that a run can continue from any step.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.losses.fast.ranks import own_share, rank
from gcl_toolkit.methods import Batch, Sampler
from gcl_toolkit.models.inputs import Inputs
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.training.augment import Noise
from gcl_toolkit.training.config import MachineConfig, TrainConfig


@dataclass(frozen=True)
class Rows:
    """The model inputs of one side of a batch, this rank's rows."""

    side: str
    values: dict[str, Tensor]
    present: dict[str, Tensor]
    noise: dict[str, Noise]
    """Augmentation of the pictures, applied on the device."""

    def chunks(self, model: GCLModel, size: int | None) -> list[Callable[[], Tensor]]:
        """Functions that each embed `size` rows; None: one for all rows."""
        count = len(next(iter(self.present.values())))
        size = size or max(1, count)
        return [partial(self._embed, model, slice(start, start + size)) for start in range(0, count, size)]

    def _embed(self, model: GCLModel, rows: slice) -> Tensor:
        inputs = {name: value[rows].to(model.device, non_blocking=True) for name, value in self.values.items()}
        inputs |= {name: noise.slice(rows).apply(inputs[name]) for name, noise in self.noise.items()}
        return model(inputs, {name: present[rows] for name, present in self.present.items()}, self.side)


class Batches:
    """Iterates over the prepared batches of some steps: (batch, its left rows, its right rows)."""

    def __init__(
        self, model: GCLModel, data: RankedData, sampler: Sampler, config: TrainConfig, machine: MachineConfig
    ):
        self.sampler, self.config, self.on_gpu = sampler, config, model.device.type == "cuda"
        read = partial(Inputs, model.encoder, workers=machine.workers, cache=machine.cache)
        self.left, self.right = read(data.queries, model.left), read(data.corpus, model.right, side="right")
        self.reported = 0
        self.report_broken()
        for note in (*self.left.notes, *self.right.notes):
            warnings.warn(note, stacklevel=2)
        late = self.left.late or self.right.late or self.on_gpu
        self.ahead = 2 if machine.workers and late else 0

    def report_broken(self) -> None:
        """Warn of pictures that could not be read, if there are more than at the last call."""
        broken = [*self.left.broken.values(), *self.right.broken.values()]
        if len(broken) > self.reported:
            warnings.warn(f"{len(broken):,} pictures can't be read and count as missing; {broken[0]}", stacklevel=2)
        self.reported = len(broken)

    def prepared(self, indices: range) -> Iterator[tuple[Batch, Rows, Rows]]:
        """The batches of these indices (step * accumulate + number), prepared ahead of time where that pays."""
        yield from ahead(self._prepare, indices, self.ahead)

    def _prepare(self, index: int) -> tuple[Batch, Rows, Rows]:
        batch = self.sampler(index)
        generator = torch.Generator().manual_seed(seed_of(self.config, index) + rank() * (1 << 40))
        left = self._rows("left", self.left, batch.queries, generator)
        return batch, left, self._rows("right", self.right, batch.products, generator)

    def _rows(self, side: str, inputs: Inputs, rows: np.ndarray, generator: torch.Generator) -> Rows:
        values, present = inputs.rows(rows[own_share(len(rows))])
        noise = {}
        if self.config.augment:
            for name, value in values.items():
                if value.dim() == 4:
                    noise[name] = Noise.draw(value, generator)
                else:
                    values[name] = inputs.encoder.drop_words(value, generator)
        if self.on_gpu:
            values = {name: value.pin_memory() for name, value in values.items()}
        return Rows(side, values, present, noise)


def seed_of(config: TrainConfig, step: int) -> int:
    """The seed of a step's random numbers."""
    return config.seed * 1_000_003 + step


_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def ahead(make: Callable[[_Item], _Made], items: Iterable[_Item], count: int) -> Iterator[_Made]:
    """make(item) of every item, in order; a thread makes up to `count` of them while one is in use."""
    if count == 0:
        yield from map(make, items)
        return
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
