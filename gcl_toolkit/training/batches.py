"""What the steps of a training see: this rank's rows of each batch, read, augmented and cut into chunks.

Everything is a function of (seed, step) alone, so that a run can continue from any step.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import counted
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

    def map(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """The same rows with every tensor changed."""
        values, present = ({n: change(part) for n, part in parts.items()} for parts in (self.values, self.present))
        return Rows(self.side, values, present, {n: Noise(*map(change, noise)) for n, noise in self.noise.items()})

    def chunks(self, model: GCLModel, size: int | None) -> list[Callable[[], Tensor]]:
        """Functions that each embed `size` rows; None: one for all rows."""
        count = len(next(iter(self.present.values())))
        size = size or max(1, count)
        return [partial(self._embed, model, slice(start, start + size)) for start in range(0, count, size)]

    def _embed(self, model: GCLModel, rows: slice) -> Tensor:
        inputs = {name: value[rows].to(model.device, non_blocking=True) for name, value in self.values.items()}
        inputs |= {name: noise.slice(rows).apply(inputs[name]) for name, noise in self.noise.items()}
        return model(inputs, {name: present[rows] for name, present in self.present.items()}, self.side)


Part = tuple[Batch, Rows, Rows]
"""A batch, its left rows, its right rows."""


class Batches:
    """Iterates over the prepared batches of some steps, on the model's device."""

    def __init__(
        self, model: GCLModel, data: RankedData, sampler: Sampler, config: TrainConfig, machine: MachineConfig
    ):
        self.sampler, self.config, self.device = sampler, config, model.device
        self.stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        self.whole, for_gpu = machine.chunk is None, self.stream is not None
        read = partial(Inputs, model.encoder, workers=machine.workers, cache=machine.cache, for_gpu=for_gpu)
        self.left, self.right = read(data.queries, model.left), read(data.corpus, model.right, side="right")
        self.reported = 0
        for inputs in (self.left, self.right):
            inputs.check_pictures()
        self.report_broken()
        for note in (*self.left.notes, *self.right.notes):
            warnings.warn(note, stacklevel=2)
        late = self.left.late or self.right.late or for_gpu
        self.ahead = 2 if machine.workers and late else 0

    def report_broken(self) -> None:
        """Warn of pictures that could not be read, if there are more than at the last call."""
        broken = [*self.left.broken.values(), *self.right.broken.values()]
        if len(broken) > self.reported:
            warnings.warn(f"{counted(len(broken), 'unreadable picture')}, taken as missing; {broken[0]}", stacklevel=2)
        self.reported = len(broken)

    def prepared(self, indices: range) -> Iterator[Part]:
        """The batches of these indices (step * accumulate + number), prepared ahead of time where that pays."""
        try:
            yield from ahead(self._prepare, indices, self.ahead)
        finally:
            self.left.close()
            self.right.close()

    def _prepare(self, index: int) -> Part:
        batch = self.sampler(index)
        generator = torch.Generator().manual_seed(seed_of(self.config, index) + rank() * (1 << 40))
        left = self._rows("left", self.left, batch.queries, generator)
        right = self._rows("right", self.right, batch.products, generator)
        if self.stream:
            if batch.weights.dim() == 2:  # a GPU would be waited for to find the known pairs
                batch = replace(batch, weights=batch.weights.to_sparse())
            with torch.cuda.stream(self.stream):
                batch = batch.map(self._send)
                if self.whole:  # else chunk by chunk, since memory is short
                    left, right = left.map(self._send), right.map(self._send)
            self.stream.synchronize()
        return batch, left, right

    def _send(self, part: Tensor) -> Tensor:
        """Copy to the device, on this stream, for use on the one that trains."""
        sent = part.to(self.device, non_blocking=True)
        for dense in (sent._indices(), sent._values()) if sent.is_sparse else (sent,):
            dense.record_stream(torch.cuda.default_stream(self.device))
        return sent

    def _rows(self, side: str, inputs: Inputs, rows: np.ndarray, generator: torch.Generator) -> Rows:
        values, present = inputs.rows(rows[own_share(len(rows))])
        noise = {}
        if self.config.augment:
            for name, value in values.items():
                if value.dim() == 4:
                    noise[name] = Noise.draw(value, generator)
                elif not value.is_floating_point():
                    values[name] = inputs.encoder.drop_words(value, generator)
        if self.stream:
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
