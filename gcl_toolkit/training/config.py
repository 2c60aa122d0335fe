"""The settings of a training: what decides its result (`TrainConfig`, `Tuning`) and how the machine does it."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gcl_toolkit.errors import UserError, unknown

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class Tuning:
    """Which parts of the model are trained, and how; by default all of them."""

    lock: Literal["", "image", "text", "both"] = ""
    """A tower that is not trained, or both."""
    unlock: int = 0
    """Last layers of a locked tower that are trained all the same."""
    lora: int = 0
    """Rank of low-rank adapters (peft); with them, only the adapters and the logit scale are trained. 0: none."""
    layer_decay: float = 1.0
    """Learning rate of a layer as a share of that of the layer above it."""
    learn_fields: bool = False
    """Learn the weights of the fields, starting from those given."""
    ema: float = 0.0
    """Decay of averaged weights, which become the model's at the end, such as 0.999. 0: none."""
    dimensions: tuple[int, ...] = ()
    """Matryoshka: the loss is the mean over these leading dimensions of the embeddings."""

    def check(self):
        """Called by `TrainConfig`: tyro wraps the errors of a dataclass within another into its own."""
        if self.lock not in ("", "image", "text", "both"):
            raise unknown("tower to lock", self.lock, ("image", "text", "both"))
        can_unlock = self.unlock == 0 or (self.unlock > 0 and self.lock != "")
        _check(self, {"unlock": (can_unlock, "an integer >= 0, and 0 without lock")})
        _check(self, {"lora": (self.lora >= 0, "an integer >= 0")})
        _check(self, {"layer_decay": (0 < self.layer_decay <= 1, "in (0, 1]"), "ema": (0 <= self.ema < 1, "in [0, 1)")})


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train. The method chooses the loss."""

    steps: int = 400
    """Optimizer steps."""
    batch: int = 192
    """Pairs or products a step, as the method draws them."""
    learning_rate: float | None = None
    """None: the encoder's own (4e-3 for the small one, 1e-5 for pretrained ones)."""
    weight_decay: float = 0.05
    """Of AdamW."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises; after it a cosine falls to zero."""
    accumulate: int = 1
    """Batches whose gradients are averaged in a step."""
    augment: bool = True
    """Flip pictures, shift them and change their brightness; drop words."""
    max_logit_scale: float = 100.0
    """Upper limit of the learnt logit scale, which is 1 / temperature."""
    seed: int = 0
    """Of the initial weights and the order of the batches."""
    tuning: Tuning = field(default_factory=Tuning)

    def __post_init__(self):
        self.tuning.check()
        number = "a number >= 0"
        least = {"steps": 1, "batch": 2, "accumulate": 1}  # a single row has no negatives
        _check(self, {name: (getattr(self, name) >= low, f"an integer >= {low}") for name, low in least.items()})
        rate = self.learning_rate
        _check(
            self,
            {
                "learning_rate": (rate is None or 0 < rate < math.inf, "a number > 0"),
                "weight_decay": (0 <= self.weight_decay < math.inf, number),
                "warmup": (0 <= self.warmup <= 1, "a share from 0 to 1"),
                "max_logit_scale": (1 <= self.max_logit_scale < math.inf, "a number >= 1"),
            },
        )

    def learning_rate_share(self, step: int) -> float:
        """The learning rate of a step (from 0) as a share of its peak."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))


@dataclass(frozen=True)
class MachineConfig:
    """How training runs on the machine. Only `precision` changes the result by more than rounding."""

    precision: str = "auto"
    """"float32", "bfloat16", "float16", or "auto": bfloat16 where the processor multiplies in it."""
    workers: int = 4
    """Threads that decode pictures, and prepare the next steps where pictures are decoded anew or a GPU waits."""
    cache: Path | None = None
    """Folder for decoded pictures that don't fit into memory, read again in later epochs."""
    chunk: int | None = None
    """Rows embedded at a time (gradient caching): the batch may be larger than memory."""
    recompute: bool = False
    """Gradient checkpointing: less memory, a third more time."""
    save_minutes: float = 5.0
    """Minutes between checkpoints; the last step always has one."""
    patience: int = 10
    """Training stops after this many consecutive steps with a NaN or infinite loss or gradient, which are skipped."""
    log: tuple[str, ...] = ()
    """Trackers beside the plain file: tensorboard, wandb."""

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        for name in sorted({*self.log} - {*TRACKERS}):
            raise unknown("tracker", name, TRACKERS)
        _check(self, {name: (getattr(self, name) >= 0, "a number >= 0") for name in ("workers", "save_minutes")})
        _check(self, {"patience": (self.patience >= 1, "an integer >= 1")})
        _check(self, {"chunk": (self.chunk is None or self.chunk >= 1, "an integer >= 1")})


def _check(settings: object, rules: dict[str, tuple[bool, str]]) -> None:
    """Raise for the first setting whose rule doesn't hold; rules: name -> (whether it holds, what is expected)."""
    for name, (holds, expected) in rules.items():
        if not holds:
            raise UserError(f"{name} is {getattr(settings, name)}; it must be {expected}")
