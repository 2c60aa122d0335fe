"""Which queries of a repository on the hub are read, and what they cost: whole lists from few row groups."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from gcl_toolkit.data.sources.marqo_gs.rows import NEEDED, OPTIONAL, PART, choose

EXCESS = 1.4
"""Bytes of pictures that may be fetched for each byte of the chosen rows' own pictures, if the order of rows allows."""
_TEXTS = {*NEEDED, *OPTIONAL, "title"}


@dataclass(frozen=True)
class Shard:
    """A file of a split, and the query of each row if queries are to be chosen."""

    split: str
    file: str
    footer: parquet.FileMetaData
    queries: pa.ChunkedArray | None

    def groups(self) -> np.ndarray:
        """Rows, bytes of pictures and bytes of texts of each row group, G x 3."""
        sizes = np.zeros((self.footer.num_row_groups, 3), np.int64)
        for number, size in enumerate(sizes):
            group = self.footer.row_group(number)
            size[0] = group.num_rows
            for column in map(group.column, range(group.num_columns)):
                name = column.path_in_schema.split(".")[0]
                size[1 if name == "image" else 2] += column.total_compressed_size * (name == "image" or name in _TEXTS)
        return sizes


@dataclass(frozen=True)
class Plan:
    """The chosen query texts (None: all), the row groups of each shard that hold a row of theirs, and the sizes."""

    chosen: pa.Array | None
    groups: list[np.ndarray]
    queries: int
    pairs: int
    block: int
    own: int
    """Bytes of the pictures in the chosen rows, if those of a row group are equally large."""
    images: int
    texts: int
    sizes: list[np.ndarray] = field(repr=False)

    def __str__(self) -> str:
        count = f"{self.queries:,} queries" if self.chosen is not None else "all queries"
        extra = f", for which {in_bytes(self.images)} are read" if self.images > 1.5 * self.own else ""
        return (
            f"{count}, {self.pairs:,} pairs, {in_bytes(self.own)} of pictures{extra}; "
            f"titles only: {in_bytes(self.texts)}"
        )


def in_bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.1f} {unit}" if unit == "GB" else f"{count:.0f} {unit}"


def plan(shards: Sequence[Shard], queries: int | None, seed: int) -> Plan:
    """Choose `queries` query texts, so that their lists are in few row groups.

    Where each query can be drawn alone, by the smallest seeded hash of its text as in other layouts, it is. Otherwise
    blocks of neighbours are drawn, at random places of the ring of all queries, from both parts of the queries in
    proportion. A block has as few queries as keep `EXCESS`, so that the draw is as independent as that allows; every
    query has the same probability, whatever its scores and the length of its list. In shuffled files blocks don't
    help: then queries are drawn alone, and the plan's bytes say what that costs.
    """
    sizes = [shard.groups() for shard in shards]
    rows_G, images_G, texts_G = np.concatenate(sizes).T
    if queries is None:
        whole = [np.arange(len(size)) for size in sizes]
        rows, images, texts = (int(total) for total in (rows_G.sum(), images_G.sum(), texts_G.sum()))
        return Plan(None, whole, 0, rows, 1, images, images, texts, sizes)
    distinct, code_R, part = _queries(shards)
    group_R = np.repeat(np.arange(len(rows_G)), rows_G)
    ends = np.cumsum([len(size) for size in sizes])[:-1]

    def cost(block: int) -> Plan:
        is_chosen = np.zeros(len(distinct) + 1, bool)
        is_chosen[_draw(distinct, part, queries, seed, block)] = True
        count_G = np.bincount(group_R[is_chosen[code_R]], minlength=len(rows_G))
        in_G = count_G > 0
        own = int((images_G * count_G / np.maximum(rows_G, 1)).sum())
        groups = [np.flatnonzero(used) for used in np.split(in_G, ends)]
        of_groups = int(images_G[in_G].sum()), int(texts_G[in_G].sum())
        return Plan(
            distinct.filter(is_chosen[:-1]), groups, is_chosen.sum(), count_G.sum(), block, own, *of_groups, sizes
        )

    plans = [cost(1)]
    while plans[-1].images > EXCESS * plans[-1].own and 4 * plans[-1].block <= queries:
        plans.append(cost(2 * plans[-1].block))
    return plans[-1] if plans[-1].images < 0.75 * plans[0].images else plans[0]


def _queries(shards: Sequence[Shard]) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """The distinct texts in order of appearance, the text of each row (an index; missing: one more), and the part of
    the queries of each text."""
    columns = [shard.queries for shard in shards if shard.queries]
    encoded = pa.chunked_array([chunk for column in columns for chunk in column.chunks]).combine_chunks()
    encoded = encoded.dictionary_encode()
    texts, code_R = encoded.dictionary, encoded.indices.fill_null(len(encoded.dictionary)).to_numpy()
    part, at = np.ones(len(texts) + 1, np.int64), 0
    for shard in shards:
        if PART[shard.split][0] == 0:
            part[code_R[at : at + shard.footer.num_rows]] = 0
        at += shard.footer.num_rows
    return texts, code_R, part[:-1]


def _draw(texts: pa.Array, part: np.ndarray, count: int, seed: int, block: int) -> np.ndarray:
    """Codes of the drawn queries; `texts` are in the order in which the files first have them."""
    if block == 1:
        chosen = choose([pa.chunked_array([texts])], count, seed)
        return pc.index_in(chosen, value_set=texts).to_numpy()
    rng, drawn, left = np.random.default_rng(seed), list[np.ndarray](), count
    for of_part in (np.flatnonzero(part == 0), np.flatnonzero(part == 1)):
        turned = np.roll(of_part, rng.integers(len(of_part))) if len(of_part) else of_part  # blocks begin anywhere
        blocks = np.array_split(turned, range(block, len(turned), block))
        share = left if drawn else round(count * len(of_part) / len(part))
        drawn.append(np.concatenate([blocks[number] for number in rng.permutation(len(blocks))])[:share])
        left -= len(drawn[-1])
    return np.concatenate(drawn)
