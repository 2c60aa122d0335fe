"""gcl embed."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.cli.common import app, console, progress
from gcl_toolkit.data.columns import is_image
from gcl_toolkit.data.imported import read_vectors
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.sources import load
from gcl_toolkit.data.vectors import SUFFIX, VectorFolder, fingerprints
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.models.embed import distinct, embed_into, tower
from gcl_toolkit.models.encoders import absolute_name


@app.command(name="embed")
def embed_command(
    data: str,
    encoder: str,
    out: Path = Path("vectors"),
    pretrained: str | None = None,
    fields: tuple[str, ...] = (),
    imported: Path | None = None,
) -> None:
    """Compute vectors of texts and pictures once, or import them, to train adapters on.

    Args:
        data: as in gcl train.
        encoder: as in gcl train; with --imported, the name of the model that made the vectors.
        out: folder of vectors, which several commands may fill; the same command continues a stopped one.
        pretrained: open_clip's tag or a checkpoint file.
        fields: columns of queries or products, by default query, image (if the encoder reads pictures) and title.
        imported: a file with the vectors of the one field: .jsonl, .parquet, or .npy or .safetensors with FILE.ids.txt.
    """
    splits, folder = load(data), VectorFolder.open(out) if (out / "manifest.json").is_file() else VectorFolder(out)
    spec = {"name": absolute_name(encoder), **({"pretrained": pretrained} if pretrained else {})}
    if imported:
        _import(folder, splits, fields, {**spec, "imported": imported.name}, imported)
    else:
        with progress() as bars:
            known = folder.fields.keys()  # nothing is loaded for what is there
            for side, field in _sides(splits, fields, lambda name: name in known or bool(tower(spec).image_shape)):
                bar = bars.add_task(f"{field} of {'queries' if side == 'left' else 'products'}", total=None)
                for done, total in embed_into(folder, splits, side, field, spec):
                    bars.update(bar, completed=done, total=total)
    for name, about in folder.fields.items():
        rows = sum(shard["rows"] for shard in about["shards"])
        console.print(
            f"{name}: {rows:,} vectors of {about['shards'][0]['dimension']} numbers, by {about['encoder']['name']}"
        )
    option = "," if ":" in data and "=" in data else ":"
    console.print(f"Next: gcl compare --encoder vectors --data {data}{option}vectors={out} --seeds 3")


def _sides(
    splits: dict[str, RankedData], fields: tuple[str, ...], pictures: Callable[[str], bool]
) -> list[tuple[str, str]]:
    """(side, field) of the fields to embed. pictures: whether those of a column of vectors can be."""
    found, of_side = [], _columns(splits)
    for field in fields or ("query", "image", "title"):
        sides = [side for side, columns in of_side.items() if field in columns]
        if fields and not sides:
            known = ", ".join(name for columns in of_side.values() for name in columns)
            raise DataError(f"no column {field!r} in the queries or products; there are {known}")
        found += [(side, field) for side in sides if not is_image(of_side[side][field]) or pictures(field + SUFFIX)]
    return found


def _columns(splits: dict[str, RankedData]) -> dict[str, dict[str, pa.ChunkedArray]]:
    """Side -> its fields with the column of the first split that has it."""
    data = [*splits.values()]
    return {
        "left": {name: part.queries[name] for part in reversed(data) for name in part.query_fields},
        "right": {name: part.corpus[name] for part in reversed(data) for name in part.corpus_fields},
    }


def _import(
    folder: VectorFolder, splits: dict[str, RankedData], fields: tuple[str, ...], encoder: dict, path: Path
) -> None:
    """The vectors of a file, in the order of the data, into the folder."""
    sides = _sides(splits, fields, lambda _: True)
    if len(fields) != 1 or len(sides) != 1:
        raise UserError(f"--imported holds the vectors of one field; name it with --fields ({len(sides)} are there)")
    ((side, field),) = sides
    ids, vectors, note = read_vectors(path)
    name, known = field + SUFFIX, 0
    if folder.begin(name, {"side": side, "of": field, "encoder": encoder}):
        raise UserError(f"{folder.path} has {name} already; choose another folder")
    for table, kept in distinct(splits, side, field):
        row = pc.index_in(table.column(0), value_set=ids.combine_chunks())
        kept &= row.is_valid().to_numpy()
        if kept.any():
            marks = pa.table({"id": table.column(0), "fingerprint": fingerprints(table[field])}).filter(pa.array(kept))
            folder.add(name, marks, vectors[row.filter(pa.array(kept)).to_numpy()])
            known += int(kept.sum())
    if not known:
        raise DataError(f"{path}: none of its {len(ids):,} ids is in the data; first {ids[0].as_py()!r}")
    folder.finish(name)
    if known < len(ids):
        console.print(f"note: {len(ids) - known:,} of {len(ids):,} vectors are of ids that the data lacks")
    if note:
        console.print(f"note: {note}")
