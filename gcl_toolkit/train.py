"""Training: a configuration and a generator that yields a record a step."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_toolkit.baselines import BM25, texts
from gcl_toolkit.batches import Inputs, Noise, ahead
from gcl_toolkit.checkpoints import step_of
from gcl_toolkit.engine import Engine, EngineConfig
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.evaluate import Watch
from gcl_toolkit.fields import Fields
from gcl_toolkit.losses import LOSSES, TILED, sized
from gcl_toolkit.losses.distributed import local_form, own_share, rank, ranks
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData, is_image
from gcl_toolkit.runs import Run
from gcl_toolkit.samplers import Batch, KnownPairs, MatrixSampler, PairSampler, QuerySampler
from gcl_toolkit.weighting import is_top, to_weights

Sampler = PairSampler | QuerySampler | MatrixSampler
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the score-matrix GCL that was the strongest on dev queries (docs/LOG.md)."""

    loss: str = "graded"
    """"graded": every known pair of the step pulls, against worse ones; "matrix": against all others; "gcl": one pair a
    row, the published form; others of `LOSSES`."""
    weighting: str = "auto"
    """Score -> weight, a name of `weighting.WEIGHTINGS`; "constant" is binary contrastive training."""
    sampler: str = "auto"
    """What a step draws. "auto": "pairs", known pairs at random, for "gcl"; "matrix" for all others. "queries": one
    product each of different queries, for "gcl". "hard": "matrix", a quarter of whose products BM25 finds for the
    queries though they aren't known for them."""
    top_only: bool = False
    """Train on the pairs with the best grades only."""
    mask: bool = True
    """"gcl" only: other rows of the same query or product, and other known pairs, are no negatives."""
    steps: int = 400
    batch: int = 192
    """Pairs ("gcl") or products (all other losses) a step."""
    queries: int = 4096
    """All but "gcl": at least this many queries a step, if there are as many."""
    learning_rate: float | None = None
    """None: the encoder's own (4e-3 for the small one, 1e-5 for pretrained ones)."""
    weight_decay: float = 0.05
    warmup: float = 0.1
    """Share of the steps with a rising learning rate; a cosine falls to zero after it."""
    augment: bool = True
    """Flip, shift and brightness of pictures; dropped words."""
    max_logit_scale: float = 100.0
    precision: str = "auto"
    """"float32", "bfloat16", "float16", or "auto": bfloat16 where the processor multiplies in it."""
    seed: int = 0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        fitting = ("auto", "pairs", "queries") if self.loss == "gcl" else ("auto", "matrix", "hard")
        if self.sampler not in fitting:
            raise unknown(f"sampler for the loss {self.loss!r}", self.sampler, fitting)
        for name, holds, expected in (
            *((name, getattr(self, name) >= 1, "at least 1") for name in ("steps", "batch", "queries")),
            ("learning_rate", self.learning_rate is None or 0 < self.learning_rate < math.inf, "a number > 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "a number >= 0"),
            ("warmup", 0 <= self.warmup <= 1, "a share from 0 to 1"),
            ("max_logit_scale", 1 <= self.max_logit_scale < math.inf, "a number >= 1"),
        ):
            if not holds:
                raise UserError(f"{name} is {getattr(self, name)}; {expected} is expected")


def train(
    model: GCLModel,
    data: RankedData,
    config: TrainConfig | None = None,
    *,
    engine: EngineConfig | None = None,
    run: Run | None = None,
    watch: Watch | None = None,
) -> Iterator[dict]:
    """Train `model` in place on the pairs of `data`; yields {step, loss, logit_scale, learning_rate, seconds, skipped},
    and where `watch` is due what it measured.

    Stop early by leaving the loop. With a `run` the records and checkpoints are written to its folder; one that resumes
    goes on after its newest whole checkpoint and ends, on a CPU in float32, with the weights of an undisturbed one, bit
    by bit. Raises UserError after too many NaN steps in a row, and when the disk is full.
    """
    config, options = config or TrainConfig(), engine or EngineConfig()
    sampler = _sampler(data, config)
    _learn_vocabulary(model, data)
    motor = Engine(
        model,
        options,
        peak=config.learning_rate or model.encoder.learning_rate,
        decay=config.weight_decay,
        precision=config.precision,
        folder=run.folder if run else None,
    )
    try:
        yield from _steps(_Batches(motor, data, sampler, config), motor, config, run, watch)
    finally:
        motor.finish()


def _steps(
    batches: _Batches, motor: Engine, config: TrainConfig, run: Run | None, watch: Watch | None
) -> Iterator[dict]:
    model, accumulate = motor.model, motor.config.accumulate
    start, earlier = _begin(batches, motor, config, run)
    started = saved = time.perf_counter()
    made = batches.made(range(start * accumulate, config.steps * accumulate))
    for step in range(start, config.steps):
        loss = torch.zeros((), device=motor.device)
        with motor.randomness(_seed(config, step) + (1 << 50)):
            for _ in range(accumulate):
                loss += motor.backward(*next(made))
        share = _rate(step, config)
        value, taken = motor.update(loss, share)
        with torch.no_grad():
            model.log_logit_scale.clamp_(0, math.log(config.max_logit_scale))
        record = {
            "step": step + 1,
            "loss": value,
            "logit_scale": model.logit_scale.item(),
            "learning_rate": motor.peak * share,
            "seconds": earlier + time.perf_counter() - started,
            "skipped": motor.skipped,
        }
        if watch and motor.main and watch.due(step + 1, config.steps):
            with motor.averaged():
                record |= watch(model)
        motor.log(record, step + 1)
        if run and motor.main:
            run.record(record)
        if motor.in_a_row >= motor.config.patience:
            raise UserError(_diverged(motor, step + 1, run))
        if run and motor.main:
            due = time.perf_counter() - saved >= 60 * motor.config.save_minutes
            if (taken and due) or step + 1 == config.steps:
                run.checkpoint(model, step + 1, motor.state(), motor.weights())
                saved = time.perf_counter()
        yield record
    batches.tell_broken()  # those decoded on the way


def _begin(batches: _Batches, motor: Engine, config: TrainConfig, run: Run | None) -> tuple[int, float]:
    """Start the run, or set everything to where it stopped: the steps and the seconds that are done."""
    if not run:
        return 0, 0.0
    if motor.main:
        run.configure({"train": asdict(config), "engine": asdict(motor.config), **batches.about()})
    checkpoint = run.newest()
    if checkpoint:
        motor.restore(checkpoint)
    if not (run.resume and motor.main):
        return step_of(checkpoint) if checkpoint else 0, 0.0
    records = run.rewind()
    return step_of(checkpoint) if checkpoint else 0, records[-1]["seconds"] if records else 0.0


def _diverged(motor: Engine, step: int, run: Run | None) -> str:
    kept = f"; the last good checkpoint is {run.whole}" if run and run.whole else ""
    return (
        f"{motor.in_a_row} steps in a row, to step {step}, had a NaN or infinite loss or gradient and were "
        f"skipped{kept}; lower the learning rate, or train in float32"
    )


class _Batches:
    """What the steps of a training see: this rank's rows, prepared, and the loss of the whole batch."""

    def __init__(self, motor: Engine, data: RankedData, sampler: Sampler, config: TrainConfig):
        self.motor, self.data, self.sampler, self.config = motor, data, sampler, config
        model, workers = motor.model, motor.config.workers
        read = partial(Inputs, model.encoder, workers=workers, cache=motor.config.cache)
        self.queries, self.products = read(data.queries, model.left), read(data.corpus, model.right, side="right")
        self.told = 0
        self.tell_broken()
        late = self.queries.late or self.products.late or motor.device.type == "cuda"
        self.ahead = 2 if workers and late else 0
        self.known = KnownPairs(data) if config.mask and config.loss == "gcl" else None

    def tell_broken(self) -> None:
        """Warn of pictures that could not be read, if there are more than at the last call."""
        broken = [*self.queries.broken.values(), *self.products.broken.values()]
        if len(broken) > self.told:
            warnings.warn(f"{len(broken):,} pictures count as missing; {broken[0]}", stacklevel=2)
        self.told = len(broken)

    def about(self) -> dict[str, object]:
        """What the run was made of, for its config.json."""
        data = f"{self.data!r}, digest {self.data.digest}"
        return {"model": self.motor.model.encoder.spec["name"], "data": data, "ranks": ranks()}

    def made(self, indices: range) -> Iterator[tuple]:
        """Arguments for Engine.backward, batch by batch."""
        for batch, sides in ahead(self._prepared, indices, self.ahead):
            yield partial(self._loss, batch), *(self._chunks(side, *rows) for side, rows in sides.items())

    def _prepared(self, index: int) -> tuple[Batch, dict]:
        batch = self.sampler(index)
        generator = torch.Generator().manual_seed(_seed(self.config, index) + rank() * (1 << 40))
        return batch, {
            "left": self._rows(self.queries, batch.queries, generator),
            "right": self._rows(self.products, batch.products, generator),
        }

    def _rows(self, inputs: Inputs, rows: np.ndarray, generator: torch.Generator) -> tuple[dict, dict, dict]:
        values, present = inputs.rows(rows[own_share(len(rows))])
        noise = {}
        if self.config.augment:
            for name, value in values.items():
                if value.dim() == 4:
                    noise[name] = Noise.draw(len(value), value.shape[-1], generator)
                else:
                    values[name] = inputs.encoder.drop_words(value, generator)
        if self.motor.device.type == "cuda":
            values = {name: value.pin_memory() for name, value in values.items()}
        return values, present, noise

    def _chunks(self, side: str, values: dict, present: dict, noise: dict) -> list[Callable[[], Tensor]]:
        count = len(next(iter(present.values())))
        size = self.motor.config.chunk or count

        def embed(rows: slice) -> Tensor:
            inputs = {name: value[rows].to(self.motor.device, non_blocking=True) for name, value in values.items()}
            inputs |= {name: drawn.of(rows).added(inputs[name]) for name, drawn in noise.items()}
            return self.motor.model(inputs, {name: there[rows] for name, there in present.items()}, side)

        return [partial(embed, slice(start, start + size)) for start in range(0, count, size)]

    def _loss(self, batch: Batch, left: Tensor, right: Tensor) -> Tensor:
        """The loss, or with Matryoshka dimensions its mean over them; this rank's share of it."""
        loss = self._objective(batch)
        large = sized(self.config.loss, len(batch.queries), len(batch.products)) in TILED.values()
        if large and left.is_cuda and self.motor.dtype == torch.bfloat16:
            left, right = left.bfloat16(), right.bfloat16()  # what the kernels of losses/tiled_gpu.py multiply
        dimensions = self.motor.config.dimensions
        if not dimensions:
            return loss(left, right)
        values = [loss(normalize(left[:, :d], dim=-1), normalize(right[:, :d], dim=-1)) for d in dimensions]
        return torch.stack(values).mean()

    def _objective(self, batch: Batch) -> Callable[[Tensor, Tensor], Tensor]:
        scale, device = self.motor.model.logit_scale, self.motor.device
        loss = local_form(sized(self.config.loss, len(batch.queries), len(batch.products)))
        if self.config.loss != "gcl":
            weights = batch.weights if self.config.loss in TILED else batch.weights.to_dense()
            return partial(loss, weights=weights.to(device), logit_scale=scale)
        masked = self.known(batch.queries, batch.products).to(device) if self.known else None
        weights = batch.weights[own_share(len(batch.queries))].to(device)
        return partial(loss, weights=weights, logit_scale=scale, not_negative=masked)


def _seed(config: TrainConfig, step: int) -> int:
    return config.seed * 1_000_003 + step


def _sampler(data: RankedData, config: TrainConfig) -> Sampler:
    scores = data.pairs.score
    top = is_top(scores)
    weights = to_weights(scores, config.weighting) * (scores > 0)  # a score of 0 says "irrelevant", under any weighting
    if config.top_only:
        weights *= top
    if not (weights > 0).any():
        raise UserError(
            f"{data.name}: no pair has a weight > 0 under {config.weighting!r}; there is nothing to train on"
        )
    if config.loss == "gcl":
        kind = QuerySampler if config.sampler == "queries" else PairSampler
        return kind(data, weights, size=config.batch, seed=config.seed)
    hard = _found_by_words(data) if config.sampler == "hard" else None
    return MatrixSampler(data, weights, top, size=config.batch, queries=config.queries, seed=config.seed, hard=hard)


def _found_by_words(data: RankedData, depth: int = 50) -> list[np.ndarray]:
    """For each query the rows of the products that BM25 finds by all their texts, best first, at most `depth`."""
    queries, products = (
        texts(table, Fields(**dict.fromkeys(names, 1.0)))
        for table, names in ((data.queries, data.query_fields), (data.corpus, data.corpus_fields))
    )
    if not (queries and products):
        raise UserError(
            f"{data.name}: hard negatives are found by words, and a side has no texts; take another sampler"
        )
    return BM25(products).matching(queries, depth)


def _learn_vocabulary(model: GCLModel, data: RankedData) -> None:
    texts = []
    for table, fields in ((data.queries, model.left), (data.corpus, model.right)):
        for name in fields:
            if name in table.column_names and not is_image(table[name]):
                texts += [text for text in table[name].to_pylist() if text]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        model.encoder.learn_vocabulary(texts)


def _rate(step: int, config: TrainConfig) -> float:
    rising = max(1, round(config.warmup * config.steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, config.steps - rising)))
