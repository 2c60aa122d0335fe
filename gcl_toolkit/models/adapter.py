"""The adapter: an encoder of vectors that a pretrained encoder, or someone else's service, has computed already."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl_toolkit.data.columns import is_image, is_vector
from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.vectors import SUFFIX, origin_of
from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.models.small import Encoder

MAPS = ("linear", "low-rank", "mlp")
DIMENSION = 256
"""Of the embeddings, where no product has vectors in the space of the queries'."""


class VectorEncoder(Encoder):
    """A trained map for each field and side, from its vectors to `dimension` numbers.

    map: "linear"; "low-rank", x + B A x with B = 0 at first, of which all fields must have the same dimension; "mlp",
    linear with a residual of one hidden layer.
    dimension: of the embeddings. By default training starts at the pretrained space: where products have vectors of the
    encoder and dimension of the queries' (`of_queries`), the embeddings have this dimension, and these fields' linear
    maps are x + W x with W = 0 at first; where they have none, it is 256. With a given dimension all maps are random at
    first, and with few training queries what the encoder knows about other queries is lost.
    rank: of the low-rank map. dropout: share of a vector's numbers that are zeroed in training.
    inputs: what the maps take, learnt from the training data by `learn_vectors`: "left_query" -> {"dimension": 384,
    "of": "query", "encoder": {...}, "tower": "text"}. A field that isn't a vector is read from the column FIELD_vector,
    and where the data has none, its values are embedded by the encoder that made the training data's vectors.
    """

    initial_logit_scale = 20.0
    learning_rate = 1e-3

    def __init__(
        self,
        *,
        dimension: int | None = None,
        map: str = "linear",
        rank: int = 32,
        dropout: float = 0.2,
        inputs: Mapping[str, dict[str, Any]] | None = None,
    ):
        super().__init__()
        if map not in MAPS:
            raise unknown("map", map, MAPS)
        self.given, self.map, self.rank = dimension, map, rank
        self.dimension = dimension or DIMENSION
        self.dropout, self.maps = nn.Dropout(dropout), nn.ModuleDict()
        self.inputs: dict[str, dict[str, Any]] = {}
        self._set_inputs(inputs or {})

    @property
    def spec(self) -> dict[str, Any]:  # type: ignore[override]
        options = {name: getattr(self, name) for name in ("map", "rank", "inputs")}
        return {"name": "vectors", "dimension": self.given, **options, "dropout": self.dropout.p}

    def _set_inputs(self, inputs: Mapping[str, dict[str, Any]]) -> None:
        self.inputs = dict(inputs)
        sizes = {key: about["dimension"] for key, about in inputs.items()}
        near = of_queries(inputs) if self.given is None else []
        if near:
            self.dimension = sizes[near[0]]
        if self.map == "low-rank" and sizes:
            self.dimension = next(iter(sizes.values()))
            if {*sizes.values()} != {self.dimension}:
                listed = ", ".join(f"{key} {size}" for key, size in sizes.items())
                raise UserError(f"map=low-rank needs fields of one dimension, but there are {listed}; use map=linear")
        self.maps = nn.ModuleDict({key: _MAPS[self.map](size, self, key in near) for key, size in sizes.items()})

    def learn_vectors(self, sides: Mapping[str, tuple[pa.Table, Fields]]) -> None:
        if self.inputs:
            return
        inputs = {}
        for side, (table, fields) in sides.items():
            for name in fields:
                column = self._stored(table, name)
                if column is None:
                    raise DataError(
                        f"the data has no vectors of {name!r}; make them with gcl embed and give them with "
                        "--data DATA:vectors=FOLDER, or name a column of vectors"
                    )
                origin = origin_of(table, column)
                if origin.get("of") in table.column_names:
                    origin["tower"] = "image" if is_image(table[origin["of"]]) else "text"
                inputs[f"{side}_{name}"] = {"dimension": table[column].type.list_size, **origin}
        self._set_inputs(inputs)

    def column(self, table: pa.Table, name: str, side: str) -> pa.ChunkedArray:
        about, stored = self.inputs.get(f"{side}_{name}"), self._stored(table, name)
        if about is None:
            raise UserError(
                f"the adapter has no map of {name!r} ({side} side) yet; train the model or load a trained one"
            )
        if stored is None:
            raise DataError(f"the table has no vectors of {name!r}; make them with gcl embed")
        column, origin = table[stored], origin_of(table, stored)
        if column.type.list_size != about["dimension"]:
            raise DataError(
                f"column {stored!r} has vectors of {column.type.list_size} numbers; the adapter was trained on "
                f"{about['dimension']}"
            )
        if origin and "encoder" in about and origin["encoder"] != about["encoder"]:
            raise DataError(
                f"column {stored!r} was made by {_named(origin['encoder'])}; the adapter was trained on vectors of "
                f"{_named(about['encoder'])}"
            )
        return column

    @staticmethod
    def _stored(table: pa.Table, name: str) -> str | None:
        """The column that holds a field's vectors."""
        names = (column for column in (name, name + SUFFIX) if column in table.column_names)
        return next((column for column in names if is_vector(table[column])), None)

    def source(self, table: pa.Table, name: str, side: str) -> dict[str, Any]:
        """How to embed a field that the table has no vectors of: {"of": field, "encoder": {...}}; {} if it has some."""
        about = self.inputs.get(f"{side}_{name}")
        if about is None or self._stored(table, name) is not None:
            return {}
        if about.get("of", name) not in table.column_names or "encoder" not in about:
            known = "" if "encoder" in about else ", and which encoder makes them is not known"
            raise DataError(f"the table has no vectors of {name!r}{known}; make them with gcl embed")
        return about

    def encode_vectors(self, vectors: Tensor, side: str, field: str) -> Tensor:
        return self.maps[f"{side}_{field}"](vectors)


