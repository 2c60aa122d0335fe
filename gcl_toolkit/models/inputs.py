"""From the rows of a table to model inputs: token ids, decoded pictures and vectors."""

import hashlib
import os
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from gcl_toolkit.data.columns import is_image, is_vector, present, vector_parts
from gcl_toolkit.data.fields import Fields, is_missing
from gcl_toolkit.data.pictures import PixelCache, read
from gcl_toolkit.errors import DataError, counted
from gcl_toolkit.models.forked import Forked
from gcl_toolkit.models.small import Encoder

CACHE_BYTES = 2 << 30

_DECODED: dict[tuple[type, int, str, str], tuple[Tensor, Tensor, dict[int, str]]] = {}
"""(class, table, field, how the encoder crops) -> pixels, present, broken rows; kept while the table exists."""


class Inputs:
    """The model inputs of a table's rows, field by field.

    Texts are tokenized once. Pictures are decoded once and kept as uint8 while a column fits into `cache_bytes`;
    otherwise they are decoded in threads at each use or, with `cache`, once into a file in that folder. For a GPU
    (`for_gpu`) that is done in processes, into memory that it can copy from.
    side: "left" or "right"; texts of the two sides may have different prefixes.
    A picture that can't be read counts as a missing field and is listed in `broken` (row -> reason), or raises with
    `strict`. `notes` lists the text fields of which some rows are too long for the encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        table: pa.Table,
        fields: Fields,
        *,
        strict: bool = False,
        cache_bytes: int = CACHE_BYTES,
        workers: int = 4,
        cache: str | Path | None = None,
        side: str = "left",
        for_gpu: bool = False,
    ):
        columns = {name: encoder.column(table, name, side) for name in fields}
        self.encoder, self.strict, self.fields, self._side = encoder, strict, fields, side
        self.broken: dict[int, str] = {}
        self.notes: list[str] = []
        self.late = False  # whether pictures are decoded at each use
        self._id = table.column_names[0]
        self._table, self._pool = table, ThreadPoolExecutor(max(1, workers))
        self._workers, self._for_gpu = workers, for_gpu
        self._pinned = for_gpu and torch.cuda.is_available()
        self._forked: Forked | None = None
        self._shape = encoder.image_shape or (0, 0)
        self._cached: dict[str, PixelCache] = {}
        self._values: dict[str, Tensor | _Vectors] = {}
        self._present: dict[str, Tensor] = {}
        for name in fields:
            if is_image(columns[name]):
                self._add_images(name, cache_bytes, cache)
            elif is_vector(columns[name]):
                self._present[name] = torch.from_numpy(present(columns[name]).copy())
                self._values[name] = _Vectors(columns[name])
            else:
                self._add_texts(name, side)
        self._check(np.arange(table.num_rows), self._present)

    def rows(self, rows: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(field -> values, field -> present) of some rows, as `GCLModel.forward` takes them."""
        index = torch.from_numpy(np.asarray(rows, np.int64))
        values = {n: self._values[n][index] if n in self._values else self._decode(n, rows) for n in self.fields}
        present = {name: self._present[name][index] for name in self.fields}
        self._check(rows, present)
        return values, present

    def check_pictures(self, tries: int = 64) -> None:
        """Raise DataError if most pictures can't be read. Of those that are decoded at each use, some are tried."""
        for name in self.fields:
            if not (name in self._table.column_names and is_image(self._table[name])):
                continue
            rows = np.flatnonzero(_has_image(self._table[name]).numpy())
            if name not in self._values:
                rows = np.random.default_rng(0).permutation(rows)[:tries]
                self._decode(name, rows)
            broken = [self.broken[row] for row in rows.tolist() if row in self.broken]
            if len(broken) > len(rows) / 2:
                raise DataError(
                    f"{len(broken):,} of {len(rows):,} pictures can't be read: {broken[0]}; correct the paths or "
                    "train on titles alone, with right=Fields(title=1) or --right title=1"
                )

    def _check(self, rows: np.ndarray, present: dict[str, Tensor]) -> None:
        empty = ~torch.stack([*present.values()]).any(0)
        if empty.any():
            bad = np.unique(rows[empty.numpy()]).tolist()  # blocks of rows are padded with copies
            self.check_pictures()
            noun, option = ("query", "--left") if self._side == "left" else ("product", "--right")
            filled = (name for name in self._table.column_names[1:] if name not in (*self.fields, "division"))
            other = next((name for name in filled if not is_missing(self._table[name][bad[0]].as_py())), None)
            fields = ",".join(f"{name}={weight:g}" for name, weight in self.fields.items())
            cure = f"add a field, as in {option} {fields},{other}=0.1, or " if other else ""
            raise DataError(
                f"{counted(len(bad), noun)} without any of the fields {', '.join(self.fields)}, first "
                f"{self._name(bad[0])}; {cure}drop the rows"
            )

    def _name(self, row: int) -> str:
        return f"{self._id} {self._table[self._id][row].as_py()!r} (row {row})"

    def _add_texts(self, name: str, side: str) -> None:
        texts = self._table[name].to_pylist()
        self._present[name] = torch.tensor([not is_missing(text) for text in texts], dtype=torch.bool)
        known = ["" if is_missing(text) else str(text) for text in texts]
        self._values[name] = tokens = self.encoder.tokens(known, side).int()
        padding = self.encoder.tokens([""], side)[0, -1]
        full = (tokens[:, -1] != padding).nonzero()[:, 0]
        if len(full):
            self.notes.append(
                f"{counted(len(full), 'text')} in {name!r} fill{'s' * (len(full) == 1)} all {tokens.shape[1]} "
                f"words or tokens that {self.encoder.spec['name']} reads; anything after that is ignored "
                f"(first: {self._name(int(full[0]))})"
            )

    def _add_images(self, name: str, cache_bytes: int, cache: str | Path | None) -> None:
        self._present[name] = _has_image(self._table[name])
        if self._table.num_rows * 3 * self._shape[0] * self._shape[1] <= cache_bytes:
            self._decode_all(name)
            return
        self.late = True
        if cache:
            key = _key(self._table, name, self.encoder.crop_key)
            self._cached[name] = PixelCache(cache, key, self._table.num_rows, self._shape)
        if self._for_gpu and self._workers > 1 and sys.platform == "linux" and not self._forked:
            self._forked = Forked(self._decode_one, self._shape, self._workers)

    def close(self) -> None:
        """End the processes, if there are any."""
        if self._forked:
            self._forked.close()

    def _decode_all(self, name: str) -> None:
        key = (type(self), id(self._table), name, self.encoder.crop_key)
        if key not in _DECODED:
            values = self._decode(name, np.arange(self._table.num_rows))
            _DECODED[key] = values, self._present[name], {**self.broken}
            weakref.finalize(self._table, _DECODED.pop, key, None)
        self._values[name], self._present[name], broken = _DECODED[key]
        if broken and self.strict:
            raise DataError(f"{next(iter(broken.values()))}; replace it or leave strict out")
        self.broken |= broken

    def _decode(self, name: str, rows: np.ndarray) -> Tensor:
        values = torch.empty((len(rows), 3, *self._shape), dtype=torch.uint8, pin_memory=self._pinned)
        pixels, cache, wanted = values.numpy(), self._cached.get(name), self._present[name].numpy()[rows]
        pixels[~wanted] = 0
        new = np.flatnonzero(wanted & ~cache.get(rows, pixels) if cache else wanted)
        if self._forked:
            reasons = self._forked(name, rows[new], pixels, new)
        else:
            reasons = list(self._pool.map(lambda i: self._decode_one(name, int(rows[i]), pixels[i]), new))
        read = np.array([reason is None for reason in reasons], bool)
        pixels[new[~read]] = 0
        for row, reason in zip(rows[new].tolist(), reasons, strict=True):
            if reason and self.strict:
                raise DataError(f"{reason}; replace it or leave strict out")
            if reason:
                self.broken[row], self._present[name][row] = reason, False
        if cache:
            cache.put(rows[new[read]], pixels[new[read]])
        return values

    def _decode_one(self, name: str, row: int, into: np.ndarray) -> str | None:
        """Decode a row's picture; returns why it can't be read, or None."""
        try:
            into[:] = self._pixels(self._table[name][row].as_py())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return f"{name} of {self._name(row)} can't be read: {error}"
        return None

    def _pixels(self, value: dict) -> np.ndarray:
        return self.encoder.pixels(read(value))


