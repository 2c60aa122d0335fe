"""From rows to batches: reading fields, decoding pictures, sampling, augmentation.

What a step sees is a function of (seed, step) alone, so that a run can go on from any step.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from gcl_toolkit import losses
from gcl_toolkit.encoders import Encoder
from gcl_toolkit.errors import DataError
from gcl_toolkit.fields import Fields, is_missing
from gcl_toolkit.losses.tiled import same_id_cells
from gcl_toolkit.pictures import PixelCache, read
from gcl_toolkit.ranked_data import RankedData, is_image

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


# -- sampling ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """What one step sees, as row numbers. For pairs, row i of `queries` goes with row i of `products`. For the score
    matrix, `weights` is queries x products, sparse where that is large."""

    queries: np.ndarray
    products: np.ndarray
    weights: Tensor


class PairSampler:
    """N known pairs, uniformly, without repetition within an epoch."""

    def __init__(self, data: RankedData, weights: np.ndarray, *, size: int, seed: int):
        self.kept = np.flatnonzero(weights > 0)
        self.pairs, self.weights, self.size, self.seed = data.pairs, weights, size, seed

    def __call__(self, step: int) -> Batch:
        chosen = self.kept[_epoch_slice(len(self.kept), self.size, step, self.seed)]
        weights = torch.from_numpy(self.weights[chosen]).float()
        return Batch(self.pairs.query[chosen], self.pairs.product[chosen], weights)


class MatrixSampler:
    """M products with all known queries of theirs, and further queries up to `queries`.

    Half of the products are drawn query-balanced from the best grades (a query uniformly, one of its best products
    uniformly), half uniformly, since coverage of the corpus matters too.
    """

    def __init__(self, data: RankedData, weights: np.ndarray, top: np.ndarray, *, size: int, queries: int, seed: int):
        query, product, _ = data.pairs
        kept = weights > 0
        self.size, self.seed, self.count = size, seed, queries
        self.by_product = _Groups(product[kept], query[kept], weights[kept], data.corpus.num_rows)
        best = kept & top
        self.best_of_query = _Groups(query[best], product[best], weights[best], data.queries.num_rows)
        self.has_best = np.flatnonzero(self.best_of_query.counts)
        if not len(self.has_best):
            raise DataError(
                f"{data.name}: no pair of the best grade has a weight > 0; some are expected, to train towards"
            )
        self.products, self.queries = np.unique(product[kept]), np.unique(query[kept])

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        balanced = self.best_of_query.draw(rng, rng.choice(self.has_best, self.size - self.size // 2))
        uniform = self.products[_epoch_slice(len(self.products), self.size // 2, step, self.seed)]
        products = np.unique(np.concatenate([balanced, uniform]))
        if len(products) < min(self.size, len(self.products)):  # some drawn twice; equal batches are faster
            others = rng.permutation(np.setdiff1d(self.products, products))
            products = np.sort(np.concatenate([products, others[: self.size - len(products)]]))
        column, query, weight = self.by_product.members(products)
        queries = np.unique(query)
        if len(queries) < min(self.count, len(self.queries)):
            others = rng.permutation(np.setdiff1d(self.queries, queries))
            queries = np.sort(np.concatenate([queries, others[: self.count - len(queries)]]))
        cells = torch.from_numpy(np.stack([np.searchsorted(queries, query), column]))
        size, values = (len(queries), len(products)), torch.from_numpy(weight).float()
        weights_NxM = torch.sparse_coo_tensor(cells, values, size, check_invariants=True)
        small = len(queries) * len(products) <= losses.DENSE_CELLS
        return Batch(queries, products, weights_NxM.to_dense() if small else weights_NxM.coalesce())


class KnownPairs:
    """Which cells of a batch of pairs are no negatives."""

    def __init__(self, data: RankedData):
        query, product, score = (column[data.pairs.score > 0] for column in data.pairs)
        self.of_query = _Groups(query, product, score, data.queries.num_rows)

    def __call__(self, queries: np.ndarray, products: np.ndarray) -> Tensor:
        """The cells (i, j) with the same query, the same product or a known pair with a score > 0, 2 x K."""
        row, product, _ = self.of_query.members(queries)
        order = np.argsort(products, kind="stable")
        first, last = (np.searchsorted(products[order], product, side) for side in ("left", "right"))
        position, index = _ranges(first, last - first)
        known = torch.from_numpy(np.stack([row[position], order[index]]))
        return torch.cat([known, *(same_id_cells(torch.from_numpy(ids)) for ids in (queries, products))], 1)


class _Groups:
    """Members and their weights by group, as one sorted array with offsets."""

    def __init__(self, group: np.ndarray, member: np.ndarray, weight: np.ndarray, groups: int):
        order = np.argsort(group, kind="stable")
        self.member, self.weight = member[order], weight[order]
        self.counts = np.bincount(group, minlength=groups)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    def draw(self, rng: np.random.Generator, groups: np.ndarray) -> np.ndarray:
        """One member of each group, uniformly."""
        return self.member[self.starts[groups] + (rng.random(len(groups)) * self.counts[groups]).astype(np.int64)]

    def members(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(position in `groups`, member, weight) of all members of the groups."""
        position, index = _ranges(self.starts[groups], self.counts[groups])
        return position, self.member[index], self.weight[index]


def _ranges(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which range, index) of every index in the ranges start, start + 1, ... of so many."""
    position = np.repeat(np.arange(len(counts)), counts)
    return position, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + starts[position]


def _epoch_slice(count: int, size: int, step: int, seed: int) -> np.ndarray:
    """`size` of `count` rows: every row once an epoch, in an order that is a function of (seed, epoch)."""
    position, parts = step * size, []
    while size > 0:
        epoch, start = divmod(position, count)
        part = _epoch_order(count, seed, epoch)[start : start + size]
        parts.append(part)
        position, size = position + len(part), size - len(part)
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 1)).permutation(count)


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
