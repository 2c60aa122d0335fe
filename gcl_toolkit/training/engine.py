"""The engine of a training: devices and ranks, precision, gradients, guards, averaged weights, checkpoint state.

One process needs torch only. `torchrun`, `accelerate launch` and MPI start many, each with a share of every batch;
these, and trackers, go through accelerate.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import unwrap
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from gcl_toolkit.errors import UserError
from gcl_toolkit.losses.fast.ranks import cached_backward, rank, ranks, sum_gradients
from gcl_toolkit.machine import fast_bfloat16
from gcl_toolkit.models import adapt
from gcl_toolkit.models.blocks import speed_up
from gcl_toolkit.models.embed import default_device
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.training.checkpoints import STATE, load_state
from gcl_toolkit.training.config import MachineConfig, TrainConfig

FUSED = ("cuda",)
"""Devices on which the optimizer itself skips steps with a NaN, so that no launch waits for the loss."""


class AdamW(torch.optim.AdamW):
    """torch's, without the wrappers of three methods that import torch._dynamo (seconds, 900 modules)."""

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class Engine:
    """Carries the gradients of losses to the model's parameters, step by step."""

    def __init__(self, model: GCLModel, config: TrainConfig, machine: MachineConfig, folder: Path | None = None):
        self.model, self.config, self.machine = model, config, machine
        self.peak, tuning = config.learning_rate or model.encoder.learning_rate, config.tuning
        self.accelerator = _accelerator(machine, folder)
        self.device = self.accelerator.device if self.accelerator else default_device()
        self._adapt()
        model.to(self.device)
        model.train()
        adapt.keep_locked_still(model)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = adapt.groups(model, config.weight_decay, self.peak, tuning.layer_decay)
        self.dtype = _dtype(machine.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.dtype == torch.float16 else None
        self.on_device = self.device.type in FUSED and not self.scaler
        self.optimizer = AdamW(groups, lr=self.peak, fused=self.on_device or None)
        if self.on_device and self.dtype:
            speed_up(model.encoder)
        self.average = adapt.Average(self.trained.items(), tuning.ema) if tuning.ema else None
        self.skipped, self.in_a_row = 0, 0

    def _adapt(self) -> None:
        tuning = self.config.tuning
        if tuning.lock:
            adapt.lock(self.model.encoder, tuning.lock, tuning.unlock)
        if self.machine.recompute:
            self.model.encoder.checkpoint_gradients()
        if tuning.lora:
            adapt.add_lora(self.model, tuning.lora)
        if tuning.learn_fields:
            self.model.learn_fields()
        if max(tuning.dimensions, default=0) > self.model.dimension or min(tuning.dimensions, default=1) < 1:
            raise UserError(f"dimensions {tuning.dimensions}: each must be an integer from 1 to {self.model.dimension}")

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return rank() == 0

    @property
    def plain(self) -> bool:
        """Whether the weights that are trained are the ones to save."""
        tuning = self.config.tuning
        return not (tuning.ema or tuning.lora or tuning.learn_fields)

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
        if self.machine.chunk is not None:
            sides = tuple([self.autocast()(chunk) for chunk in chunks] for chunks in sides)
            return cached_backward(loss, *sides, scale=scale) / self.config.accumulate
        with self.autocast():  # once around both sides, which may share a tower
            embedded = [torch.cat([chunk() for chunk in chunks]) for chunks in sides]
        value = loss(*embedded)
        (scale * value).backward()
        return value.detach() / self.config.accumulate

    def set_rate(self, share_of_peak: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share_of_peak

    def move(self, loss: Tensor) -> Tensor:
        """Move the parameters by the gradients, unless there is a NaN or an infinity in loss or gradient; returns the
        loss of all ranks and the norm of the gradient."""
        sum_gradients(self.trained.values())
        if ranks() > 1:
            dist.all_reduce(loss)
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        values = torch.stack([loss.float(), torch.nn.utils.get_total_norm(gradients).float()])
        if self.on_device:
            self.optimizer.found_inf = (~values.isfinite().all()).float()  # type: ignore[attr-defined]
        if self.on_device or values.isfinite().all():
            if self.scaler:
                self.scaler.step(self.optimizer)
            else:
                self.optimizer.step()
        if self.scaler:
            self.scaler.update()
        self.optimizer.zero_grad()
        return values

    def settle(self, values: Tensor) -> tuple[float, bool]:
        """What follows from the values of `move`: the loss, and whether the step was taken."""
        value, norm = values.tolist()
        taken = math.isfinite(value) and math.isfinite(norm)
        if taken and self.average:
            self.average.update()
        with torch.no_grad():
            self.model.log_logit_scale.clamp_(0, math.log(self.config.max_logit_scale))
        self.skipped, self.in_a_row = self.skipped + (not taken), 0 if taken else self.in_a_row + 1
        return value, taken

    @contextmanager
    def averaged(self):
        """Inside, the model has its averaged weights, if there are any."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        if self.average:
            self.average.swap()

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
            if self.config.tuning.lora:
                frozen = set()  # the saved weights have the adapters merged in
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
        device = parameter.device if self.on_device else like.device
        self.optimizer.state[parameter][key] = torch.empty_like(like, dtype=value.dtype, device=device).copy_(value)

    # -- the end -------------------------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any], step: int) -> None:
        if self.accelerator and self.machine.log:
            self.accelerator.log(dict(values), step)

    def finish(self) -> None:
        """Make the averaged, merged weights the model's."""
        self._swap()
        if not self.plain or self.config.tuning.lock:
            adapt.settle(self.model)
        if self.accelerator and self.machine.log:
            for tracker in self.accelerator.trackers:
                tracker.finish()


def _dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What autocast multiplies in; None: float32 throughout."""
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16() else "float32"
        if device.type == "cuda":  # an older card only imitates bfloat16
            precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def _accelerator(machine: MachineConfig, folder: Path | None) -> Any:
    """accelerate's Accelerator where there are many processes or trackers, which it sets up; else None."""
    if not _is_distributed() and not machine.log:
        return None
    for tracker in machine.log:  # accelerate would leave it out with no more than a warning
        if find_spec(tracker) is None:
            raise UserError(f"--log {tracker}: the package {tracker} is not installed; run: pip install {tracker}")
    try:
        from accelerate import Accelerator
    except ImportError:
        raise UserError("accelerate is not installed; run: pip install 'gcl-toolkit[train]'") from None
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), log_with=list(machine.log) or None, project_dir=folder or "."
    )
    accelerator.init_trackers("gcl")
    return accelerator


def _is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # those that accelerate reads
    size = next((int(os.environ[name]) for name in sizes if name in os.environ), None)
    if size is None and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys():
        raise UserError(
            "accelerate launch was asked for several processes but has started one, as it does on CPUs without MPI; "
            "use torchrun --nproc-per-node N -m gcl_toolkit.cli train ..."
        )
    return (size or 1) > 1
