"""Files of public data sets, kept in the cache of huggingface_hub (HF_HOME), from which later calls read them."""

import re
import shutil
import sys
from fnmatch import filter as matching
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from gcl_toolkit.data.tabular import check_columns
from gcl_toolkit.errors import DataError, first_line


def local_or_hub(path: str | Path, patterns: list[str]) -> Path:
    """The folder `path`, or the files of the data set on the hub with this name that a pattern matches."""
    if Path(path).is_dir():
        return Path(path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise DataError(f"{path}: no such folder; a folder, or a data set on the hub, as mteb/nfcorpus, is expected")
    from huggingface_hub import constants, errors, snapshot_download

    from gcl_toolkit.data.sources.marqo_gs.remote import hub_errors

    with hub_errors(str(path)):
        try:
            return Path(snapshot_download(str(path), repo_type="dataset", allow_patterns=[*patterns, "README.md"]))
        except errors.LocalEntryNotFoundError as error:
            cause = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            raise DataError(f"{path}: not in the cache, {constants.ENDPOINT} can't be reached ({cause})") from None


def rows_of_queries(name: str, pattern: str, columns: list[str], queries: int, seed: int) -> Path:
    """A parquet file with the rows of some queries (column `query`) of a data set on the hub, their lists whole: only
    the row groups that hold them are fetched. The queries are chosen as those of MarqoGS."""
    from huggingface_hub import cached_assets_path

    from gcl_toolkit.data.sources.marqo_gs.remote import Repository, in_threads
    from gcl_toolkit.data.sources.marqo_gs.subset import Shard, plan

    stored = cached_assets_path("gcl_toolkit", name, "subsets") / f"{queries}-seed{seed}-{'+'.join(columns)}.parquet"
    if stored.exists():
        return stored
    repository = Repository.open(name)

    def shard(file: str) -> Shard:
        footer = repository.footer(file)
        check_columns(footer.schema.to_arrow_schema().names, columns, f"{name}, {file}")
        texts = repository.read(file, footer, [*range(footer.num_row_groups)], ["query"])
        return Shard("in_domain", file, footer, texts["query"])

    shards = sorted(in_threads(shard, matching(repository.sizes, pattern)), key=lambda shard: shard.file)
    if not shards:
        raise DataError(f"{name}: no {pattern}; is it the data set that is meant?")
    chosen = plan(shards, queries, seed)
    print(f"{name}: {chosen}", file=sys.stderr)

    def read(of_shard: tuple[Shard, list[int]]) -> pa.Table:
        table = repository.read(of_shard[0].file, of_shard[0].footer, of_shard[1], columns)
        return table.filter(pc.is_in(table["query"], value_set=chosen.chosen))

    groups = [(shard, groups.tolist()) for shard, groups in zip(shards, chosen.groups, strict=True) if len(groups)]
    beside = stored.with_suffix(".part")
    parquet.write_table(pa.concat_tables(in_threads(read, groups)), beside)
    beside.replace(stored)
    return stored


def downloaded(address: str, names: list[str]) -> Path:
    """The folder with the files of these names at an http address."""
    from urllib.request import urlopen

    from huggingface_hub import cached_assets_path

    folder = cached_assets_path("gcl_toolkit", re.sub(r"\W+", "-", address), "files")
    for name in names:
        if not (folder / name).exists():
            beside = folder / f"{name}.part"
            try:
                with urlopen(f"{address}/{name}", timeout=60) as answer, beside.open("wb") as file:
                    shutil.copyfileobj(answer, file)
                    expected = answer.headers.get("Content-Length")
            except OSError as error:
                raise DataError(f"{address}/{name} can't be fetched ({first_line(error)}); call again") from None
            if expected and int(expected) != beside.stat().st_size:
                raise DataError(f"{address}/{name}: {beside.stat().st_size:,} of {expected} bytes came; call again")
            beside.replace(folder / name)
    return folder
