"""MarqoGS-10M from the hub: the real clients read replicas from a local server, which counts the bytes it serves."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from forks import Forks
from hub import Hub
from pyarrow import parquet
from replicas import MARQO, PARTS, marqo_replica

from gcl_toolkit.data.ranked_data import SPLITS
from gcl_toolkit.data.sources import load
from gcl_toolkit.data.sources.marqo_gs import remote
from gcl_toolkit.data.sources.marqo_gs.hub import numbered
from gcl_toolkit.data.sources.marqo_gs.subset import Shard, plan
from gcl_toolkit.errors import DataError, UserError

NAME = "Marqo/marqo-GS-10M"


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    """200 queries, sorted, in row groups of 100 rows; tests may read it only."""
    folder = tmp_path_factory.mktemp("replica")
    marqo_replica(folder, queries=200)
    return folder


@pytest.fixture
def hub(replica, tmp_path, monkeypatch):
    """A server for a copy of the replica, which this process uses, with an empty cache in tmp_path / "cache"."""
    folder = tmp_path / "hub"
    shutil.copytree(replica, folder)
    with Hub(folder) as server:
        server.use(monkeypatch, tmp_path / "cache")
        yield server


def files(folder: Path) -> list[Path]:
    return sorted((folder / MARQO / "data").glob("*.parquet"))


def bytes_of(folder: Path, queries: set[str]) -> tuple[int, int]:
    """The bytes of these queries' rows, and those of all footers and of all columns but the pictures."""
    own = light = 0
    for file in files(folder):
        rows = parquet.read_table(file)
        rows = rows.filter(pc.is_in(rows["query"], pa.array(queries, pa.string())))
        own += (pc.sum(pc.binary_length(pc.struct_field(rows["image"], "bytes"))).as_py() or 0) if rows.num_rows else 0
        footer = parquet.read_metadata(file)
        light += footer.serialized_size
        for group in map(footer.row_group, range(footer.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            light += sum(c.total_compressed_size for c in columns if not c.path_in_schema.startswith("image"))
    return own, light


def texts(splits: dict) -> set[str]:
    return {text for data in splits.values() for text in data.queries["query"].to_pylist()}


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queries", "listed", "row_group", "count"),
    [
        (2_000, 12, 100, 200),
        (2_000, 12, 1000, 800),
        pytest.param(20_000, 6, 100, 2_000, marks=pytest.mark.slow),
        pytest.param(20_000, 6, 1000, 2_000, marks=pytest.mark.slow),
    ],
)
def test_a_subset_of_sorted_files_costs_what_it_holds_and_once(
    tmp_path, monkeypatch, capsys, queries, listed, row_group, count
):
    folder = tmp_path / "hub"
    marqo_replica(folder, queries, listed=listed, row_group=row_group)
    with Hub(folder) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        splits = load("marqo_gs", queries=count)
        own, light = bytes_of(folder, texts(splits))
        assert len(texts(splits)) == count
        assert 0.5 * own < hub.bytes < 1.5 * own + light
        printed = capsys.readouterr().err
        assert f"{count:,} queries, {sum(data.qrels.num_rows for data in splits.values()):,} pairs, " in printed
        assert re.search(r"MB of pictures(, for which .* are read)?; titles only: ", printed)
        hub.reset()
        assert load("marqo_gs", queries=count) == splits
        assert (hub.bytes, hub.requests) == (0, [])
    assert load("marqo_gs", queries=count) == splits  # there is no hub any more


def test_chosen_queries_keep_their_whole_lists_and_pictures(hub):
    splits = load("marqo_gs", queries=40)
    every = load(hub.folder / MARQO)
    for name, data in splits.items():
        chosen = [row for row, text in enumerate(every[name].queries["query"].to_pylist()) if text in texts(splits)]
        whole = every[name].take_queries(np.array(chosen))
        assert data.qrels == whole.qrels
        pictures = dict(zip(whole.product_ids, whole.corpus["image"].to_pylist(), strict=True))
        assert data.corpus.num_rows
        assert all(row["image"] == pictures[row["product_id"]] for row in data.corpus.to_pylist())
    held_out = len(set(splits["zero_shot"].query_ids)) / 40
    assert held_out == pytest.approx(0.2)


def test_everything_is_the_same_as_from_a_folder(hub):
    assert load("marqo_gs") == load(hub.folder / MARQO)


@pytest.mark.parametrize("queries", [None, 40])
def test_titles_alone_read_no_picture(hub, queries):
    splits = load("marqo_gs", queries=queries, fields="title")
    assert splits["in_domain"].corpus_fields == ["title"]
    assert hub.bytes < bytes_of(hub.folder, set())[1] + 8 * (1 << 16)  # pyarrow reads 64 kB at the end of a file
    assert texts(splits) == texts(load("marqo_gs", queries=queries))  # the same queries, with and without pictures


def test_shuffled_files_cost_more_which_is_refused_before_a_picture_is_read(tmp_path, monkeypatch):
    """A row group of shuffled rows has a row of almost every list; no choice of whole lists can be cheap."""
    folder = tmp_path / "hub"
    repository = marqo_replica(folder, 500, sorted_by_query=False)
    with Hub(folder) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        with pytest.raises(UserError, match=r"for which \d+ MB are read.*far apart.*more than max_gb=0.005") as error:
            load("marqo_gs", queries=50, max_gb=0.005)
        assert "\n" not in str(error.value)
        assert hub.bytes < bytes_of(folder, set())[1]
        splits = load("marqo_gs", queries=50)
        assert splits == load(repository, queries=50)  # drawn alone, as from every other layout
        own, light = bytes_of(folder, texts(splits))
        assert hub.bytes - light > 5 * own


def test_a_draw_in_blocks_is_seeded_and_favours_no_query(replica):
    """Over 200 seeds every query is drawn equally often, whatever its list's length or scores."""
    shards = [
        Shard(split, file.name, parquet.read_metadata(file), parquet.read_table(file)["query"])
        for split in SPLITS
        for file in files(replica)
        if file.name.startswith(f"{split}-")
    ]
    plans = [plan(shards, 50, seed) for seed in range(200)]
    assert all(each.queries == 50 and each.block > 1 for each in plans)
    assert plan(shards, 50, 7).chosen == plans[7].chosen != plans[8].chosen
    lists = pc.value_counts(pa.concat_tables(pa.table({"q": shard.queries}) for shard in shards)["q"])
    length = dict(zip(lists.field("values").to_pylist(), lists.field("counts").to_pylist(), strict=True))
    drawn = dict.fromkeys(length, 0)
    for each in plans:
        for text in each.chosen.to_pylist():
            drawn[text] += 1
    share = np.array([drawn[text] for text in length]) / 200
    assert share.mean() == pytest.approx(0.25)
    assert share.max() < 0.25 + 5 * np.sqrt(0.25 * 0.75 / 200)
    assert share.min() > 0.25 - 5 * np.sqrt(0.25 * 0.75 / 200)
    assert abs(np.corrcoef(share, [*length.values()])[0, 1]) < 3 / np.sqrt(len(length))
    means = [np.mean([length[text] for text in each.chosen.to_pylist()]) for each in plans]
    assert np.mean(means) == pytest.approx(np.mean([*length.values()]), abs=4 * np.std(means) / np.sqrt(200))


def test_files_are_ordered_by_their_numbers_as_upstream_names_them():
    names = [f"data/in_domain-{n}.parquet" for n in range(12)]
    assert numbered(sorted(names), "there") == {"in_domain": names}
    with pytest.raises(DataError, match="in_domain has 11 of 12 files"):
        numbered(names[:5] + names[6:], "there")


# -- interruptions -----------------------------------------------------------------------------------------------------

KILLED = """
import contextlib, os, signal, sys
from pathlib import Path
from gcl_toolkit.data.sources import load
from gcl_toolkit.data.sources.marqo_gs import cached, remote
cached.PART_BYTES, remote.THREADS, point = 20_000, 2, sys.argv[1]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def progress(what, done, total):
    if point == "queries" and what.endswith("queries") and done == 3 or point in ("third", "two thirds"):
        if not what.endswith("queries") and done > total * len(point.split()) / 3: die()
        if point == "queries": die()
class Bar(contextlib.nullcontext):
    def __init__(self, what, total):
        super().__init__(self)
        self.what, self.total, self.done = what, total, 0
    def update(self, n=1):
        self.done += n
        progress(self.what, self.done, self.total)
cached._bar = Bar
if point == "write":
    store = Path.replace
    is_part = lambda path: path.parent.name == "parts" and path.name.startswith("novel_query")
    Path.replace = lambda path, to: die() if is_part(path) else store(path, to)
if point == "assembly":
    cached._write = die
load("marqo_gs", queries=40)
"""


def test_a_call_that_was_killed_goes_on_where_it_stopped(hub, tmp_path):
    processes = Forks(
        "gcl_toolkit.data.sources.marqo_gs.cached", "huggingface_hub.hf_api", **hub.env(tmp_path / "cache")
    )

    def run(point: str) -> tuple[int, int]:
        hub.reset()
        return processes.wait(processes.start(KILLED, point)[0]), hub.bytes

    points = ["queries", "third", "write", "two thirds", "assembly"]
    runs = [run(point) for point in points]
    assert [status for status, _ in runs] == [signal.SIGKILL] * 5
    assert run("never")[0] == 0
    processes.close()
    total = sum(served for _, served in runs)
    hub.reset()
    splits = load("marqo_gs", queries=40)
    assert hub.bytes == 0
    shutil.rmtree(tmp_path / "cache")
    assert load("marqo_gs", queries=40) == splits
    assert total < 1.6 * hub.bytes


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "RETRIES", remote.RETRIES | {"max_retries": 1, "base_wait_time": 0.01})


