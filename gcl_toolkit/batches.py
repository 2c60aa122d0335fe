"""From rows to model inputs: reading fields, decoding pictures, augmentation.

What a step sees is a function of (seed, step) alone, so that a run can go on from any step.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from gcl_toolkit.encoders import Encoder
from gcl_toolkit.errors import DataError
from gcl_toolkit.fields import Fields, is_missing
from gcl_toolkit.pictures import PixelCache, read
from gcl_toolkit.ranked_data import is_image

CACHE_BYTES = 2 << 30

_DECODED: dict[tuple[int, str, str], tuple[Tensor, Tensor, dict[int, str]]] = {}
"""(table, field, how the encoder crops) -> pixels, present, broken rows; lives as long as the table."""


class Inputs:
    """The model inputs of a table's rows, field by field: token ids made once, pictures decoded once and kept as uint8
    while a column fits into `cache_bytes`; beyond that decoded anew each time, by threads, or with `cache`, a folder,
    once into a file there.

    `side` is that of the model, whose texts may have another prefix.
    A picture that can't be read counts as a missing field (`broken` lists the rows), or raises with `strict`.
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
    ):
        for name in fields:
            if name not in table.column_names:
                raise DataError(f"field {name!r} is not a column of the table; it has {', '.join(table.column_names)}")
        self.encoder, self.strict, self.fields = encoder, strict, fields
        self.broken: dict[int, str] = {}
        self._id = table.column_names[0]
        self._table, self._pool = table, ThreadPoolExecutor(max(1, workers))
        self._cached: dict[str, PixelCache] = {}
        self.late = False  # whether pictures are decoded anew each time
        self._values: dict[str, Tensor] = {}
        self._present: dict[str, Tensor] = {}
        for name in fields:
            column = table[name]
            if is_image(column):
                self._present[name] = _has_image(column)
                if len(column) * 3 * (encoder.image_size or 0) ** 2 <= cache_bytes:
                    self._decode_all(name)
                else:
                    self.late = True
                    if cache:
                        rows, size = table.num_rows, encoder.image_size or 0
                        self._cached[name] = PixelCache(cache, _key(table, name, encoder.crop_key), rows, size)
            else:
                texts = column.to_pylist()
                self._present[name] = torch.tensor([not is_missing(text) for text in texts])
                self._values[name] = encoder.tokens(
                    ["" if is_missing(text) else str(text) for text in texts], side
                ).int()
        empty = ~torch.stack(list(self._present.values())).any(0)
        if empty.any():
            row = int(empty.int().argmax())
            which = f"{self._id} {table[self._id][row].as_py()!r} (row {row})"
            raise DataError(f"{which} has none of the fields {', '.join(fields)}; give it one or drop the row")

    def rows(self, rows: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(field -> values, field -> present) of some rows, as `GCLModel.forward` takes them."""
        index = torch.from_numpy(np.asarray(rows, np.int64))
        values = {n: self._values[n][index] if n in self._values else self._decode(n, rows) for n in self.fields}
        return values, {name: self._present[name][index] for name in self.fields}

    def _decode_all(self, name: str) -> None:
        key = (id(self._table), name, self.encoder.crop_key)
        if key not in _DECODED:
            values = self._decode(name, np.arange(self._table.num_rows))
            _DECODED[key] = values, self._present[name], {**self.broken}
            weakref.finalize(self._table, _DECODED.pop, key, None)
        self._values[name], self._present[name], broken = _DECODED[key]
        if broken and self.strict:
            raise DataError(f"{next(iter(broken.values()))}; mend it, or let it count as missing")
        self.broken |= broken

    def _decode(self, name: str, rows: np.ndarray) -> Tensor:
        column, size = self._table[name], self.encoder.image_size or 0
        pixels, cache = np.zeros((len(rows), 3, size, size), np.uint8), self._cached.get(name)

        def one(i: int) -> bool:
            row = int(rows[i])
            if not self._present[name][row]:
                return False
            try:
                pixels[i] = self.encoder.pixels(read(column[row].as_py()))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                what = f"{name} of {self._id} {self._table[self._id][row].as_py()!r} (row {row}) can't be read: {error}"
                if self.strict:
                    raise DataError(f"{what}; mend it, or let it count as missing") from None
                self.broken[row] = what
                self._present[name][row] = False
                return False
            return True

        new = np.flatnonzero(~cache.get(rows, pixels)) if cache else np.arange(len(rows))
        done = new[np.fromiter(self._pool.map(one, new), bool, len(new))]
        if cache:
            cache.put(rows[done], pixels[done])
        return torch.from_numpy(pixels)


def _key(table: pa.Table, name: str, crop: str) -> str:
    """A digest of what the squares of a column depend on: ids, paths, when their files were changed, lengths of the
    bytes, and the crop."""
    digest = hashlib.blake2b(crop.encode(), digest_size=12)
    paths, data = (pc.struct_field(table[name], part) for part in ("path", "bytes"))
    names = paths.to_pylist()
    changed = (path and _changed(path) for path in names)
    for column in (table[table.column_names[0]].to_pylist(), names, changed, pc.binary_length(data).to_pylist()):
        digest.update("\0".join(map(str, column)).encode())
    return digest.hexdigest()


def _changed(path: str) -> int | None:
    """When a file was changed, in nanoseconds; None if it isn't there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _has_image(column: pa.ChunkedArray) -> Tensor:
    """Which rows have bytes or a path, N bools, without bringing the bytes into Python."""
    has_bytes = pc.greater(pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), 0), 0)
    has_path = pc.greater(pc.fill_null(pc.utf8_length(pc.struct_field(column, "path")), 0), 0)
    return torch.from_numpy(pc.or_(has_bytes, has_path).to_numpy().astype(bool))


# -- ahead of the step -------------------------------------------------------------------------------------------------

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def ahead(make: Callable[[_Item], _Made], items: Iterable[_Item], count: int) -> Iterator[_Made]:
    """make(item) of every item, in order, up to `count` of them made by a thread while one is in use."""
    if count == 0:
        yield from map(make, items)
        return
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


# -- augmentation ------------------------------------------------------------------------------------------------------


class Noise(NamedTuple):
    """How N pictures are changed: a flip (bools), a shift (N x 2, pixels), a factor of the brightness."""

    flip: Tensor
    shift: Tensor
    brightness: Tensor

    @classmethod
    def draw(cls, count: int, size: int, generator: torch.Generator) -> Noise:
        """Half are flipped, shifts go up to 1/8 of the side, brightness changes by up to 20%."""
        flip = torch.rand(count, generator=generator) < 0.5
        shift = torch.randint(-(size // 8), size // 8 + 1, (count, 2), generator=generator)
        return cls(flip, shift, 0.8 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator))

    def of(self, rows: slice) -> Noise:
        return Noise(*(part[rows] for part in self))

    def added(self, pixels: Tensor) -> Tensor:
        """uint8 N x 3 x S x S -> float 0..255, on the device of the pixels."""
        count, _, _, size = pixels.shape
        flip, shift, brightness = (part.to(pixels.device) for part in self)
        images = pixels.float()
        images[flip] = images[flip].flip(3)
        span = torch.arange(size, device=pixels.device)
        rows = (span[None] + shift[:, :1]).clamp(0, size - 1)
        columns = (span[None] + shift[:, 1:]).clamp(0, size - 1)
        which = torch.arange(count, device=pixels.device)[:, None, None]
        images = images[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return (images * brightness).clamp(0, 255)


def augment_images(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, shift, change brightness: uint8 N x 3 x S x S -> float 0..255."""
    return Noise.draw(len(pixels), pixels.shape[-1], generator).added(pixels)
