"""Training: a configuration and a generator that yields a record a step."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from gcl_toolkit.batches import Batch, Inputs, KnownPairs, MatrixSampler, PairSampler, augment_images
from gcl_toolkit.doctor import fast_bfloat16
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.losses import LOSSES, sized
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData, is_image
from gcl_toolkit.runs import Run
from gcl_toolkit.weighting import is_top, to_weights


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the score-matrix GCL that DESIGN.md calls the strongest."""

    loss: str = "matrix"
    """"matrix": every known pair of the step pulls; "gcl": one pair a row, the published form."""
    weighting: str = "sharp"
    """Score -> weight, a name of `weighting.WEIGHTINGS`; "constant" is binary contrastive training."""
    top_only: bool = False
    """Train on the pairs with the best grades only."""
    mask: bool = True
    """"gcl" only: other rows of the same query or product, and other known pairs, are no negatives."""
    steps: int = 400
    batch: int = 192
    """Pairs ("gcl") or products ("matrix") a step."""
    queries: int = 4096
    """"matrix": at least this many queries a step, if there are as many."""
    learning_rate: float | None = None
    """None: the encoder's own (4e-3 for the small one, 1e-5 for pretrained ones)."""
    weight_decay: float = 0.05
    warmup: float = 0.1
    """Share of the steps with a rising learning rate; a cosine falls to zero after it."""
    augment: bool = True
    """Flip, shift and brightness of pictures; dropped words."""
    max_logit_scale: float = 100.0
    precision: str = "auto"
    """"float32", "bfloat16", or "auto": bfloat16 where the processor multiplies in it."""
    seed: int = 0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise unknown("precision", self.precision, ("auto", "float32", "bfloat16"))
        for name in ("steps", "batch", "queries"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; at least 1 is expected")


def train(
    model: GCLModel, data: RankedData, config: TrainConfig | None = None, *, run: Run | None = None
) -> Iterator[dict]:
    """Train `model` in place on the pairs of `data`; yields {step, loss, logit_scale, learning_rate, seconds}.

    Stop early by leaving the loop. With a `run` the records and, at the end, a checkpoint are written to its folder.
    """
    config = config or TrainConfig()
    sampler = _sampler(data, config)
    _learn_vocabulary(model, data)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    queries = Inputs(model.encoder, data.queries, model.left)
    products = Inputs(model.encoder, data.corpus, model.right)
    for broken in (queries.broken, products.broken):
        if broken:
            first = next(iter(broken.values()))
            warnings.warn(f"{len(broken):,} pictures count as missing; {first}", stacklevel=2)
    known = KnownPairs(data) if config.mask and config.loss == "gcl" else None
    if run:
        run.configure({"train": asdict(config), "model": model.encoder.spec["name"], "data": repr(data)})
    peak = config.learning_rate or model.encoder.learning_rate
    optimizer = torch.optim.AdamW(_decay_groups(model, config.weight_decay), lr=peak)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    model.train()
    started = time.perf_counter()
    for step in range(config.steps):
        batch = sampler(step)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=_use_bfloat16(config, model.device)):
            left = model(*_augmented(model, queries, batch.queries, config, generator), "left")
            right = model(*_augmented(model, products, batch.products, config, generator), "right")
        loss = _loss(left, right, batch, model.logit_scale, config, known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        with torch.no_grad():
            model.log_logit_scale.clamp_(0, math.log(config.max_logit_scale))
        record = {
            "step": step + 1,
            "loss": loss.item(),
            "logit_scale": model.logit_scale.item(),
            "learning_rate": rate,
            "seconds": time.perf_counter() - started,
        }
        if run:
            run.record(record)
            if step + 1 == config.steps:
                run.checkpoint(model, step + 1)
        yield record


def _sampler(data: RankedData, config: TrainConfig) -> PairSampler | MatrixSampler:
    scores = data.pairs.score
    top = is_top(scores)
    weights = to_weights(scores, config.weighting) * (top if config.top_only else 1)
    if not (weights > 0).any():
        raise UserError(
            f"{data.name}: no pair has a weight > 0 under {config.weighting!r}; there is nothing to train on"
        )
    if config.loss == "gcl":
        return PairSampler(data, weights, size=config.batch, seed=config.seed)
    return MatrixSampler(data, weights, top, size=config.batch, queries=config.queries, seed=config.seed)


def _loss(left: Tensor, right: Tensor, batch: Batch, scale: Tensor, config: TrainConfig, known) -> Tensor:
    device, loss = left.device, sized(config.loss, len(left), len(right))
    if left.is_cuda and loss is not LOSSES[config.loss] and _use_bfloat16(config, device):
        left, right = left.bfloat16(), right.bfloat16()  # what the kernels of losses/tiled_gpu.py multiply
    if config.loss == "matrix":
        weights, by_query, by_product = (t.to(device) for t in (batch.weights, *batch.totals))
        return loss(left, right, weights, logit_scale=scale, query_totals=by_query, document_totals=by_product)
    masked = None if known is None else known(batch.queries, batch.products).to(device)
    return loss(left, right, batch.weights.to(device), logit_scale=scale, not_negative=masked)


def _augmented(model: GCLModel, inputs: Inputs, rows: np.ndarray, config: TrainConfig, generator: torch.Generator):
    values, present = inputs.rows(rows)
    if config.augment:
        for name, value in values.items():
            image = value.dim() == 4
            values[name] = augment_images(value, generator) if image else model.encoder.drop_words(value, generator)
    return values, present


def _learn_vocabulary(model: GCLModel, data: RankedData) -> None:
    texts = []
    for table, fields in ((data.queries, model.left), (data.corpus, model.right)):
        for name in fields:
            if name in table.column_names and not is_image(table[name]):
                texts += [text for text in table[name].to_pylist() if text]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        model.encoder.learn_vocabulary(texts)


def _decay_groups(model: GCLModel, decay: float) -> list[dict]:
    """Weight decay for matrices only: gains, biases and the logit scale have none."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _rate(step: int, config: TrainConfig) -> float:
    rising = max(1, round(config.warmup * config.steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, config.steps - rising)))


def _use_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    if config.precision != "auto":
        return config.precision == "bfloat16"
    return device.type == "cuda" or fast_bfloat16()
