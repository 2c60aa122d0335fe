"""MarqoGS-10M, from the hub's parquet, there or here, and from the tar's CSV and JSON."""

import re
from pathlib import Path

from gcl_toolkit.data.sources.marqo_gs.cached import read_cached
from gcl_toolkit.data.sources.marqo_gs.hub import Folder, read_hub, shards
from gcl_toolkit.data.sources.marqo_gs.rows import assemble
from gcl_toolkit.data.sources.marqo_gs.tar import read_tar, tar_folder, tar_folders
from gcl_toolkit.data.sources.rows import Tables
from gcl_toolkit.errors import DataError

HUB_ID = "Marqo/marqo-GS-10M"
FIELDS = ("image", "title")


def recognizes(path: Path) -> bool:
    return layout(path) is not None


def tables(
    path: str | Path | None = None,
    queries: int | None = None,
    seed: int = 0,
    fields: tuple[str, ...] | str = FIELDS,
    images: str | Path | None = None,
    max_gb: float = 20,
) -> dict[str, Tables]:
    """The splits of MarqoGS-10M: left field `query`; right fields `image` and `title`; score = score_linear.

    path:    a folder in the hub's or the tar's layout, or a hub id (default: the official one).
    queries: keep this many queries in all, each with its full list of products: of a folder, those whose text has the
             smallest seeded hash, the same ones from both layouts; of the hub, these or blocks of neighbours (`plan`).
    seed:    of that choice, and of dev / test where no ground-truth file states them.
    fields:  the right fields to read, as "title" or "image+title"; without `image` no picture is read.
    images:  where the tar's pictures are (default: its folder, and folders images* beside and above it).
    max_gb:  how much may be fetched from the hub; everything is about 200 GB. It is kept in HF_HOME, so that a call
             goes on where one was interrupted, and a repeated one fetches nothing.

    in_domain and novel_query share one half of the products, novel_document and zero_shot the other: the corpus of a
    split is the entire half; for chosen queries, the products of both splits of the half. Where rows differ, the first
    title and image are kept; of a pair listed twice, the best score. The tar's `..._gt_*` state a query's division.
    """
    path = path or HUB_ID
    fields = tuple(fields.split("+")) if isinstance(fields, str) else fields
    kind, divisions, facts = layout(path), dict[str, dict](), dict[str, object]()
    if kind == "tar":
        rows, corpora, divisions = read_tar(tar_folder(Path(path)), queries, seed, fields, images)
    elif kind:
        rows, corpora = read_hub(folder := Folder(path, queries, seed), folder.columns(fields))
    elif re.fullmatch(r"[\w-]+/[\w.-]+", str(path)) and not Path(path).exists():
        rows, corpora, facts = read_cached(str(path), queries, seed, fields, max_gb)
    else:
        raise DataError(
            f"{path}: neither in_domain.parquet (or data/in_domain-*.parquet) nor corpus_1.json found; "
            f"give a folder with MarqoGS files or a hub id such as {HUB_ID}"
        )
    card = {"source": "MarqoGS-10M", "path": str(path), "layout": kind or "hub", "queries": queries, "seed": seed}
    return assemble(rows, corpora, divisions, card | facts)


def layout(path: str | Path) -> str | None:
    """ "hub" or "tar" when a folder holds MarqoGS in that layout."""
    if shards(Path(path)):
        return "hub"
    return "tar" if tar_folders(Path(path)) else None
