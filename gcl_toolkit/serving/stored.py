"""The products of a split as vectors, kept beside their model: later searches read neither data nor pictures."""

from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl_toolkit import __version__
from gcl_toolkit.data.ranked_data import is_image
from gcl_toolkit.data.sources import PATHS, spelt
from gcl_toolkit.models.model import GCLModel

VECTOR = "vector of the model"


def stored_products(
    folder: Path, model: GCLModel, source: str, split: str, read: Callable[[], pa.Table]
) -> tuple[pa.Table, np.ndarray]:
    """(the products without their pictures, their vectors N x D), from FOLDER/products/SPLIT.arrow.

    folder: the run or model folder that `model` was loaded from; read: the corpus of `split` of `source`, which is
    embedded and stored the first time, and again when the model's or the source's files have changed.
    """
    path, key = folder / "products" / f"{split}.arrow", _key(folder, source)
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid):
        table = None
    if table is None or (table.schema.metadata or {}).get(b"key") != key:
        table = _embedded(model, read()).replace_schema_metadata({"key": key})
        _write(table, path)
    numbers = np.from_dlpack(table[VECTOR].combine_chunks().flatten())  # to_numpy would import pandas
    return table.drop_columns(VECTOR), numbers.reshape(-1, model.dimension)


def _embedded(model: GCLModel, corpus: pa.Table) -> pa.Table:
    numbers = pa.array(model.embed(corpus, "right").ravel())
    texts = corpus.select([name for name in corpus.column_names if not is_image(corpus[name])])
    return texts.append_column(VECTOR, pa.FixedSizeListArray.from_arrays(numbers, model.dimension))


def _write(table: pa.Table, path: Path) -> None:
    """Written beside and renamed; a folder that can't be written to only makes the next search as slow as this one."""
    beside = path.with_suffix(".part")
    try:
        path.parent.mkdir(exist_ok=True)
        with pa.ipc.new_file(beside, table.schema) as writer:
            writer.write_table(table)
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()


def _key(folder: Path, source: str) -> bytes:
    """Changes with the model's weights and the files of the source; pictures elsewhere are not looked at."""
    name, options = spelt(source)
    places = [Path(name), *(Path(options[option]) for option in PATHS if option in options)]
    files = [file for place in places for file in (place, *place.rglob("*")) if file.is_file()]
    stats = [(file.name, file.stat()) for file in (*files, *folder.rglob("*.safetensors"))]
    facts = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return blake2b(repr((__version__, source, facts)).encode(), digest_size=16).hexdigest().encode()
