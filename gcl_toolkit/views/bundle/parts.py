"""What every bundle holds, whoever made its rankings: tables, pictures, rankings, the manifest. No torch."""

import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from gcl_toolkit.data.fields import is_missing
from gcl_toolkit.data.pictures import open_image
from gcl_toolkit.data.ranked_data import RankedData, is_image
from gcl_toolkit.errors import UserError
from gcl_toolkit.files import sha256, writable_folder, write_json
from gcl_toolkit.measure import terms
from gcl_toolkit.measure.metrics import NDCG, measure_ranked, ranked_gains
from gcl_toolkit.measure.slices import slices
from gcl_toolkit.views.bundle.reading import DEPTH, SCHEMA, first_pair

THUMBNAIL = 192
"""Longest side of a stored picture, in pixels."""
NO_MODEL: dict[str, Any] = {"vectors": None, "history": False, "config": {}}
"""The manifest's entry of a system that is not a model."""


class Part(NamedTuple):
    """A split: its data, and the rows of its corpus and its queries in the bundle's tables."""

    data: RankedData
    items: slice
    queries: slice


def parts_of(splits: Mapping[str, RankedData]) -> dict[str, Part]:
    """Splits with the same corpus share its rows."""
    spans: dict[tuple, slice] = {}
    parts, items, queries = {}, 0, 0
    for split, data in splits.items():
        products = tuple(data.product_ids)
        if products not in spans:
            spans[products], items = slice(items, items + len(products)), items + len(products)
        parts[split] = Part(data, spans[products], slice(queries, queries + data.queries.num_rows))
        queries += data.queries.num_rows
    return parts


def corpora(parts: Mapping[str, Part]) -> list[pa.Table]:
    """The distinct corpora, in the order of their rows."""
    return list({part.items.start: part.data.corpus for part in parts.values()}.values())


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, which then takes the place of an older bundle. UserError for other files."""
    if out.exists() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise UserError(f"{out} holds other files but no bundle; choose another output folder")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    yield writable_folder(part)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def write_runs(
    data: RankedData, rankings: Mapping[str, np.ndarray], out: str | Path, *, control: str, category: str | None = None
) -> Path:
    """Write the bundle of some rankings (Q x K product rows, best first, padded with -1) of the products of `data`.

    The order of the systems is kept; control: the baseline; category: a text column of the corpus to slice by.
    """
    out, parts = Path(out), parts_of({"all": data})
    with replacing(out) as part:
        write_tables(part, parts, category)
        systems = {}
        for name, rows_QxK in rankings.items():
            depth = write_ranking(part / "systems" / name, parts, {"all": rows_QxK})
            systems[name] = {"about": "", "kind": "run", "depth": depth} | NO_MODEL
        write_manifest(part, parts, systems, control=control, unlisted="unjudged", world=data.name)
    return out


def write_tables(folder: Path, parts: Mapping[str, Part], category: str | None = None) -> None:
    """category: the corpus column of the slices by category; default "category"."""
    items = pa.concat_tables([_texts(corpus) for corpus in corpora(parts)], promote_options="default")
    with (folder / "thumbnails.bin").open("wb") as file:
        sizes = np.array([file.write(picture) for corpus in corpora(parts) for picture in _thumbnails(corpus)], int)
    for name, values in (("thumbnail_start", np.cumsum(sizes) - sizes), ("thumbnail_size", sizes)):
        items = items.append_column(name, pa.array(values, pa.int64()))
    queries, labels, qrels = [], [], []
    for split, (data, products, rows) in parts.items():
        queries.append(_texts(data.queries).add_column(0, "split", pa.array([split] * data.queries.num_rows)))
        labels.append(slices(data, category or ("category" if "category" in data.corpus_fields else None)).astype(str))
        query, product, score = data.pairs
        qrels.append(pa.table({"query": query + rows.start, "item": product + products.start, "score": score}))
    asked = pa.concat_tables(queries, promote_options="default")
    if "division" not in asked.column_names:
        asked = asked.append_column("division", pa.nulls(asked.num_rows, pa.string()))
    parquet.write_table(items, folder / "items.parquet")
    parquet.write_table(asked, folder / "queries.parquet")
    parquet.write_table(pa.concat_tables(qrels), folder / "qrels.parquet")
    pd.concat(labels, ignore_index=True).to_parquet(folder / "slices.parquet")


def _texts(table: pa.Table) -> pa.Table:
    """The text columns but those that the bundle adds itself; the id is the first."""
    names = [column.name for column in table.schema if pa.types.is_string(column.type)]
    return table.select([name for name in names if name not in ("split", "thumbnail_start", "thumbnail_size")])


def _thumbnails(corpus: pa.Table) -> Iterator[bytes]:
    """The first image field of every row as WebP; empty if it is missing or can't be read."""
    column = next((corpus[name] for name in corpus.column_names if is_image(corpus[name])), pa.nulls(corpus.num_rows))
    for value in column:
        out = io.BytesIO()
        try:
            if not is_missing(value.as_py()):
                image = open_image(value.as_py())
                image.thumbnail((THUMBNAIL, THUMBNAIL))
                image.save(out, "WEBP", quality=85, method=4)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            out = io.BytesIO()
        yield out.getvalue()