class _Vectors:
    """Rows of a column of vectors, which stays where it is, in memory or mapped from files."""

    def __init__(self, column: pa.ChunkedArray):
        self._parts, self._size = vector_parts(column), column.type.list_size
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self._missing = ~present(column)

    def __getitem__(self, index: Tensor) -> Tensor:
        rows = index.numpy()
        part = np.searchsorted(self._starts, rows, "right") - 1
        values = np.empty((len(rows), self._size), self._parts[0].dtype if self._parts else np.float32)
        for number in np.unique(part):
            at = np.flatnonzero(part == number)
            values[at] = self._parts[number][rows[at] - self._starts[number]]
        values[self._missing[rows]] = 0  # their memory may hold anything
        return torch.from_numpy(values)


def _key(table: pa.Table, name: str, crop: str) -> str:
    """A digest of what a column's crops depend on: ids, paths, times of the files, lengths of the bytes, the crop."""
    digest = hashlib.blake2b(crop.encode(), digest_size=12)
    paths, data = (pc.struct_field(table[name], part) for part in ("path", "bytes"))
    names = paths.to_pylist()
    times = [os.stat(path).st_mtime_ns if path and os.path.exists(path) else None for path in names]
    for column in (table[table.column_names[0]].to_pylist(), names, times, pc.binary_length(data).to_pylist()):
        digest.update("\0".join(map(str, column)).encode())
    return digest.hexdigest()


def _has_image(column: pa.ChunkedArray) -> Tensor:
    """Which rows have bytes or a path, N bools, without copying the bytes into Python."""
    has_bytes = pc.greater(pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), 0), 0)
    has_path = pc.greater(pc.fill_null(pc.utf8_length(pc.struct_field(column, "path")), 0), 0)
    return torch.from_numpy(pc.or_(has_bytes, has_path).to_numpy().astype(bool))
