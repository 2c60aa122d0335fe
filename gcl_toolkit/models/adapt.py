"""Which parameters are trained and how: locked towers, LoRA, learning rates by layer, averaged weights."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gcl_toolkit.errors import UserError
from gcl_toolkit.models.encoders import Encoder
from gcl_toolkit.models.model import GCLModel

_FIRST = re.compile(r"embed|conv1|stem|trunk\.bn1|ln_pre|pre_layrnorm")
"""Parameters without a layer number below the first layer; all others (heads, last norms) are above the last."""
_LORA = "default"


def lock(encoder: Encoder, towers: str, unlocked: int = 0) -> None:
    """Freeze a tower, "image" or "text", or "both"; but not its last `unlocked` layers and what is above them, nor the
    encoder's `new_parts`."""
    above = {name: count for name, (tower, count) in _layers(encoder).items() if towers in (tower, "both")}
    if not above:
        raise UserError(f"{encoder.spec['name']} has no {towers} tower to lock")
    for name, parameter in encoder.named_parameters():
        is_locked = name in above and (not unlocked or above[name] > unlocked)
        if is_locked and not name.startswith(encoder.new_parts):
            parameter.requires_grad_(False)


def keep_locked_still(model: nn.Module) -> None:
    """Put modules without trained parameters in evaluation mode, so that their running statistics don't change."""
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def add_lora(model: GCLModel, rank: int) -> None:
    """Add low-rank adapters to the encoder's linear layers; everything else but the logit scale is frozen.

    In open_clip's own ViTs only the MLPs get adapters: their attention projections are one packed matrix.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("peft is not installed; run: pip install 'gcl-toolkit[train]'") from None
    layers = [n for n, m in model.encoder.named_modules() if type(m) is nn.Linear and m.weight.requires_grad]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers), model.encoder, _LORA)


def merged(model: GCLModel) -> dict[str, Tensor]:
    """The state dict without adapters (added to their layers) and without learnt field weights."""
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("log_field_weights.")}
    for name, layer in _adapted(model):
        weight = state.pop(f"{name}.base_layer.weight")
        state[f"{name}.weight"] = weight + layer.get_delta_weight(_LORA).to(weight.dtype)
        if f"{name}.base_layer.bias" in state:
            state[f"{name}.bias"] = state.pop(f"{name}.base_layer.bias")
    return {name: value for name, value in state.items() if ".lora_" not in name}


def settle(model: GCLModel) -> None:
    """Add the adapters to their layers, remove them, and turn learnt field weights into numbers."""
    for name, layer in list(_adapted(model)):
        layer.merge()
        model.set_submodule(name, layer.base_layer)
    model.requires_grad_(True)
    if model.log_field_weights is not None:
        model.settle_fields()


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "lora_A"):
            yield name, module


def groups(model: GCLModel, decay: float, peak: float, layer_decay: float) -> list[dict]:
    """Parameter groups for the optimizer: by weight decay (matrices only) and by peak learning rate, which is `peak`
    times layer_decay for each layer below the head."""
    above = {f"encoder.{name}": count for name, (_, count) in _layers(model.encoder).items()}
    new = ("log_field_weights.", *(f"encoder.{prefix}" for prefix in model.encoder.new_parts))
    grouped: dict[tuple, list[Tensor]] = {(True, peak): [], (False, peak): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = max(peak, 1e-3) if name.startswith(new) else peak * layer_decay ** above.get(name, 0)
            grouped.setdefault((parameter.dim() >= 2, rate), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay if matrices else 0.0, "peak": rate}
        for (matrices, rate), parameters in grouped.items()
    ]


def _layers(encoder: Encoder) -> dict[str, tuple[str, int]]:
    """Parameter -> its tower and the number of layers above it in that tower."""
    layers: dict[str, tuple[str, int | None]] = {}
    for name, _ in encoder.named_parameters():
        numbered = re.search(r"\.(\d+)\.", name)
        tower = "image" if name.startswith(encoder.image_parts) else "text"
        layers[name] = (tower, int(numbered[1]) if numbered else -1 if _FIRST.search(name) else None)
    last = {
        tower: max((n for t, n in layers.values() if t == tower and n is not None), default=-1)
        for tower, _ in layers.values()
    }
    return {name: (tower, 0 if n is None else last[tower] + 1 - n) for name, (tower, n) in layers.items()}


class Average:
    """Exponential moving average of the trained parameters. At step t it keeps at most (1 + t) / (10 + t) of the old
    value (TensorFlow's `num_updates`), so that the initial weights don't dominate a short run."""

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], decay: float):
        self.parameters, self.decay = dict(parameters), decay
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self.parameters.items():
            self.values[name].lerp_(parameter, 1 - kept)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights for the averaged ones, or back."""
        for name, parameter in self.parameters.items():
            current = parameter.clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(current)
