"""MarqoGS-10M in the hub's layout: parquet, one row for each scored pair."""

import os
import re
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset, ipc

from gcl_toolkit.data.columns import IMAGE, as_images, present
from gcl_toolkit.data.ranked_data import SPLITS
from gcl_toolkit.data.sources.marqo_gs.rows import NEEDED, OPTIONAL, PART, choose
from gcl_toolkit.data.sources.rows import first_values
from gcl_toolkit.data.tabular import check_columns, open_file
from gcl_toolkit.errors import DataError, first_line

_BATCH_ROWS = 1024
_NAME = re.compile(rf"({'|'.join(SPLITS)})(?:-(\d+)(?:-of-(\d+))?(?:-\w+)?)?\.parquet")


class Source(Protocol):
    """The splits of a data set, and the rows of each, in order and in batches."""

    splits: list[str]

    def batches(self, split: str, columns: list[str]) -> Iterator[pa.Table]: ...


class Folder:
    """A local folder; only the rows of `queries` queries if a number is given."""

    def __init__(self, path: str | Path, queries: int | None = None, seed: int = 0):
        self.path, self.shards, self.rows = path, shards(Path(path)), None
        self.splits = [*self.shards]
        if queries is not None:
            texts = (batch["query"] for name in self.splits for batch in self.batches(name, ["query"]))
            self.rows = pc.field("query").isin(choose(texts, queries, seed))

    def columns(self, fields: Iterable[str]) -> list[str]:
        return readable(((open_file(files[0]).names, str(files[0])) for files in self.shards.values()), fields)

    def batches(self, split: str, columns: list[str]) -> Iterator[pa.Table]:
        try:
            source = dataset.dataset([str(file) for file in self.shards[split]], format="parquet")
            read = source.to_batches(columns, self.rows, _BATCH_ROWS, batch_readahead=2, fragment_readahead=1)
            yield from (pa.Table.from_batches([batch]) for batch in read)
        except (pa.ArrowException, OSError, ValueError) as error:
            where = f"{self.path}, split {split}"
            raise DataError(f"{where}: can't be read ({first_line(error)}); are the files complete?") from None


def readable(names: Iterable[tuple[Sequence[str], str]], fields: Iterable[str]) -> list[str]:
    """The columns to read, as far as every file has them; (its columns, its name) of each are given."""
    wanted = [*NEEDED, *OPTIONAL, *fields]
    for have, where in names:
        check_columns(have, NEEDED, where)
        wanted = [column for column in wanted if column in have]
    return wanted


def shards(folder: Path) -> dict[str, list[Path]]:
    """Split -> its parquet files, in the folder or its data/."""
    files = dict[str, list[str]]()
    for place in (folder / "data", folder):
        files |= numbered(map(str, place.glob("*.parquet")), str(place))
    return {name: [Path(file) for file in files[name]] for name in SPLITS if name in files}


def numbered(files: Iterable[str], where: str) -> dict[str, list[str]]:
    """Split -> its files of `SPLIT.parquet`, `SPLIT-N.parquet` or `SPLIT-0000N-of-000NN.parquet`, by their numbers."""
    found: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for file in files:
        if match := _NAME.fullmatch(file.replace("\\", "/").rpartition("/")[2]):
            found.setdefault(match[1], {})[int(match[2] or 0)] = file
            counts[match[1]] = int(match[3] or 0)
    for name, by_number in found.items():
        count = counts[name] or max(by_number) + (min(by_number) == 0)
        if len(by_number) != count:
            raise DataError(
                f"{where}: split {name} has {len(by_number)} of {count} files; fetch the others, "
                "since some of them alone would cut the lists of the queries short"
            )
    return {name: [found[name][number] for number in sorted(found[name])] for name in SPLITS if name in found}


def read_hub(source: Source, columns: list[str], images: Path | None = None) -> tuple[dict, dict]:
    """Rows by split; (corpus, conflicts) by half of the products. images: a folder for files that keep the images."""
    rows, corpora = {}, {}
    for part in (0, 1):
        names = [name for name in source.splits if PART[name][1] == part]
        pictures = _Images(images and images / f"images-{part}.arrow") if "image" in columns else None
        for name in names:
            read = source.batches(name, columns)
            light = [*map(pictures.without_images, read)] if pictures else [*read]
            none = pa.table({c: pa.array([], pa.string()) for c in columns if c != "image"})
            rows[name] = pa.concat_tables(light) if light else none
        if names:
            titled = [c for c in ("product_id", "title") if c in columns]
            titles, conflicts = first_values(pa.concat_tables(rows[n].select(titled) for n in names), "product_id")
            corpora[part] = (pictures.join(titles) if pictures else titles), conflicts
    return {name: rows[name] for name in source.splits}, corpora


class _Images:
    """The first image of each product, collected batch by batch in a file that is then mapped, since all of them may be
    larger than memory: `path`, or one in the system's temporary folder (TMPDIR) that has no name after that."""

    def __init__(self, path: Path | None):
        self.seen: set = set()
        self.ids: list[str] = []
        if path is None:
            handle, name = tempfile.mkstemp(prefix="gcl-images-", suffix=".arrow")
            os.close(handle)
            path = Path(name)
            weakref.finalize(self, path.unlink, missing_ok=True)  # what is mapped by then, stays readable
        self.path = path
        self.writer = ipc.new_file(str(self.path), pa.schema([("image", IMAGE)]))

    def without_images(self, batch: pa.Table) -> pa.Table:
        """Store the batch's new images and return its other columns."""
        new = []
        filled = present(pc.struct_field(batch["image"], "bytes"))  # the path is only a name there
        for row, product in enumerate(batch["product_id"].to_pylist()):
            if filled[row] and product is not None and product not in self.seen:
                self.seen.add(product)
                new.append(row)
        self.ids += [str(batch["product_id"][row]) for row in new]
        images = as_images(batch["image"].take(pa.array(new, pa.int64())), Path())
        try:
            self.writer.write_table(pa.table({"image": images}))
        except OSError as error:
            full = f"{self.path.parent}: no space for the images ({first_line(error)})"
            raise DataError(f"{full}; set TMPDIR, or HF_HOME for data from the hub, to a larger disk") from None
        return batch.drop_columns(["image"])

    def join(self, corpus: pa.Table) -> pa.Table:
        """The corpus with its images, products with an image first, so that no image is copied."""
        row = pc.index_in(pa.array(self.ids, pa.string()), value_set=corpus["product_id"].combine_chunks()).to_numpy()
        rest = np.setdiff1d(np.arange(corpus.num_rows), row)
        self.writer.close()
        return with_images(corpus.take(pa.array(np.concatenate([row, rest]))), self.path)


def with_images(corpus: pa.Table, file: Path) -> pa.Table:
    """The corpus with the images of a file, which are those of its first products, in order."""
    stored = ipc.open_file(pa.memory_map(str(file))).read_all()["image"]
    missing = pa.nulls(corpus.num_rows - len(stored), IMAGE)
    return corpus.append_column("image", pa.chunked_array([*stored.chunks, missing], IMAGE))
