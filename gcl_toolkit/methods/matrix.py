"""Methods of the score matrix (ours): the products of a step with every query that knows them, in one matrix."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.weighting import check_weighting
from gcl_toolkit.errors import UserError
from gcl_toolkit.losses.fast import Forms
from gcl_toolkit.losses.fast.tiled import tiled_graded_loss, tiled_matrix_loss
from gcl_toolkit.losses.graded import graded_loss
from gcl_toolkit.losses.matrix import Scale, matrix_loss
from gcl_toolkit.methods.method import inseparable
from gcl_toolkit.methods.samplers import Batch, MatrixSampler, training_weights

RECALL = 0.15
"""For grades: the order of 0, and half of the AP by which the control without scores is better (docs/LOG.md)."""


@dataclass(frozen=True)
class Matrix:
    """Every known pair of a step, weighted by its score, in a softmax over all products (queries) of the step."""

    weighting: str = "sharp"
    """Score -> weight, a name of `WEIGHTINGS`."""
    top_only: bool = False
    """Train on the pairs with the best scores only."""
    queries: int = 4096
    """At least this many queries a step, if the data has as many."""

    forms: ClassVar[Forms] = Forms(matrix_loss, tiled_matrix_loss)
    against: ClassVar[str] = "in a softmax over all products of the step"

    def __post_init__(self):
        check_weighting(self.weighting)
        if self.queries < 1:
            raise UserError(f"queries is {self.queries}; it must be an integer >= 1")

    @property
    def about(self) -> str:
        weights = "with weight 1" if self.weighting == "constant" else f"weighted by score ({self.weighting})"
        pair = "pair with one of the best scores" if self.top_only else "known pair"
        return f"score matrix: every {pair} of the step, {weights}, {self.against}"

    def sampler(self, data: RankedData, size: int, seed: int) -> MatrixSampler:
        weights = training_weights(data, self.weighting, self.top_only)
        return MatrixSampler(data, weights, size=size, queries=self.queries, seed=seed)

    def loss(self, left: Tensor, right: Tensor, batch: Batch, *, logit_scale: Scale, half: bool = False) -> Tensor:
        return self.forms(left, right, batch.weights, logit_scale=logit_scale, half=half, **self.settings(batch))

    def settings(self, batch: Batch) -> dict[str, float]:
        """Further arguments of the loss."""
        return {}

    def without(self, what: str) -> Self:
        """Without "scores": every known pair with weight 1."""
        if what != "scores" or self.weighting == "constant":
            raise inseparable(self, what, () if self.weighting == "constant" else ("scores",))
        return replace(self, weighting="constant")

    def only_top(self) -> Self:
        if self.top_only:
            raise UserError(f"{self!r} has the best scores only already")
        return replace(self, top_only=True)


@dataclass(frozen=True)
class Graded(Matrix):
    """The default: every known pair of a step, weighted by its score, against products with lower scores only."""

    weighting: str = "auto"
    recall: float | None = None
    """0 to 1: from the best order of the known pairs to finding them all. The share of the loss in which all known
    pairs of a query count alike. None: 0.15 for grades, whose weights are steep; 0 for positions."""

    forms: ClassVar[Forms] = Forms(graded_loss, tiled_graded_loss)

    def __post_init__(self):
        super().__post_init__()
        if self.recall is not None and not 0 <= self.recall <= 1:
            raise UserError(f"recall is {self.recall}; it must be a number from 0 to 1")

    def settings(self, batch: Batch) -> dict[str, float]:
        return {"recall": (RECALL if batch.grades else 0.0) if self.recall is None else self.recall}

    @property
    def against(self) -> str:  # type: ignore[override]
        lower = "products without a score for the query" if self.weighting == "constant" else "lower scores"
        return f"only against {lower}"
