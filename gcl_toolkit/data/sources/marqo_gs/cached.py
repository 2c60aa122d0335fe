"""A subset of a repository on the hub: fetched by row groups, kept on disk, and mapped by later calls.

The cache is `cached_assets_path` of huggingface_hub, in HF_HOME. A call that was interrupted goes on with the parts
that are there; one that is repeated asks the hub nothing. To read a data set that has changed, delete its folder there.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc, parquet

from gcl_toolkit.data.ranked_data import SPLITS
from gcl_toolkit.data.sources.marqo_gs.hub import numbered, read_hub, readable, with_images
from gcl_toolkit.data.sources.marqo_gs.remote import Repository, in_threads
from gcl_toolkit.data.sources.marqo_gs.rows import NEEDED
from gcl_toolkit.data.sources.marqo_gs.subset import Plan, Shard, in_bytes, plan
from gcl_toolkit.data.tabular import check_columns
from gcl_toolkit.errors import DataError, UserError, first_line

PART_BYTES = 1 << 25
"""Bytes that are fetched at a time: what an interruption can lose."""


def read_cached(
    name: str, queries: int | None, seed: int, fields: tuple[str, ...], max_gb: float
) -> tuple[dict, dict, dict]:
    """Rows by split, (corpus, conflicts) by half of the products, and facts for the card; arguments as in `tables`."""
    from huggingface_hub import cached_assets_path, constants
    from huggingface_hub.utils import WeakFileLock

    try:
        cache = cached_assets_path("gcl_toolkit", name, "subsets")
    except OSError as error:
        raise _unwritable(Path(constants.HF_ASSETS_CACHE), error) from None
    folder = cache / f"{'all' if queries is None else queries}-seed{seed}-{'+'.join(sorted(fields))}"
    if not folder.exists():
        with WeakFileLock(cache / ".lock"):
            if not folder.exists():
                _Fetch(name, cache).into(folder, queries, seed, fields, max_gb)
    return _mapped(folder)


class _Fetch:
    """Reads a subset from the hub; first the texts of the queries, then the row groups of those that are chosen."""

    def __init__(self, name: str, cache: Path):
        self.repository = Repository.open(name)
        self.index = cache / self.repository.commit
        self.index.mkdir(exist_ok=True)

    def into(self, folder: Path, queries: int | None, seed: int, fields: tuple[str, ...], max_gb: float) -> None:
        shards = self._shards(with_queries=queries is not None)
        name = self.repository.name
        columns = readable(((s.footer.schema.to_arrow_schema().names, f"{name}, {s.file}") for s in shards), fields)
        chosen = plan(shards, queries, seed)
        self._check_costs(chosen, "image" in columns, max_gb, folder)
        work = folder.with_name(f"{folder.name}-{self.repository.commit[:8]}.part")
        (work / "parts").mkdir(parents=True, exist_ok=True)
        parts = _Parts(work / "parts", shards, chosen, "image" in columns)
        self._fetch(parts, columns)
        rows, corpora = read_hub(parts, columns, work)
        facts = {"commit": self.repository.commit, "block": chosen.block, "subset": str(chosen)}
        _write(work, rows, corpora, facts)
        shutil.rmtree(work / "parts")
        work.rename(folder)

    def _shards(self, with_queries: bool) -> list[Shard]:
        name = self.repository.name
        files = numbered(self.repository.sizes, name)
        if missing := [split for split in self.repository.rows or SPLITS if split not in files]:
            have = ", ".join([*self.repository.sizes][:5])
            raise DataError(f"{name}: no data/{missing[0]}-*.parquet; its files are {have}")
        tasks = [(split, file) for split in files for file in files[split]]
        read = {}
        with _bar(f"{name}: queries", len(tasks)) as bar:
            for shard in in_threads(lambda task: self._shard(task[0], task[1], with_queries), tasks):
                read[shard.file] = shard
                bar.update()
        shards = [read[file] for _, file in tasks]
        for split, stated in self.repository.rows.items():
            rows = sum(shard.footer.num_rows for shard in shards if shard.split == split)
            if rows != stated:
                raise DataError(
                    f"{name}: split {split} has {rows:,} rows, its README states {stated:,}; is it being uploaded?"
                )
        return shards

    def _shard(self, split: str, file: str, with_queries: bool) -> Shard:
        stem = Path(file).stem
        footer_file, text_file = self.index / f"{stem}.footer", self.index / f"{stem}.arrow"
        if footer_file.exists():
            footer = parquet.read_metadata(footer_file)
        else:
            footer = self.repository.footer(file)
            with _written(footer_file) as beside:
                footer.write_metadata_file(beside)
        if not with_queries:
            return Shard(split, file, footer, None)
        if not text_file.exists():
            check_columns(footer.schema.to_arrow_schema().names, NEEDED, f"{self.repository.name}, {file}")
            table = self.repository.read(file, footer, [*range(footer.num_row_groups)], ["query"])
            _store(text_file, table)
        return Shard(split, file, footer, _open(text_file)["query"])

    def _check_costs(self, chosen: Plan, with_images: bool, max_gb: float, folder: Path) -> None:
        """Print what will be read, before it is; raises UserError if it is too much."""
        name, size = self.repository.name, chosen.texts + chosen.images * with_images
        print(f"{name}: {chosen}", file=sys.stderr)
        is_far = chosen.images > 3 * chosen.own
        far = "; a query's rows are far apart in the files, so other queries cost as much" if is_far else ""
        if size > max_gb * 1e9:
            raise UserError(
                f"{name}: {chosen}{far}; this is more than max_gb={max_gb:g}: raise it, choose fewer queries, or read "
                "titles only with fields=title"
            )
        needed, free = chosen.texts + 2 * chosen.own * with_images, shutil.disk_usage(folder.parent).free
        if needed > free:
            raise UserError(
                f"{folder.parent}: {in_bytes(needed)} are needed, {in_bytes(free)} are free; choose fewer queries or "
                "set HF_HOME to a larger disk"
            )

    def _fetch(self, parts: _Parts, columns: list[str]) -> None:
        def fetch(part: _Part) -> int:
            if not part.path.exists():
                table = self.repository.read(part.shard.file, part.shard.footer, part.groups, columns)
                _store(part.path, table.filter(pc.is_in(table["query"], parts.chosen)) if parts.chosen else table)
            return part.size

        with _bar(self.repository.name, sum(part.size for part in parts)) as bar:
            for size in in_threads(fetch, [*parts]):
                bar.update(size)


class _Part(NamedTuple):
    """Row groups of a shard that are fetched together, their size in bytes, and the file that keeps the chosen rows."""

    shard: Shard
    groups: list[int]
    size: int
    path: Path


class _Parts(list[_Part]):
    """All parts, in order; a source for `read_hub`."""

    def __init__(self, folder: Path, shards: list[Shard], chosen: Plan, with_images: bool):
        self.chosen, self.splits = chosen.chosen, list(dict.fromkeys(shard.split for shard in shards))
        for shard, groups, sizes in zip(shards, chosen.groups, chosen.sizes, strict=True):
            size = sizes[groups, 2] + sizes[groups, 1] * with_images
            number = np.cumsum(size) // PART_BYTES
            for part in np.unique(number):
                which = groups[number == part].tolist()
                path = folder / f"{Path(shard.file).stem}-{which[0]:06}.arrow"
                self.append(_Part(shard, which, int(size[number == part].sum()), path))

    def batches(self, split: str, columns: list[str]) -> Iterator[pa.Table]:
        for part in self:
            if part.shard.split == split:
                yield _open(part.path).select(columns)


def _bar(what: str, total: int):
    """A progress bar of huggingface_hub, which its settings switch off."""
    from huggingface_hub.utils import tqdm

    return tqdm(desc=what, total=total, unit="", unit_scale=True)


def _write(folder: Path, rows: dict, corpora: dict, facts: dict) -> None:
    """The tables of a subset; the images are in the folder already."""
    for name, table in rows.items():
        _store(folder / f"rows-{name}.arrow", table)
    for part, (corpus, conflicts) in corpora.items():
        _store(folder / f"corpus-{part}.arrow", corpus.drop_columns([c for c in corpus.column_names if c == "image"]))
        facts = {**facts, f"conflicts-{part}": conflicts}
    with _written(folder / "facts.json") as beside:
        beside.write_text(json.dumps(facts))


def _mapped(folder: Path) -> tuple[dict, dict, dict]:
    """What `_write` wrote, mapped."""
    try:
        facts = json.loads((folder / "facts.json").read_text())
        rows = {name: _open(file) for name in SPLITS if (file := folder / f"rows-{name}.arrow").exists()}
        corpora = {}
        for part in (0, 1):
            if (file := folder / f"corpus-{part}.arrow").exists():
                corpus, images = _open(file), folder / f"images-{part}.arrow"
                corpus = with_images(corpus, images) if images.exists() else corpus
                corpora[part] = corpus, facts.pop(f"conflicts-{part}")
        return rows, corpora, facts
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{folder}: can't be read ({first_line(error)}); delete it, to fetch it again") from None


def _open(file: Path) -> pa.Table:
    return ipc.open_file(pa.memory_map(str(file))).read_all()


def _store(file: Path, table: pa.Table) -> None:
    with _written(file) as beside, ipc.new_file(str(beside), table.schema) as writer:
        writer.write_table(table)


@contextmanager
def _written(file: Path) -> Iterator[Path]:
    """A path beside the file, that takes its place when all is written."""
    beside = file.with_name(f"{file.name}.part")
    try:
        yield beside
        beside.replace(file)
    except OSError as error:
        raise _unwritable(file.parent, error) from None


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder}: can't be written ({first_line(error)}); free some space or set HF_HOME to another disk"
    )
