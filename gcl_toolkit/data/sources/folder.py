"""A folder of pictures in sub-folders that say what they show: mugs/red/1.jpg answers the query "red mugs"."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl_toolkit.data.columns import as_images
from gcl_toolkit.data.sources.rows import Tables
from gcl_toolkit.data.tabular import FORMATS
from gcl_toolkit.errors import DataError, counted

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
UNREADABLE = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".eps", ".dng", ".raw", ".cr2", ".nef", ".arw")
"""Endings of pictures that are not read, but reported."""


def recognizes(path: Path) -> bool:
    """Whether a folder holds pictures and, down to its sub-folders, no tables."""
    if not path.is_dir() or any(file.suffix in FORMATS for file in (*path.glob("*"), *path.glob("*/*"))):
        return False
    return any(file.suffix.lower() in PICTURES + UNREADABLE for file in _files(path))


def tables(path: str | Path) -> dict[str, Tables]:
    """Every sub-folder with pictures is a query, every picture a product; the score of a pair is the number of folders
    that both are in, so that red mugs rank above blue ones, and both above plates. Pairs without a common folder are
    not listed; folders that contain all pictures don't count."""
    path = Path(path).absolute()
    candidates = sorted(_files(path))
    files = [file for file in candidates if file.suffix.lower() in PICTURES]
    names = [file.relative_to(path).parent.parts for file in files]
    notes = _unread(path, candidates)
    if not any(names):
        raise DataError(
            f"{path}: {len(files):,} pictures outside of sub-folders; sub-folders named after what they show "
            f"are expected, or a table with query, product_id, score and image{''.join(f'; {note}' for note in notes)}"
        )
    shared = min(_common(names[0], parts) for parts in names)
    names = [parts[shared:] for parts in names]
    folders = sorted(set(names) - {()})
    if len(folders) < 2:
        raise DataError(
            f"{path}: all pictures are in one folder; at least two, named after what they show, are expected"
        )
    products = np.array([file.relative_to(path).as_posix() for file in files], object)
    images = as_images(pa.chunked_array([products.astype(str)]), path)
    texts = [" ".join(re.sub(r"[\s_\-]+", " ", part).strip() for part in reversed(parts)) for parts in folders]
    return {
        "": Tables(
            pa.table({"query_id": ["/".join(parts) for parts in folders], "query": texts}),
            pa.table({"product_id": products.astype(str), "image": images}),
            _pairs(folders, names, products),
            path.name,
            {"name": path.name, "made": "of a folder of pictures", "score": "folders in common"},
            notes=notes,
        )
    }


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if not file.name.startswith(".") and file.is_file()]


def _unread(path: Path, files: list[Path]) -> tuple[str, ...]:
    unread = [file for file in files if file.suffix.lower() not in PICTURES]
    if not unread:
        return ()
    endings = Counter(file.suffix.lower() or "no ending" for file in unread).most_common()
    counts = ", ".join(f"{count:,} {ending}" for ending, count in endings[:6])
    first = unread[0].relative_to(path)
    return (f"not read: {counted(len(unread), 'file')} ({counts}), such as {first}; convert pictures to JPEG or PNG",)


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """How many names two paths share from the top on."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


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
            rows += by_folder[other]
            query += ["/".join(parts)] * len(by_folder[other])
            score += [float(_common(parts, other))] * len(by_folder[other])
    return pa.table({"query_id": query, "product_id": products[rows].astype(str), "score": score})
