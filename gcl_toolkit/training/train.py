"""Training: a generator that yields a record a step."""

import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_toolkit.data.columns import is_text
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import UserError
from gcl_toolkit.losses.fast.ranks import ranks
from gcl_toolkit.machine import kept_memory
from gcl_toolkit.methods import DEFAULT, Batch, Method, as_method, name_of
from gcl_toolkit.models.encoders import public_name
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.training.batches import Batches, Part, seed_of
from gcl_toolkit.training.checkpoints import step_of
from gcl_toolkit.training.config import MachineConfig, TrainConfig
from gcl_toolkit.training.engine import Engine
from gcl_toolkit.training.runs import Run


class Watch(Protocol):
    """Something to measure during training."""

    def due(self, step: int, last: int) -> bool:
        """Whether to measure after this step (from 1)."""

    def __call__(self, model: GCLModel) -> dict[str, float]:
        """What to add to the step's record."""


def train(
    model: GCLModel,
    data: RankedData,
    method: Method | str = DEFAULT,
    config: TrainConfig | None = None,
    *,
    machine: MachineConfig | None = None,
    run: Run | None = None,
    watch: Watch | None = None,
    **settings,
) -> Iterator[dict]:
    """Train `model` in place on the pairs of `data`; yields {step, loss, logit_scale, learning_rate, seconds, skipped},
    and what `watch` measured after the steps where it was due.

    method: a value or a name of `gcl_toolkit.methods`. settings: those of `TrainConfig`, such as steps=400.
    Stop early by leaving the loop. With a `run`, records and checkpoints are written to its folder; one that resumes
    continues after its newest whole checkpoint and ends, on a CPU in float32, with the weights of an uninterrupted one,
    bit by bit. Raises UserError after too many NaN steps in a row, and when the disk is full.
    """
    config, machine = replace(config or TrainConfig(), **settings), machine or MachineConfig()
    method = as_method(method)
    sampler = method.sampler(data, config.batch, config.seed)
    learn_vocabulary(model, data)
    engine = Engine(model, config, machine, run.folder if run else None)
    try:
        with kept_memory(), run.locked() if run and engine.main else nullcontext():
            batches = Batches(model, data, sampler, config, machine)
            start, seconds = _begin(engine, method, data, run)
            yield from _steps(engine, method, batches, start, seconds, run, watch)
            batches.report_broken()  # pictures that were decoded on the way
    finally:
        engine.finish()


def _steps(
    engine: Engine, method: Method, batches: Batches, start: int, earlier: float, run: Run | None, watch: Watch | None
) -> Iterator[dict]:
    """earlier: the seconds that the run took before it was stopped."""
    model, config, machine = engine.model, engine.config, engine.machine
    started = saved = time.perf_counter()
    prepared = batches.prepared(range(start * config.accumulate, config.steps * config.accumulate))
    for step in range(start, config.steps):
        engine.set_rate(config.learning_rate_share(step))
        with engine.randomness(seed_of(config, step) + (1 << 50)):
            values = _move(engine, method, islice(prepared, config.accumulate))
        value, taken = engine.settle(values)
        record = _record(engine, step, value, earlier + time.perf_counter() - started)
        if watch and engine.main and watch.due(step + 1, config.steps):
            with engine.averaged():
                record |= watch(model)
        engine.log(record, step + 1)
        if run and engine.main:
            run.record(record)
        if engine.in_a_row >= machine.patience:
            kept = f"; the last good checkpoint is {run.whole}" if run and run.whole else ""
            raise UserError(
                f"{engine.in_a_row} steps in a row, up to step {step + 1}, had a NaN or infinite loss or gradient and "
                f"were skipped{kept}; lower the learning rate, or train in float32"
            )
        due = taken and time.perf_counter() - saved >= 60 * machine.save_minutes
        if run and engine.main and (due or step + 1 == config.steps):
            run.checkpoint(model, step + 1, engine.state(), engine.weights())
            saved = time.perf_counter()
        yield record


def _move(engine: Engine, method: Method, parts: Iterable[Part]) -> Tensor:
    """One step on its batches; returns what `Engine.settle` takes."""
    loss = torch.zeros((), device=engine.device)
    for batch, left, right in parts:
        sides = (rows.chunks(engine.model, engine.machine.chunk) for rows in (left, right))
        loss += engine.backward(partial(_loss, engine, method, batch), *sides)
    return engine.move(loss)


def _record(engine: Engine, step: int, loss: float, seconds: float) -> dict:
    return {
        "step": step + 1,
        "loss": loss,
        "logit_scale": engine.model.logit_scale.item(),
        "learning_rate": engine.peak * engine.config.learning_rate_share(step),
        "seconds": seconds,
        "skipped": engine.skipped,
    }


def _loss(engine: Engine, method: Method, batch: Batch, left: Tensor, right: Tensor) -> Tensor:
    """This rank's share of the loss; with Matryoshka dimensions, its mean over them."""
    half = engine.dtype == torch.bfloat16
    loss = partial(method.loss, batch=batch, logit_scale=engine.model.logit_scale, half=half)
    dimensions = engine.config.tuning.dimensions
    if not dimensions:
        return loss(left, right)
    losses = [loss(normalize(left[:, :d], dim=-1), normalize(right[:, :d], dim=-1)) for d in dimensions]
    return torch.stack(losses).mean()


def _begin(engine: Engine, method: Method, data: RankedData, run: Run | None) -> tuple[int, float]:
    """Start the run, or restore everything to where it stopped: the steps and the seconds that are done."""
    if not run:
        return 0, 0.0
    if engine.main:
        about = {"data": f"{data!r}, digest {data.digest}", "ranks": ranks()}
        settings = {"train": asdict(engine.config), "machine": asdict(engine.machine)}
        encoder = public_name(engine.model.encoder.spec["name"])
        run.configure({"method": name_of(method), **settings, "model": encoder, **about})
    checkpoint = run.newest()
    if checkpoint:
        engine.restore(checkpoint)
    done = step_of(checkpoint) if checkpoint else 0
    records = run.rewind() if run.resume and engine.main else []
    return done, records[-1]["seconds"] if records else 0.0


def learn_vocabulary(model: GCLModel, data: RankedData) -> None:
    """Show the encoder the texts and vectors of the model's fields, for those that are built from them."""
    texts, sides = [], {"left": (data.queries, model.left), "right": (data.corpus, model.right)}
    for table, fields in sides.values():
        for name in fields:
            if name in table.column_names and is_text(table[name]):
                texts += [text for text in table[name].to_pylist() if text]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        model.encoder.learn_vocabulary(texts)
        model.encoder.learn_vectors(sides)
