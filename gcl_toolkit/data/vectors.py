"""Vectors as fields: columns of them, and folders of vectors that `gcl embed` computed beside the data.

A folder holds manifest.json and, for each field NAME, shards: NAME-00000.npy, ... (float16, rows x D, mapped when read)
and NAME-00000.parquet, ..., the id of each row and a fingerprint of what was embedded. Rows without the field have no
vector. A column made from a folder records in its metadata what it was computed from and by which encoder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gcl_toolkit.data.columns import is_image
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import DataError, counted
from gcl_toolkit.files import sha256, write_json

SUFFIX = "_vector"
"""`title_vector` holds the vectors of the field `title`."""
ORIGIN = b"origin"
"""Key of the column's metadata: JSON of {"of": field, "encoder": {name, pretrained, ...}}."""


def origin_of(table: pa.Table, name: str) -> dict[str, Any]:
    """What a vector column was computed from: {"of": field, "encoder": {...}}; {} if that is not known."""
    return json.loads((table.schema.field(name).metadata or {}).get(ORIGIN, b"{}"))


@dataclass
class VectorFolder:
    """A folder of vectors: `fields` says of each its side, what it was computed from, and its shards."""

    path: Path
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> VectorFolder:
        file = Path(path) / "manifest.json"
        try:
            return cls(Path(path), json.loads(file.read_text())["fields"])
        except FileNotFoundError:
            raise DataError(f"{path} holds no vectors (manifest.json is missing); make them with gcl embed") from None
        except (ValueError, KeyError) as error:
            raise DataError(f"{file} can't be read ({error!r}); make the vectors again with gcl embed") from None

    def begin(self, name: str, about: dict[str, Any]) -> int:
        """Start a field, or continue one that was stopped; returns how many of its shards are done.

        about: its side ("left" or "right"), the field that it is computed `of`, and the `encoder`.
        """
        known = self.fields.setdefault(name, {**about, "complete": False, "shards": []})
        if {key: known[key] for key in about} != about:
            raise DataError(f"{self.path}: {name} was made by another encoder; choose another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        return len(known["shards"])

    def add(self, name: str, ids: pa.Table, vectors: np.ndarray) -> None:
        """The next shard of a field. ids: the id and fingerprint of each row; vectors: rows x D, kept as float16."""
        shards = self.fields[name]["shards"]
        stem = f"{name}-{len(shards):05d}"
        pq.write_table(ids, self.path / f"{stem}.parquet")
        with np.errstate(over="ignore"):
            np.save(self.path / f"{stem}.npy", vectors.astype(np.float16), allow_pickle=False)
        files = {file: sha256(self.path / file) for file in (f"{stem}.npy", f"{stem}.parquet")}
        shards.append({"rows": len(vectors), "dimension": vectors.shape[1], "sha256": files})
        self.save()  # a shard counts once the manifest has it

    def finish(self, name: str) -> None:
        self.fields[name]["complete"] = True
        self.save()

    def save(self) -> None:
        write_json(self.path / "manifest.json", {"schema": 1, "fields": self.fields})

    def add_to(self, data: RankedData) -> RankedData:
        """The data with the vectors of its queries and products as columns; raises DataError where they don't fit."""
        tables = {"left": data.queries, "right": data.corpus}
        for name, about in self.fields.items():
            side = about["side"]
            tables[side] = self._added(tables[side], name, about)
        return RankedData(tables["left"], tables["right"], data.qrels, data.name, data.card)

    def _added(self, table: pa.Table, name: str, about: dict[str, Any]) -> pa.Table:
        if name in table.column_names:
            raise DataError(f"{self.path}: the data has a column {name!r} already; rename it or leave the vectors out")
        stored, column = self._column(name, about)
        row = pc.index_in(table.column(0), value_set=stored["id"].combine_chunks())
        rows = row.to_numpy()
        self._check(table, name, about["of"], stored, rows)
        in_order = not row.null_count and (np.diff(rows) == 1).all()
        column = column.slice(int(rows[0]), len(rows)) if in_order else column.take(row)
        origin = json.dumps({"of": about["of"], "encoder": about["encoder"]}).encode()
        return table.append_column(pa.field(name, column.type, metadata={ORIGIN: origin}), column)

    def _column(self, name: str, about: dict[str, Any]) -> tuple[pa.Table, pa.ChunkedArray]:
        """The ids with fingerprints, and the vectors, mapped."""
        if not (about["complete"] and about["shards"]):
            raise DataError(f"{self.path}: {name} is not complete; the same gcl embed command continues")
        ids, chunks = [], []
        for shard in about["shards"]:
            for file, digest in shard["sha256"].items():
                if not (self.path / file).is_file() or sha256(self.path / file) != digest:
                    raise DataError(f"{self.path / file} is missing or was changed; embed the data again")
            vectors, table = (self.path / file for file in shard["sha256"])
            ids.append(pq.read_table(table))
            numbers = np.load(vectors, mmap_mode="r", allow_pickle=False)
            flat = pa.Array.from_buffers(pa.float16(), numbers.size, [None, pa.py_buffer(numbers)])
            chunks.append(pa.FixedSizeListArray.from_arrays(flat, shard["dimension"]))
        return pa.concat_tables(ids), pa.chunked_array(chunks)

    def _check(self, table: pa.Table, name: str, of: str, stored: pa.Table, rows: np.ndarray) -> None:
        """Raise if no id matches, or if what was embedded has changed since. rows: of each id, NaN where unknown."""
        known, key = np.flatnonzero(rows == rows), table.column_names[0]
        if table.num_rows and not len(known):
            raise DataError(
                f"{self.path}: no {key} of the data has a {name}; it has ids such as {table[key][0].as_py()!r}, the "
                f"folder {stored['id'][0].as_py()!r}"
            )
        if of in table.column_names:
            then = stored["fingerprint"].to_numpy()[rows[known].astype(np.int64)]
            changed = fingerprints(table[of])[known] != then
            if changed.any():
                product = table[key][int(known[changed.argmax()])].as_py()
                raise DataError(
                    f"{self.path}: {of} of {key} {product!r} has changed since {name} was made "
                    f"({counted(changed.sum(), 'such row')}); embed the data again, into another folder"
                )


def fingerprints(column: pa.ChunkedArray) -> np.ndarray:
    """uint64 of each row: of a text, its hash; of a picture, its bytes' number or its file's name. 0 where missing."""
    import pandas as pd

    if is_image(column):
        sizes = pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), 0).to_numpy().astype(np.uint64)
        names = [PurePath(path or "").name for path in pc.struct_field(column, "path").to_pylist()]
        return np.where(sizes > 0, sizes, pd.util.hash_array(np.array(names, object)))
    return pd.util.hash_array(column.to_pandas().fillna("").to_numpy(object))


def with_vectors(splits: dict[str, RankedData], folder: str | Path) -> dict[str, RankedData]:
    """Splits with the vectors of a folder as columns."""
    vectors = VectorFolder.open(folder)
    return {name: vectors.add_to(data) for name, data in splits.items()}