@pytest.mark.parametrize(
    ("pattern", "status"),
    [("GET /api/datasets", 503), ("GET /api/datasets", 429), ("cdn.*in_domain", 500), ("cdn.*zero", "drop")],
)
def test_a_request_that_fails_once_is_repeated(hub, impatient, replica, pattern, status):
    hub.fail(pattern, status, after=0 if "api" in pattern else 5)
    assert texts(load("marqo_gs", queries=40))


def test_a_redirection_that_has_expired_is_asked_for_again(hub):
    hub.fail("GET /cdn", 403, after=40)
    load("marqo_gs", queries=40)
    assert len({request for request in hub.requests if "/resolve/" in request}) == 8
    assert sum("/resolve/" in request for request in hub.requests) > 8


def spoil(hub, how):
    """Break the server or its files; returns what the error names."""
    first, last = files(hub.folder)[0], files(hub.folder)[-1]
    statuses = {
        "gated": ("resolve", 403, "access is restricted; accept its conditions"),
        "login": ("GET /api", 401, "access is restricted"),
        "busy": ("cdn", 429, "answers 429, too many requests"),
        "broken": ("cdn", 503, "answers 503, server error"),
        "dropped": ("cdn", "drop", "connection breaks"),
        "cut": ("cdn", "cut", "bytes came"),
        "file gone": ("resolve.*zero_shot", 404, r"zero_shot-0000\d-of-00002.parquet: .* doesn't have this file"),
    }
    if how in statuses:
        pattern, status, words = statuses[how]
        hub.fail(pattern, status, times=10_000)
        return words
    if how == "renamed":
        (hub.folder / MARQO).rename(hub.folder / "datasets/Marqo/other")
        return "has no such data set, or it is private; check the name"
    if how == "half a shard":
        first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
        return f"{first.name}: not a whole parquet file"
    if how == "shard missing":
        last.unlink()
        return "split zero_shot has 1 of 2 files; fetch the others"
    if how == "split missing":
        for file in files(hub.folder)[-2:]:
            file.unlink()
        return "no data/zero_shot-.*; its files are README.md"
    if how == "column missing":
        parquet.write_table(parquet.read_table(first).drop_columns(["score_linear"]), first)
        return f"{first.name}: column 'score_linear' is missing; it has image, query"
    if how == "rows missing":
        parquet.write_table(parquet.read_table(last)[:-7], last)
        return r"split zero_shot has 475 rows, its README states 482; is it being uploaded\?"
    raise ValueError(how)


