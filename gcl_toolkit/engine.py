"""The engine of a training: devices and ranks, precision, gradients, guards, averaged weights, what a checkpoint needs.

One process needs torch only. `torchrun` and `accelerate launch` start many, each with a share of every batch; so do
trackers: these two go through accelerate.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from gcl_toolkit import adapt
from gcl_toolkit.checkpoints import STATE, load_state
from gcl_toolkit.doctor import fast_bfloat16
from gcl_toolkit.errors import UserError
from gcl_toolkit.losses.distributed import cached_backward, rank, ranks, sum_gradients
from gcl_toolkit.model import GCLModel

TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class EngineConfig:
    """How training runs on the machine, and what of the model it moves; by default everything, as plainly as can be."""

    workers: int = 4
    """Threads that decode pictures, and prepare coming steps where pictures are decoded anew or a GPU waits."""
    cache: Path | None = None
    """Folder in which decoded pictures are kept for later epochs, where they don't fit into memory."""
    chunk: int | None = None
    """Embed so many rows at a time (gradient caching): the batch may be larger than memory."""
    accumulate: int = 1
    """Batches whose gradients are averaged in a step."""
    recompute: bool = False
    """Gradient checkpointing: less memory, a third more time."""
    lock: Literal["", "image", "text"] = ""
    """A tower to leave as it is."""
    lora: int = 0
    """Rank of low-rank adapters (peft), which alone are trained then; 0: none."""
    layer_decay: float = 1.0
    """Learning rate of a layer as a share of that of the layer above it."""
    ema: float = 0.0
    """Decay of averaged weights, which become the model at the end, such as 0.999; 0: none."""
    dimensions: tuple[int, ...] = ()
    """Matryoshka: the loss is the mean over the first so many dimensions of the embeddings."""
    learn_fields: bool = False
    """The fields' weights are learnt, from those given."""
    save_minutes: float = 5.0
    """A checkpoint so often, and at the end."""
    patience: int = 10
    """So many steps in a row with a NaN or infinite loss or gradient are skipped; then training stops."""
    log: tuple[str, ...] = ()
    """Trackers beside the plain file: tensorboard, wandb."""

    def __post_init__(self):
        for name in ("accumulate", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; at least 1 is expected")
        for name in ("workers", "lora", "save_minutes"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; at least 0 is expected")
        if self.chunk is not None and self.chunk < 1:
            raise UserError(f"chunk is {self.chunk}; at least 1 is expected")
        if not 0 < self.layer_decay <= 1 or not 0 <= self.ema < 1:
            raise UserError(f"layer_decay {self.layer_decay:g} is expected in (0, 1], ema {self.ema:g} in [0, 1)")
        if self.lock not in ("", "image", "text") or not set(self.log) <= set(TRACKERS):
            raise UserError(f"lock {self.lock!r}: image or text is expected; log {self.log}: {' or '.join(TRACKERS)}")


class Engine:
    """Carries the gradients of losses to the model's parameters, step by step."""

    def __init__(
        self, model: GCLModel, config: EngineConfig, *, peak: float, decay: float, precision: str, folder: Path | None
    ):
        self.model, self.config, self.peak = model, config, peak
        self.accelerator = _accelerator(config, folder)
        self.device = self.accelerator.device if self.accelerator else _device()
        self._adapt()
        model.to(self.device)
        model.train()
        adapt.keep_locked_still(model)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(adapt.groups(model, decay, peak, config.layer_decay), lr=peak)
        self.average = adapt.Average(self.trained.items(), config.ema) if config.ema else None
        self.dtype = _dtype(precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.dtype == torch.float16 else None
        self.skipped, self.in_a_row = 0, 0

    def _adapt(self) -> None:
        config = self.config
        if config.lock:
            adapt.lock(self.model.encoder, config.lock)
        if config.recompute:
            self.model.encoder.checkpoint_gradients()
        if config.lora:
            adapt.add_lora(self.model, config.lora)
        if config.learn_fields:
            self.model.learn_fields()
        if max(config.dimensions, default=0) > self.model.dimension or min(config.dimensions, default=1) < 1:
            raise UserError(f"dimensions {config.dimensions}: numbers from 1 to {self.model.dimension} are expected")

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return rank() == 0

    @property
    def plain(self) -> bool:
        """Whether the weights that are trained are the ones to save."""
        return not (self.config.ema or self.config.lora or self.config.learn_fields)

    # -- a step --------------------------------------------------------------------------------------------------------

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    @contextmanager
    def randomness(self, seed: int):
        """Inside, torch's own random numbers (dropout) are a function of `seed` and the rank."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed + rank() * (1 << 40))
            yield

    def backward(self, loss: Callable[..., Tensor], *sides: Sequence[Callable[[], Tensor]]) -> Tensor:
        """Value and gradients of loss(left, right); `sides` are functions that embed the chunks of each."""
        scale = (self.scaler.scale(torch.ones((), device=self.device)) if self.scaler else 1.0) / self.config.accumulate
        if self.config.chunk is not None:
            sides = tuple([self.autocast()(chunk) for chunk in chunks] for chunks in sides)
            return cached_backward(loss, *sides, scale=scale) / self.config.accumulate
        with self.autocast():  # once around both sides, which may share a tower
            embedded = [torch.cat([chunk() for chunk in chunks]) for chunks in sides]
        value = loss(*embedded)
        (scale * value).backward()
        return value.detach() / self.config.accumulate

    def update(self, loss: Tensor, share_of_peak: float) -> tuple[float, bool]:
        """Move the parameters by the gradients; the loss of all ranks, and whether the step was taken.

        A step with a NaN or an infinity in loss or gradient is skipped; too many in a row are a UserError.
        """
        sum_gradients(self.trained.values())
        if ranks() > 1:
            dist.all_reduce(loss)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share_of_peak
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        value, norm = torch.stack([loss.float(), torch.nn.utils.get_total_norm(gradients).float()]).tolist()
        taken = math.isfinite(value) and math.isfinite(norm)
        if taken:
            (self.scaler.step if self.scaler else _step)(self.optimizer)
            if self.average:
                self.average.update()
        if self.scaler:
            self.scaler.update()
        self.optimizer.zero_grad()
        self.skipped, self.in_a_row = self.skipped + (not taken), 0 if taken else self.in_a_row + 1
        return value, taken

    def averaged(self) -> AbstractContextManager:
        """Inside, the model has its averaged weights, if there are any."""
        return self.average.in_place() if self.average else nullcontext()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor] | None:
        """The weights to save: averaged, merged; None: the model's own."""
        if self.plain:
            return None
        with self.averaged():
            return {name: value.clone() for name, value in adapt.merged(self.model).items()}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the saved weights."""
        names = {id(p): name for name, p in self.trained.items()}
        state = {"skipped": torch.tensor([self.skipped, self.in_a_row])}
        for parameter, moments in self.optimizer.state.items():
            state |= {f"optimizer.{key}.{names[id(parameter)]}": value for key, value in moments.items()}
        if not self.plain:
            frozen = {name for name, _ in self.model.named_parameters()} - self.trained.keys()
            state |= {f"raw.{name}": v for name, v in self.model.state_dict().items() if name not in frozen}
        if self.average:
            state |= {f"ema.{name}": value for name, value in self.average.values.items()}
            state["updates"] = torch.tensor(self.average.updates)
        if self.scaler:
            known = self.scaler.state_dict()
            state["scaler"] = torch.tensor([known["scale"], known["_growth_tracker"]], dtype=torch.float64)
        return state

    def restore(self, checkpoint: Path) -> None:
        """Set model and optimizer to what they were at a checkpoint."""
        if not (checkpoint / STATE).is_file():
            raise UserError(f"{checkpoint} was written without {STATE}; training can't go on from it")
        state = load_state(checkpoint)
        raw = {name.removeprefix("raw."): value for name, value in state.items() if name.startswith("raw.")}
        self.model.load_state_dict(raw or load_file(checkpoint / "model.safetensors"), strict=not raw)
        for name, value in state.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                key, _, parameter = rest.partition(".")
                self._set_moment(self.trained[parameter], key, value)
            elif kind == "ema" and self.average:
                self.average.values[rest].copy_(value)
            elif kind == "updates" and self.average:
                self.average.updates = int(value)
        self.skipped, self.in_a_row = state["skipped"].tolist()
        if self.scaler:
            scale, growth = state["scaler"].tolist()
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth)})

    def _set_moment(self, parameter: Tensor, key: str, value: Tensor) -> None:
        like = parameter if value.shape == parameter.shape and key != "step" else value
        self.optimizer.state[parameter][key] = torch.empty_like(like, dtype=value.dtype).copy_(value)

    # -- the end -------------------------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any], step: int) -> None:
        if self.accelerator and self.config.log:
            self.accelerator.log(dict(values), step)

    def finish(self) -> None:
        """Make the averaged, merged weights the model's."""
        if self.average:
            self.average.swap()
        if not self.plain or self.config.lock:
            adapt.settle(self.model)
        if self.accelerator and self.config.log:
            for tracker in self.accelerator.trackers:
                tracker.finish()


def _step(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What autocast multiplies in; None: float32 throughout."""
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" or fast_bfloat16() else "float32"
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def _accelerator(config: EngineConfig, folder: Path | None) -> Any:
    """accelerate's Accelerator where there are many processes or trackers, which it sets up; else None."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 and not config.log:
        return None
    try:
        from accelerate import Accelerator
    except ImportError:
        raise UserError("accelerate is not installed; run: pip install 'gcl-toolkit[train]'") from None
    try:
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(), log_with=list(config.log) or None, project_dir=folder or "."
        )
        accelerator.init_trackers("gcl")
    except (ValueError, ImportError) as error:  # a tracker that isn't installed
        raise UserError(f"log {', '.join(config.log)}: {error}") from None
    return accelerator