def of_queries(inputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The inputs with the encoder and dimension of the first query field, which is one of them; [] if no product field
    has these."""
    spaces = {key: (about["dimension"], about.get("encoder")) for key, about in inputs.items()}
    query = next((space for key, space in spaces.items() if key.startswith("left_")), None)
    near = [key for key, space in spaces.items() if space == query]
    return near if any(key.startswith("right_") for key in near) else []


def _named(encoder: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in encoder.values() if value) or "an unknown encoder"


class _Linear(nn.Module):
    """Vectors at length sqrt(D), dropout, a linear map; near: added to the vectors, and 0 at first."""

    def __init__(self, size: int, encoder: VectorEncoder, near: bool):
        super().__init__()
        self.dropout, self.linear = encoder.dropout, nn.Linear(size, encoder.dimension, bias=False)
        self.near = near
        if near:
            nn.init.zeros_(self.linear.weight)

    def forward(self, vectors_NxD: Tensor) -> Tensor:
        vectors_NxD = scaled(vectors_NxD)
        mapped = self.linear(self.dropout(vectors_NxD))
        return vectors_NxD + mapped if self.near else mapped


class _MLP(_Linear):
    def __init__(self, size: int, encoder: VectorEncoder, near: bool):
        super().__init__(size, encoder, near)
        hidden = nn.Linear(size, 2 * encoder.dimension)
        last = nn.Linear(2 * encoder.dimension, encoder.dimension, bias=False)
        self.residual = nn.Sequential(hidden, nn.GELU(), encoder.dropout, last)
        if near:
            nn.init.zeros_(last.weight)

    def forward(self, vectors_NxD: Tensor) -> Tensor:
        return super().forward(vectors_NxD) + self.residual(self.dropout(scaled(vectors_NxD)))


class _LowRank(nn.Module):
    near = True

    def __init__(self, size: int, encoder: VectorEncoder, near: bool):
        super().__init__()
        self.dropout = encoder.dropout
        self.down, self.up = nn.Linear(size, encoder.rank, bias=False), nn.Linear(encoder.rank, size, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, vectors_NxD: Tensor) -> Tensor:
        vectors_NxD = scaled(vectors_NxD)
        return vectors_NxD + self.up(self.down(self.dropout(vectors_NxD)))


_MAPS = {"linear": _Linear, "low-rank": _LowRank, "mlp": _MLP}


def scaled(vectors_NxD: Tensor) -> Tensor:
    """Vectors at length sqrt(D), float32: numbers of about 1, whatever encoder made them."""
    return normalize(vectors_NxD.float(), dim=-1) * vectors_NxD.shape[-1] ** 0.5
