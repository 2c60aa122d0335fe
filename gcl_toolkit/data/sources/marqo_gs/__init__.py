"""MarqoGS-10M, from the hub's parquet (also streamed) and from the tar's CSV and JSON."""

from __future__ import annotations

import re
from pathlib import Path

from gcl_toolkit.data.sources.marqo_gs.hub import Hub, read_hub, shards
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
    streaming: bool = False,
    fields: tuple[str, ...] | str = FIELDS,
    images: str | Path | None = None,
) -> dict[str, Tables]:
    """The splits of MarqoGS-10M: left field `query`; right fields `image` and `title`; score = score_linear.

    path:      a folder in the hub's or the tar's layout, or a hub id (default: the official one).
    queries:   keep this many queries in all, those whose text has the smallest seeded hash: the same ones from every
               layout, about 80/20 over the query parts. Each keeps its full list of products.
    seed:      of that choice, and of dev / test where no ground-truth file states them.
    streaming: read the hub's rows as they arrive instead of storing the full set first.
    fields:    the right fields to read, as "title" or "image+title"; without `image` no picture is read.
    images:    where the tar's pictures are (default: relative to its folder).

    in_domain and novel_query share one half of the products, novel_document and zero_shot the other: the corpus of a
    split is the entire half; for chosen queries, the products of both splits of the half. Where rows differ, the first
    title and image that aren't missing are kept. A pair listed twice keeps its best score. The tar's `..._gt_dev.json`
    and `..._gt_test.json` state the queries of each division; other queries have none.
    """
    path = HUB_ID if path is None else path
    fields = tuple(fields.split("+")) if isinstance(fields, str) else fields
    kind = layout(path)
    if kind == "tar":
        rows, corpora, divisions = read_tar(tar_folder(Path(path)), queries, seed, fields, images)
    elif kind or (re.fullmatch(r"[\w-]+/[\w.-]+", str(path)) and not Path(path).exists()):
        (rows, corpora), divisions = read_hub(Hub(path, streaming), queries, seed, fields), {}
    else:
        raise DataError(
            f"{path}: neither in_domain.parquet (or data/in_domain-00000-of-000NN.parquet) nor corpus_1.json found; "
            f"give a folder with MarqoGS files or a hub id such as {HUB_ID}"
        )
    card = {"source": "MarqoGS-10M", "path": str(path), "layout": kind or "hub", "queries": queries, "seed": seed}
    return assemble(rows, corpora, divisions, card)


def layout(path: str | Path) -> str | None:
    """ "hub" or "tar" when a folder holds MarqoGS in that layout."""
    if shards(Path(path)):
        return "hub"
    return "tar" if tar_folders(Path(path)) else None