@pytest.mark.parametrize(
    "how",
    [
        "gated",
        "login",
        "busy",
        "broken",
        "dropped",
        "cut",
        "file gone",
        "renamed",
        "half a shard",
        "shard missing",
        "split missing",
        "column missing",
        "rows missing",
    ],
)
def test_a_failure_is_one_clear_line(hub, impatient, how):
    words = spoil(hub, how)
    with pytest.raises(DataError, match=words) as error:
        load("marqo_gs", queries=40)
    assert "\n" not in str(error.value)
    assert NAME in str(error.value)


def test_without_a_network_the_error_says_so(hub, impatient, monkeypatch):
    from huggingface_hub import constants

    hub.__exit__()
    with pytest.raises(DataError, match=r"can't be reached or the connection breaks .*refused"):
        load("marqo_gs", queries=40)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="not in the cache, and HF_HUB_OFFLINE forbids to fetch it"):
        load("marqo_gs", queries=40)


FULL = """
import resource
from gcl_toolkit.data.sources import load
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
load("marqo_gs", queries=40)
"""


def test_a_full_disk_is_one_line(hub, tmp_path):
    env = hub.env(tmp_path / "cache")
    result = subprocess.run([sys.executable, "-c", FULL], env=env, capture_output=True, text=True)
    [line] = [line for line in result.stderr.splitlines() if "DataError" in line]
    assert "can't be written" in line
    assert "free some space or set HF_HOME to another disk" in line


def test_a_damaged_cache_is_named(hub, tmp_path):
    load("marqo_gs", queries=40)
    [rows] = (tmp_path / "cache").rglob("rows-in_domain.arrow")
    rows.write_bytes(rows.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"40-seed0-image\+title: can't be read .*; delete it, to fetch it again"):
        load("marqo_gs", queries=40)


# -- the server itself -------------------------------------------------------------------------------------------------

CLIENTS = """
from datasets import load_dataset
from huggingface_hub import HfApi, ModelCard, hf_hub_download
data = load_dataset("Marqo/marqo-GS-10M", split="zero_shot")
assert (data.num_rows, data[0]["image"].format) == (482, "JPEG"), data
data.select(range(3)).push_to_hub("tester/three")
assert load_dataset("tester/three", split="zero_shot").num_rows == 3
HfApi().create_repo("tester/model")
ModelCard("---\\nlicense: mit\\n---\\n# A model").push_to_hub("tester/model")
assert "A model" in open(hf_hub_download("tester/model", "README.md")).read()
"""


def test_datasets_reads_the_replica_and_pushes(hub, tmp_path):
    env = hub.env(tmp_path / "cache", token="hf_token")
    result = subprocess.run([sys.executable, "-c", CLIENTS], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (hub.folder / "models/tester/model/README.md").exists()
    assert {file.name.partition("-")[0] for file in files(hub.folder)} == PARTS.keys()