def write_ranking(folder: Path, parts: Mapping[str, Part], rankings: Mapping[str, np.ndarray]) -> int:
    """Write a system's ranking.npy from its ranking of each split (rows of that split's corpus); returns its depth."""
    folder.mkdir(parents=True, exist_ok=True)
    depth = min(max((rows_QxK.shape[1] for rows_QxK in rankings.values()), default=0), DEPTH)
    stored_QxK = np.full((max(part.queries.stop for part in parts.values()), depth), -1, np.int32)
    for split, rows_QxK in rankings.items():
        kept_QxK = rows_QxK[:, :depth]
        part = stored_QxK[parts[split].queries, : kept_QxK.shape[1]]
        part[:] = np.where(kept_QxK >= 0, kept_QxK + parts[split].items.start, -1)
    np.save(folder / "ranking.npy", stored_QxK, allow_pickle=False)
    return depth


def _opening(folder: Path, parts: Mapping[str, Part], a: str, b: str) -> dict[str, dict[str, int]]:
    """Of each split, a query (row) where a is clearly better than b, "win", and one where it is worse, "loss".

    Preferred are queries whose winner has listed products with pictures at its first five ranks.
    """
    pictured_N = parquet.read_table(folder / "items.parquet")["thumbnail_size"].to_numpy() > 0
    pictured_N |= not pictured_N.any()
    rankings = [np.load(folder / "systems" / name / "ranking.npy") for name in (a, b)]
    opening = {}
    for split, (data, items, queries) in parts.items():
        query, product, score = data.pairs
        gains = [ranked_gains(query, product + items.start, score, rows_QxK[queries]) for rows_QxK in rankings]
        values = [measure_ranked(gains_QxK, query, score, [NDCG @ 10]).to_numpy()[:, 0] for gains_QxK in gains]
        shows = [
            ((gains_QxK > 0) & pictured_N[rows_QxK[queries]])[:, :5].mean(1)
            for gains_QxK, rows_QxK in zip(gains, rankings, strict=True)
        ]
        reported_Q = _reported(data)
        sides = (("win", values[0] - values[1], shows[0]), ("loss", values[1] - values[0], shows[1]))
        opening[split] = {
            kind: int((gap_Q * (0.2 + shown_Q) * reported_Q).argmax()) + queries.start
            for kind, gap_Q, shown_Q in sides
            if (gap_Q * reported_Q).max(initial=0) > 0
        }
    return opening


def _reported(data: RankedData) -> np.ndarray:
    """The test queries, Q bools; all where there are none."""
    if "division" not in data.queries.column_names:
        return np.ones(data.queries.num_rows, bool)
    test_Q = data.queries["division"].to_numpy() == "test"
    return test_Q | (not test_Q.any())


def write_manifest(
    folder: Path, parts: Mapping[str, Part], systems: Mapping[str, Any], *, control: str | None, **about: Any
) -> None:
    """Write manifest.json, the last file of a bundle. about: what differs between bundles of studies and of runs."""
    data = next(iter(parts.values())).data
    texts = [name for name in ("query", *data.query_fields) if name in data.queries.column_names]
    manifest = {
        "schema": SCHEMA,
        "made": date.today().isoformat(),
        "study": {},
        "card": data.card,
        "title": next((n for n in ("title", "name") if n in data.corpus.column_names), "product_id"),
        "query": texts[0] if texts else "query_id",
        "splits": {
            split: {
                "about": terms.SPLITS.get(split, ""),
                "items": [items.start, items.stop],
                "queries": [queries.start, queries.stop],
            }
            for split, (_, items, queries) in parts.items()
        },
        "systems": systems,
        "control": control,
        "opening": _opening(folder, parts, *first_pair(systems, control)),
        "metrics": terms.METRICS,
        "glossary": terms.GLOSSARY,
        "files": {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()},
    }
    write_json(folder / "manifest.json", manifest | about)
