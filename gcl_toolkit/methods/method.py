"""What a method is: the one thing that distinguishes a way of training from another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import UserError
from gcl_toolkit.losses.matrix import Scale
from gcl_toolkit.methods.samplers import Batch

Sampler = Callable[[int], Batch]
"""step -> batch."""


@runtime_checkable
class Method(Protocol):
    """A value, equal to another with the same settings. A frozen dataclass with these five members is a method."""

    @property
    def about(self) -> str:
        """One sentence that says what is trained."""

    def sampler(self, data: RankedData, size: int, seed: int) -> Sampler:
        """What step 0, 1, ... draws from `data`: `size` pairs or products."""

    def loss(self, left: Tensor, right: Tensor, batch: Batch, *, logit_scale: Scale, half: bool = False) -> Tensor:
        """This rank's share of the loss of the whole batch, a scalar.

        left, right: the embeddings of this rank's rows of `batch.queries` and `batch.products`, L2-normalised.
        half: whether a fast form may multiply in bfloat16.
        """

    def without(self, what: str) -> Method:
        """The control that lacks one thing, such as "scores"; a UserError where that can't be separated."""

    def only_top(self) -> Method:
        """The control that trains on the pairs with the best scores only."""


def inseparable(method: object, what: str, known: tuple[str, ...]) -> UserError:
    """The error of `without` for a thing that a method doesn't have or can't be separated from."""
    return UserError(f"{method!r} has no control without {what!r}; it can be without: {', '.join(known) or 'nothing'}")
