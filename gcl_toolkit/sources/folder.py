"""A folder of pictures whose sub-folders are named as what they show: mugs/red/1.jpg answers the query "red mugs"."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl_toolkit.errors import DataError
from gcl_toolkit.ranked_data import RankedData, four_way_split
from gcl_toolkit.sources.quarantine import obeyed
from gcl_toolkit.sources.rows import FORMATS, Tables, as_images

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def is_folder(path: str | Path) -> bool:
    """Whether pictures, and no tables, lie in a folder."""
    path = Path(path)
    if not path.is_dir() or any(file.suffix in FORMATS for file in (*path.glob("*"), *path.glob("*/*"))):
        return False
    return next((True for file in path.rglob("*") if _is_picture(file)), False)


def load(path: str | Path, seed: int = 0, quarantine: Path | None = None) -> dict[str, RankedData]:
    """The four splits."""
    (whole,) = obeyed(tables(path), quarantine).values()
    return four_way_split(whole.data(), seed=seed)


def tables(path: str | Path) -> dict[str, Tables]:
    """Every sub-folder that holds pictures is a query, every picture a product; the score of a pair is the number of
    folders that both lie in, so that red mugs come before blue ones, and both before plates. Pairs that share no folder
    are not listed; folders that all share don't count."""
    path = Path(path).absolute()
    files = sorted(file for file in path.rglob("*") if _is_picture(file))
    names = [file.relative_to(path).parent.parts for file in files]
    if not any(names):
        raise DataError(
            f"{path}: {len(files):,} pictures lie side by side; sub-folders named as what they show are expected, or a "
            "table with query, product_id, score and image"
        )
    shared = _shared(names)
    names = [parts[shared:] for parts in names]
    folders = sorted(set(names) - {()})
    if len(folders) < 2:
        raise DataError(f"{path}: all pictures lie in one folder; at least two, named as what they show, are expected")
    products = np.array([file.relative_to(path).as_posix() for file in files], object)
    images = as_images(pa.chunked_array([products.astype(str)]), path)
    texts = [" ".join(_words(part) for part in reversed(parts)) for parts in folders]
    return {
        "": Tables(
            pa.table({"query_id": ["/".join(parts) for parts in folders], "query": texts}),
            pa.table({"product_id": products.astype(str), "image": images}),
            _pairs(folders, names, products),
            path.name,
            {"name": path.name, "made": "of a folder of pictures", "score": "folders in common"},
        )
    }


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES and not file.name.startswith(".") and file.is_file()


def _words(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip()


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """How many names two paths share from the top on."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _shared(names: list[tuple[str, ...]]) -> int:
    return min(_common(names[0], parts) for parts in names)


def _pairs(folders: list[tuple[str, ...]], names: list[tuple[str, ...]], products: np.ndarray) -> pa.Table:
    by_folder: dict[tuple[str, ...], list[int]] = {}
    by_top: dict[str, list[tuple[str, ...]]] = {}
    for row, parts in enumerate(names):
        by_folder.setdefault(parts, []).append(row)
    for parts in folders:
        by_top.setdefault(parts[0], []).append(parts)
    query, rows, score = [], [], []
    for parts in folders:
        for other in by_top[parts[0]]:
            found = by_folder[other]
            rows += found
            query += ["/".join(parts)] * len(found)
            score += [float(_common(parts, other))] * len(found)
    return pa.table({"query_id": query, "product_id": products[rows].astype(str), "score": score})
