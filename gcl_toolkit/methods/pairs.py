"""Methods of one known pair a row: the paper's loss, and with equal weights CLIP's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.weighting import check_weighting
from gcl_toolkit.errors import UserError
from gcl_toolkit.losses.fast import Forms
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss
from gcl_toolkit.losses.gcl import gcl_loss
from gcl_toolkit.losses.matrix import Scale
from gcl_toolkit.methods.method import inseparable
from gcl_toolkit.methods.samplers import Batch, PairSampler, training_weights

FORMS = Forms(gcl_loss, tiled_gcl_loss)


@dataclass(frozen=True)
class GCL:
    """The paper's loss with our weights: N known pairs a step, each weighted by its score."""

    weighting: str = "linear"
    """Score -> weight, a name of `WEIGHTINGS`; "constant" is the loss of CLIP."""
    exclude_known: bool = False
    """Whether other known pairs, and rows with the same query or product, are excluded from the negatives."""
    top_only: bool = False
    """Train on the pairs with the best scores only."""

    def __post_init__(self):
        check_weighting(self.weighting)

    @property
    def about(self) -> str:
        weights = "with weight 1" if self.weighting == "constant" else f"weighted by score ({self.weighting})"
        pair = "pair with one of the best scores" if self.top_only else "known pair"
        others = "excluded from the negatives" if self.exclude_known else "among the negatives"
        return f"one {pair} a row, {weights}; other known pairs are {others}"

    def sampler(self, data: RankedData, size: int, seed: int) -> PairSampler:
        weights = training_weights(data, self.weighting, self.top_only)
        return PairSampler(data, weights, size=size, seed=seed, exclude_known=self.exclude_known)

    def loss(self, left: Tensor, right: Tensor, batch: Batch, *, logit_scale: Scale, half: bool = False) -> Tensor:
        return FORMS(left, right, batch.weights, logit_scale=logit_scale, excluded=batch.excluded, half=half)

    def without(self, what: str) -> GCL:
        """Without "scores" (all weights 1) or "false negatives" (known pairs excluded from the negatives)."""
        controls = {}
        if self.weighting != "constant":
            controls["scores"] = replace(self, weighting="constant")
        if not self.exclude_known:
            controls["false negatives"] = replace(self, exclude_known=True)
        if what not in controls:
            raise inseparable(self, what, tuple(controls))
        return controls[what]

    def only_top(self) -> GCL:
        if self.top_only:
            raise UserError(f"{self!r} has the best scores only already")
        return replace(self, top_only=True)
