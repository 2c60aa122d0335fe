"""MarqoGS-10M in the hub's layout: parquet, one row for each scored pair, read or streamed."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset, ipc

from gcl_toolkit.data.columns import IMAGE, as_images, present
from gcl_toolkit.data.ranked_data import SPLITS
from gcl_toolkit.data.sources.marqo_gs.rows import NEEDED, OPTIONAL, PART, check_columns, choose
from gcl_toolkit.data.sources.rows import first_values
from gcl_toolkit.data.tabular import open_file
from gcl_toolkit.errors import DataError, first_line

_BATCH_ROWS = 1024


class Hub:
    """Row batches of the hub's parquet files: a local folder by pyarrow, a hub id by `datasets`, stored or streamed."""

    def __init__(self, path: str | Path, streaming: bool):
        self.path, self.streaming = path, streaming
        self.shards = shards(Path(path))
        self.splits = [name for name in SPLITS if name in self.shards or not self.shards]

    def columns(self, fields: Iterable[str]) -> list[str]:
        """The columns to read, as far as the files have them."""
        wanted = [*NEEDED, *OPTIONAL, *fields]
        for files in self.shards.values():
            have = open_file(files[0]).names
            check_columns(have, str(files[0]))
            wanted = [c for c in wanted if c in have]
        return wanted

    def batches(self, split: str, columns: list[str], chosen: pa.Array | None = None) -> Iterator[pa.Table]:
        """The split's rows, in order, of the chosen query texts."""
        rows = None if chosen is None else pc.field("query").isin(chosen)
        try:
            if self.shards:
                source = dataset.dataset([str(f) for f in self.shards[split]], format="parquet")
                read = source.to_batches(columns, rows, _BATCH_ROWS, batch_readahead=2, fragment_readahead=1)
                yield from (pa.Table.from_batches([batch]) for batch in read)
            else:
                yield from self._by_datasets(split, columns, rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{self.path}, split {split}: can't be read ({first_line(error)}); "
                "are the files complete, and if it is a hub id, can the hub be reached?"
            ) from None

    def _by_datasets(self, split: str, columns: list[str], rows: pc.Expression | None) -> Iterator[pa.Table]:
        from datasets import load_dataset

        read = load_dataset(str(self.path), split=split, streaming=self.streaming, columns=columns, filters=rows)
        yield from read.with_format("arrow").iter(batch_size=_BATCH_ROWS)


def shards(folder: Path) -> dict[str, list[Path]]:
    """Split -> its parquet files, `SPLIT.parquet` or `SPLIT-00000-of-000NN.parquet`, in the folder or its data/."""
    split_files: dict[str, list[Path]] = {}
    for name in SPLITS:
        for place in (folder, folder / "data"):
            files = sorted([*place.glob(f"{name}.parquet"), *place.glob(f"{name}-*-of-*.parquet")])
            if files and name not in split_files:
                split_files[name] = files
    for name, files in split_files.items():
        expected = re.search(r"-of-(\d+)$", files[0].stem)
        if expected and len(files) != int(expected[1]):
            raise DataError(
                f"{files[0].parent}: split {name} has {len(files)} of {int(expected[1])} files; fetch the others, "
                "since some of them alone would cut the lists of the queries short"
            )
    return split_files


def read_hub(hub: Hub, queries: int | None, seed: int, fields: tuple[str, ...]) -> tuple[dict, dict]:
    columns = hub.columns(fields)
    chosen = None
    if queries is not None:
        texts = (batch["query"] for name in hub.splits for batch in hub.batches(name, ["query"]))
        chosen = choose(texts, queries, seed)
    rows, corpora = {}, {}
    for part in (0, 1):
        images = _Images()
        names = [name for name in hub.splits if PART[name][1] == part]
        for name in names:
            light = [images.part_from(batch) for batch in hub.batches(name, columns, chosen)]
            rows[name] = pa.concat_tables(light) if light else _no_rows(columns)
        if names:
            titled = [c for c in ("product_id", "title") if c in columns]
            titles, conflicts = first_values(pa.concat_tables(rows[n].select(titled) for n in names), "product_id")
            corpora[part] = (images.join(titles) if "image" in columns else titles), conflicts
    return {name: rows[name] for name in hub.splits}, corpora


def _no_rows(columns: list[str]) -> pa.Table:
    return pa.table({c: pa.array([], pa.string()) for c in columns if c != "image"})


class _Images:
    """The first image of each product, collected batch by batch in a file that is then mapped, since all of them may be
    larger than memory. The file is in the system's temporary folder (TMPDIR) and is deleted with the process."""

    def __init__(self):
        self.seen: set = set()
        self.ids: list[str] = []
        self.file = tempfile.NamedTemporaryFile(prefix="gcl-images-", suffix=".arrow")  # noqa: SIM115
        self.writer = ipc.new_file(self.file, pa.schema([("image", IMAGE)]))

    def part_from(self, batch: pa.Table) -> pa.Table:
        """Store the batch's new images and return its other columns."""
        if "image" in batch.column_names:
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
                full = f"{Path(self.file.name).parent}: no space for the images ({first_line(error)})"
                raise DataError(f"{full}; set TMPDIR to a larger disk") from None
            batch = batch.drop_columns(["image"])
        return batch

    def join(self, corpus: pa.Table) -> pa.Table:
        """The corpus with its images, products with an image first, so that no image is copied."""
        row = pc.index_in(pa.array(self.ids, pa.string()), value_set=corpus["product_id"].combine_chunks()).to_numpy()
        rest = np.setdiff1d(np.arange(corpus.num_rows), row)
        self.writer.close()
        self.file.flush()
        stored = ipc.open_file(pa.memory_map(self.file.name)).read_all()["image"]
        images = pa.chunked_array([*stored.chunks, pa.nulls(len(rest), IMAGE)], IMAGE)
        return corpus.take(pa.array(np.concatenate([row, rest]))).append_column("image", images)
