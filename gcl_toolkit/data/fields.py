"""A side's fields and their weights, and how a row's field embeddings become one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from gcl_toolkit.errors import DataError, UserError

if TYPE_CHECKING:
    from torch import Tensor


class Fields(Mapping[str, float]):
    """The fields of a side with their weights (> 0): `Fields(image=0.9, title=0.1)`. Immutable, prints as typed."""

    def __init__(self, /, **weights: float):
        self._weights = weights
        if not weights or any(not 0 < weight < math.inf for weight in weights.values()):
            raise UserError(f"{self}: at least one field with a weight > 0, and finite, is expected")

    def __getitem__(self, name: str) -> float:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __hash__(self) -> int:
        return hash(tuple(self._weights.items()))

    def __repr__(self) -> str:
        return f"Fields({', '.join(f'{name}={weight:g}' for name, weight in self.items())})"

    @classmethod
    def parse(cls, text: str) -> Fields:
        """From the command line's form, `image=0.9,title=0.1`."""
        try:
            pairs = [(name.strip(), float(weight)) for name, weight in (part.split("=") for part in text.split(","))]
        except ValueError:
            raise UserError(f"fields {text!r}: name=weight pairs such as image=0.9,title=0.1 are expected") from None
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"fields {text!r}: {name!r} appears twice; give each name once")
        return cls(**dict(pairs))


def is_missing(value: object) -> bool:
    """None, NaN, "" and white space mean missing; so does an image with neither bytes nor path."""
    if isinstance(value, Mapping):
        return not value.get("bytes") and is_missing(value.get("path"))
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def fuse(embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """An L2-normalised embedding for each row (N x D): the weighted sum of the normalised embeddings of its fields.

    embeddings: field -> N x D; present: field -> N bools. The weights of missing fields are dropped; the last
    normalisation makes renormalising the others unnecessary. A row without any field is an error.
    """
    import torch
    from torch.nn.functional import normalize

    weight_FxN = torch.stack([weights[name] * present[name].to(embeddings[name].dtype) for name in weights])
    empty = weight_FxN.sum(0) == 0
    if not empty.is_cuda and empty.any():  # a GPU isn't waited for; `Inputs` checks too
        row = int(empty.nonzero()[0])
        raise DataError(f"row {row} has none of the fields {', '.join(weights)}; give it one or drop the row")
    field_FxNxD = torch.stack([normalize(embeddings[name], dim=-1) for name in weights])
    return normalize((weight_FxN.unsqueeze(-1) * field_FxNxD).sum(0), dim=-1)
