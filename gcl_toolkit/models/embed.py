"""Vectors of one field by one encoder, for `gcl embed` and for adapters that meet new values."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from gcl_toolkit.data.columns import present
from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.vectors import SUFFIX, VectorFolder, fingerprints
from gcl_toolkit.errors import UserError
from gcl_toolkit.machine import kept_memory
from gcl_toolkit.models.adapter import VectorEncoder
from gcl_toolkit.models.encoders import make_encoder
from gcl_toolkit.models.inputs import Inputs
from gcl_toolkit.models.small import Encoder

SHARD = 1 << 14
"""Rows of a table that become one file of vectors."""


def tower(encoder: Mapping[str, Any]) -> Encoder:
    """The encoder that a column of vectors names, loaded once."""
    return _tower(json.dumps(dict(encoder)))


@lru_cache(maxsize=2)
def _tower(encoder: str) -> Encoder:
    options = json.loads(encoder)
    if "imported" in options:
        raise UserError(
            f"{options['name']} can't embed here, since its vectors were imported; import the new ones, too"
        )
    return make_encoder(**options).eval().to(default_device())


class _MayMiss(Inputs):
    """A row whose picture can't be read is not an error."""

    def _check(self, rows: np.ndarray, present: dict) -> None:
        pass


def embed_field(
    encoder: Encoder, table: pa.Table, field: str, side: str, *, rows: np.ndarray | None = None
) -> np.ndarray:
    """The encoder's vectors of some rows (default: all) of a column of texts or pictures: float32, not normalised; NaN
    where the value is missing or can't be read.

    side: "left" for queries, "right" for products; texts may have different prefixes.
    """
    rows, vectors = np.arange(table.num_rows) if rows is None else rows, []
    inputs, device = _MayMiss(encoder, table, Fields(**{field: 1.0}), side=side, cache_bytes=0), default_device()
    with torch.inference_mode(), kept_memory() if len(rows) > encoder.block else nullcontext():
        for start in range(0, len(rows), encoder.block):
            block = rows[start : start + encoder.block]
            values, found = inputs.rows(np.resize(block, max(8, 1 << (len(block) - 1).bit_length())))
            encoded = encoder.encode(values[field].to(device), side, field).float().cpu()
            vectors.append(encoded.masked_fill(~found[field][:, None], torch.nan)[: len(block)].numpy())
    return np.concatenate(vectors) if vectors else np.empty((0, encoder.dimension), np.float32)


def embed_picture(encoder: Encoder, image: Image.Image) -> torch.Tensor:
    """The vector of one RGB picture: D numbers, not normalised. An adapter's pictures are embedded first by the encoder
    that made its vectors of pictures; UserError if it has none."""
    if not isinstance(encoder, VectorEncoder):
        pixels = torch.tensor(encoder.pixels(image))[None].to(next(encoder.parameters()).device)
        return encoder.encode_images(pixels)[0].float()
    for name, about in encoder.inputs.items():
        if about.get("tower") == "image" and "encoder" in about:
            side, _, field = name.partition("_")
            vector = embed_picture(tower(about["encoder"]), image).to(next(encoder.parameters()).device)
            return encoder.encode_vectors(vector[None], side, field)[0]
    raise UserError("this adapter has no vectors of pictures whose encoder is known; search by text")


def with_vectors_of(encoder: Encoder, table: pa.Table, fields: Iterable[str], side: str) -> pa.Table:
    """The table with vectors of the fields that an adapter needs and the table lacks, embedded now."""
    if not isinstance(encoder, VectorEncoder):
        return table
    for name in fields:
        if about := encoder.source(table, name, side):
            vectors = embed_field(tower(about["encoder"]), table, about["of"], side)
            missing = pa.array(np.isnan(vectors[:, 0])) if len(vectors) else None
            flat = pa.array(np.nan_to_num(vectors).ravel())
            column = pa.FixedSizeListArray.from_arrays(flat, about["dimension"], mask=missing)
            table = table.append_column(name.removesuffix(SUFFIX) + SUFFIX, column)
    return table


def embed_into(
    folder: VectorFolder, splits: Mapping[str, RankedData], side: str, field: str, encoder: Mapping[str, Any]
) -> Iterator[tuple[int, int]]:
    """Embed a field of all splits into a folder, shard by shard, yielding (rows done, rows in all).

    encoder: the arguments of `make_encoder`. What a stopped call has written is kept.
    """
    name, tables = field + SUFFIX, distinct(splits, side, field)
    written = folder.begin(name, {"side": side, "of": field, "encoder": dict(encoder)})
    slices = [
        (table.slice(at, SHARD), rows)
        for table, kept in tables
        for at in range(0, table.num_rows, SHARD)
        if len(rows := np.flatnonzero(kept[at : at + SHARD]))
    ]
    done, total = 0, sum(len(rows) for _, rows in slices)
    for number, (table, rows) in enumerate(slices):
        if number >= written:
            vectors = embed_field(tower(encoder), table, field, side, rows=rows)
            read = ~np.isnan(vectors[:, 0])
            ids = table.column(0).take(pa.array(rows[read]))
            marks = fingerprints(table[field])[rows[read]]
            folder.add(name, pa.table({"id": ids, "fingerprint": marks}), vectors[read])
        done += len(rows)
        yield done, total
    folder.finish(name)


def distinct(splits: Mapping[str, RankedData], side: str, field: str) -> list[tuple[pa.Table, np.ndarray]]:
    """Each split's ids with the field, and which rows have a value and an id that no split before it has."""
    tables: list[tuple[pa.Table, np.ndarray]] = []
    for data in splits.values():
        table = data.queries if side == "left" else data.corpus
        if field in table.column_names:
            table = table.select([table.column_names[0], field])
            kept = present(table[field]).copy()
            for earlier, _ in tables:
                kept &= ~pc.is_in(table.column(0), value_set=earlier.column(0).combine_chunks()).to_numpy()
            tables.append((table, kept))
    return tables


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
