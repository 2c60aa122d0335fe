"""MarqoGS's tars as their authors publish them: paths of their machine, quoted titles, missing pictures."""

import csv
import gzip
import io
import json
import random
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import png
from hub import Hub

from gcl_toolkit import Fields, GCLModel, cli, train
from gcl_toolkit.data.columns import put
from gcl_toolkit.data.sources import load
from gcl_toolkit.data.sources.marqo_gs.fetch import fetch
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.models.inputs import Inputs

PLACE = "/MarqoData/google_shopping/images_wfash"
TITLES = ['mug, 12 oz; "blue"', "two\nlines", "Wärmflasche 北京 🧣", "", "plain", "a\ttab"]
STEMS = {"in_domain": (0, 0), "novel_query": (1, 0), "novel_document": (0, 1), "zero_shot": (1, 1)}


def picture(half: int, product: int) -> str:
    return f"{half}{product}.webp"


def write_set(folder, place=PLACE, queries=4):
    """The CSV and JSON files of one subset, as pandas writes them with every value quoted."""
    folder.mkdir(parents=True)
    for half in (0, 1):
        corpus = {
            f"{half}{product}": {"title": title, "image_local": f"{place}/{picture(half, product)}", "price": None}
            for product, title in enumerate(TITLES)
        }
        (folder / f"corpus_{half + 1}.json").write_text(json.dumps(corpus))
    for q, half in STEMS.values():
        with (folder / f"query_{q}_product_id_{half}.csv").open("w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(["query", "product_id", "position", "title", "score_linear", "query_id", "image_local"])
            for query in range(queries):
                for at in range(3):
                    product = (query + at) % len(TITLES)
                    row = [f"query {q}, “{query}”", f"{half}{product}", at + 1, TITLES[product], 100 - at]
                    writer.writerow([*row, 10 * q + query, f"{place}/{picture(half, product)}"])
    return folder


def write_pictures(folder, halves=(0, 1)):
    folder.mkdir(parents=True)
    for half in halves:
        for product in range(len(TITLES)):
            (folder / picture(half, product)).write_bytes(png(10 * half + product))
    return folder


@pytest.fixture
def wfash(tmp_path):
    return write_set(tmp_path / "marqo-gs-dataset" / "marqo_gs_wfash_1m")


def shown(data):
    """Product -> (title, bytes of the picture's file or None)."""
    rows = data.corpus.to_pylist()
    return {row["product_id"]: (row["title"], Path(row["image"]["path"]).read_bytes()) for row in rows}


def test_quoted_titles_and_queries_are_read_whole(wfash):
    data = load(wfash, fields="title")["in_domain"]
    assert data.corpus["title"].to_pylist() == TITLES
    assert data.queries["query"].to_pylist() == [f"query 0, “{query}”" for query in range(4)]


@pytest.mark.parametrize(
    "where", ["images_wfash", "marqo-gs-dataset/images_wfash", "marqo-gs-dataset/marqo_gs_wfash_1m/i"]
)
def test_pictures_are_found_beside_above_and_inside_the_set(wfash, tmp_path, where):
    write_pictures(tmp_path / where)
    splits = load(wfash)
    expected = {f"1{product}": (title, png(10 + product)) for product, title in enumerate(TITLES)}
    assert shown(splits["zero_shot"]) == expected
    assert splits["in_domain"].card["notes"] == [
        f"6 of 6 pictures of corpus_1.json found, the last in {tmp_path / where}"
    ]


def test_the_longest_shared_suffix_decides_between_pictures_of_one_name(tmp_path):
    """With products/a/00.webp and products/b/00.webp, a name alone doesn't say which picture it is."""
    folder = write_set(tmp_path / "marqo_gs_wfash_1m", place="/Data/products/a")
    for letter, first in (("b", 50), ("a", 0)):
        write_pictures(tmp_path / "unpacked" / "products" / letter)
        for half in (0, 1):
            for product in range(len(TITLES)):
                colour = png(first + 10 * half + product)
                (tmp_path / "unpacked" / "products" / letter / picture(half, product)).write_bytes(colour)
    assert shown(load(folder, images=tmp_path / "unpacked")["in_domain"])["03"][1] == png(3)
    corpus = json.loads((folder / "corpus_1.json").read_text())
    corpus["04"]["image_local"] = "/Data/products/c/03.webp"  # not there: neither a/ nor b/ has it
    (folder / "corpus_1.json").write_text(json.dumps(corpus))
    data = load(folder, images=tmp_path / "unpacked")["in_domain"]
    assert "5 of 6 pictures of corpus_1.json" in data.card["notes"][0]
    assert "missing: 1, first /Data/products/c/03.webp" in data.card["notes"][0]


def test_paths_that_exist_here_are_kept(tmp_path):
    folder = write_set(tmp_path / "set", place=str(write_pictures(tmp_path / "elsewhere")))
    assert shown(load(folder)["in_domain"])["01"][1] == png(1)


def test_a_missing_picture_is_counted_and_keeps_the_path_where_it_should_be(wfash, tmp_path):
    images = write_pictures(tmp_path / "images_wfash")
    (images / picture(0, 2)).unlink()
    data = load(wfash)["in_domain"]
    assert data.corpus["image"][2].as_py()["path"] == str(images / picture(0, 2))
    assert f"missing: 1, first {PLACE}/02.webp" in data.card["notes"][0]
    assert load(wfash)["zero_shot"].card["notes"][0].startswith("6 of 6 pictures")


def test_no_picture_at_all_is_an_error_that_names_the_tar_to_unpack(wfash, tmp_path):
    with pytest.raises(DataError, match=r"none of 6 pictures found, first /Marqo.*00.webp; searched: .*images=FOLDER"):
        load(wfash)
    with tarfile.open(tmp_path / "images_wfash.tar", "w") as tar:
        tar.add(write_pictures(tmp_path / "packed"), "images_wfash")
    with pytest.raises(
        DataError, match=f"unpack it: tar -xf {tmp_path}/images_wfash.tar -C {tmp_path}, or .*fields=title"
    ):
        load(wfash)
    with tarfile.open(tmp_path / "images_wfash.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    assert shown(load(wfash)["in_domain"])["05"][1] == png(5)


# -- fetching the tars -------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """The two tars of the women's fashion subset on a server; pictures of 40 kB, so that a half is many reads."""
    repository = tmp_path / "server" / "datasets" / "someone" / "tars"
    repository.mkdir(parents=True)
    packed = tmp_path / "packed"
    write_set(packed / "marqo_gs_full_10m", queries=2)
    write_set(packed / "marqo_gs_wfash_1m")
    images = write_pictures(packed / "images_wfash")
    noise = random.Random(0)
    for number in range(400):
        (images / f"other{number}.webp").write_bytes(noise.randbytes(40_000))
    with tarfile.open(repository / "marqo-gs-dataset.tar", "w") as tar:
        tar.add(packed, "marqo-gs-dataset", filter=lambda member: None if "images" in member.name else member)
    with tarfile.open(repository / "images_wfash.tar", "w") as tar:
        tar.add(images, "images_wfash")
    with Hub(tmp_path / "server") as hub:
        hub.base = f"{hub.endpoint}/datasets/someone/tars/resolve/main"
        hub.tars = repository
        yield hub


def fetched(server, out, **options):
    return fetch("wfash", out, lambda *_: None, base=server.base, **options)


def all_files(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_subset_is_unpacked_and_read(server, tmp_path):
    folder, note = fetched(server, tmp_path / "out")
    assert note == f"12 of 12 pictures found in {tmp_path / 'out' / 'images_wfash'}"
    assert shown(load(folder)["zero_shot"])["13"] == (TITLES[3], png(13))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images_wfash", "marqo_gs_wfash_1m"]
    assert len(all_files(tmp_path / "out" / "images_wfash")) == 12 + 1  # the set's own pictures, and the state
    server.reset()
    assert fetched(server, tmp_path / "out")[1] == note
    assert server.requests == []


def test_titles_alone_leave_the_tar_of_pictures_unread(server, tmp_path):
    folder, _ = fetched(server, tmp_path / "out", titles_only=True)
    assert not any("images" in path for path, _ in server.served)
    assert load(folder, fields="title")["in_domain"].corpus["title"].to_pylist() == TITLES


def test_queries_choose_the_pictures_that_load_asks_for(server, tmp_path):
    folder, note = fetched(server, tmp_path / "out", queries=1, seed=3)
    assert note.startswith("6 of 6 pictures")  # three products in each half
    notes = [data.card["notes"][0] for data in load(folder, queries=1, seed=3).values()]
    assert all(note.startswith("3 of 3 pictures") for note in notes)
    assert fetched(server, tmp_path / "out")[1].startswith("12 of 12 pictures")  # a wider choice reads the tar again


KILLED = """
import os, signal, sys
from pathlib import Path
from gcl_toolkit.data.sources.marqo_gs.fetch import fetch
def progress(name, at, size):
    if name == sys.argv[3] and at >= size * float(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
fetch("wfash", Path(sys.argv[1]), progress, base=sys.argv[2])
"""


@pytest.mark.parametrize(("tar", "share"), [("marqo-gs-dataset.tar", 0.0), ("images_wfash.tar", 0.5)])
def test_a_killed_call_continues_where_it_stopped(server, tmp_path, tar, share):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out"), server.base, tar, str(share)]
    assert subprocess.run(command).returncode == -9
    server.reset()
    _, note = fetched(server, tmp_path / "out")
    assert note.startswith("12 of 12 pictures")
    size = (server.tars / "images_wfash.tar").stat().st_size
    again = sum(count for path, count in server.served if path.endswith("images_wfash.tar"))
    assert again <= size * (1 - share)
    fetched(server, tmp_path / "whole")
    assert all_files(tmp_path / "out") == all_files(tmp_path / "whole")


@pytest.mark.parametrize(("fault", "times"), [("drop", 2), ("cut", 2), (503, 2), (429, 1)])
def test_a_connection_that_breaks_is_resumed(server, tmp_path, fault, times):
    server.fail("GET /cdn/.*images", fault, times)
    assert fetched(server, tmp_path / "out")[1].startswith("12 of 12 pictures")


def test_a_path_that_leads_out_of_the_folder_is_not_written(server, tmp_path):
    with tarfile.open(server.tars / "images_wfash.tar", "w") as tar:
        for name in ("images_wfash/../../../00.webp", "/images_wfash/01.webp"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"bad"))
    with pytest.raises(DataError, match=r"images_wfash.tar: .*00.webp.* outside the destination"):
        fetched(server, tmp_path / "out")
    assert not (tmp_path / "00.webp").exists()


def test_links_and_devices_are_not_unpacked(server, tmp_path):
    with tarfile.open(server.tars / "images_wfash.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("images_wfash/00.webp")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.add(tmp_path / "packed" / "images_wfash" / "01.webp", "/images_wfash/01.webp")
    assert fetched(server, tmp_path / "out")[1].startswith("1 of 12 pictures")
    assert {*all_files(tmp_path / "out" / "images_wfash")} == {"01.webp", ".fetch.json"}


def spoil(server, how, out):
    tar = server.tars / "images_wfash.tar"
    if how == "missing":
        tar.unlink()
    if how == "cut":
        tar.write_bytes(tar.read_bytes()[:100_000])
    if how == "cut between two files":
        with tarfile.open(tar) as opened:
            end = opened.getmembers()[3].offset
        tar.write_bytes(tar.read_bytes()[:end])
    if how == "compressed":
        tar.write_bytes(gzip.compress(tar.read_bytes()[:10_000]))
    if how == "another set":
        with tarfile.open(tar, "w") as opened:
            opened.add(server.tars, "empty", recursive=False)
    if how == "replaced":
        fetched(server, out)
        state = json.loads((out / "images_wfash" / ".fetch.json").read_text())
        (out / "images_wfash" / ".fetch.json").write_text(json.dumps({**state, "at": 512}))
        tar.write_bytes(tar.read_bytes() + bytes(512))
    if how == "down":
        server.fail("GET /cdn/.*images", 500, 99)
    if how == "forbidden":
        server.fail("GET /cdn/.*images", 403, 1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "images_wfash.tar can't be read: the server answers 404"),
        ("forbidden", "the server answers 403"),
        ("down", "the server answers 500"),
        ("cut", "images_wfash.tar: unexpected end of data; a whole, uncompressed tar"),
        ("cut between two files", "neither a file nor the end at byte"),
        ("compressed", "a whole, uncompressed tar is expected"),
        ("another set", "has none of 12 pictures of marqo_gs_wfash_1m, first 00.webp"),
        ("replaced", "has changed since the last call; remove .*images_wfash"),
    ],
)
def test_what_can_go_wrong_is_one_line(server, tmp_path, monkeypatch, how, message):
    monkeypatch.setattr("time.sleep", lambda _: None)
    spoil(server, how, tmp_path / "out")
    with pytest.raises(UserError, match=message) as error:
        fetched(server, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_full_disk_is_one_line_and_the_next_call_continues(server, tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2); import signal;"
    code += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + KILLED
    (tmp_path / "packed" / "images_wfash" / "00.webp").write_bytes(bytes(50_000))
    with tarfile.open(server.tars / "images_wfash.tar", "w") as tar:
        tar.add(tmp_path / "packed" / "images_wfash", "images_wfash")
    command = [sys.executable, "-c", code, str(tmp_path / "out"), server.base, "", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "File too large; the same command continues where it stopped" in done.stderr.splitlines()[-1]
    assert fetched(server, tmp_path / "out")[1].startswith("12 of 12")


def test_the_command_says_what_it_found_and_what_comes_next(server, tmp_path, capsys):
    cli.main(["data", "fetch", "marqo_gs", "--subset", "wfash", "--out", str(tmp_path), "--base", server.base])
    shown = capsys.readouterr().out
    assert f"12 of 12 pictures found in {tmp_path}/images_wfash" in shown
    assert f"next: gcl train --data {tmp_path}/marqo_gs_wfash_1m" in shown


# -- training ----------------------------------------------------------------------------------------------------------


def without_pictures(tmp_path, missing):
    """The training split, of which some of the six pictures are not there any more."""
    folder = write_set(tmp_path / "marqo_gs_wfash_1m")
    images = write_pictures(tmp_path / "images_wfash")
    data = load(folder)["in_domain"]
    for product in range(missing):
        (images / picture(0, product)).unlink()
    return replace(data, corpus=put(data.corpus, "title", pa.array([f"title {n}" for n in range(6)])))


@pytest.mark.parametrize("late", [False, True])
def test_training_stops_when_most_pictures_are_missing(tmp_path, monkeypatch, late):
    if late:  # a column that is larger than the memory for pictures is decoded at each use
        monkeypatch.setattr(Inputs.__init__, "__kwdefaults__", Inputs.__init__.__kwdefaults__ | {"cache_bytes": 0})
    model = GCLModel("small:image_size=16,width=8", right=Fields(image=0.5, title=0.5))
    with pytest.raises(DataError, match=r"4 of 6 pictures can't be read: .*images_wfash/0..webp.*--right title=1"):
        next(train(model, without_pictures(tmp_path / "a", 4), steps=1, batch=4))
    images_alone = GCLModel("small:image_size=16,width=8", right=Fields(image=1.0))
    with pytest.raises(DataError, match="4 of 6 pictures"):  # though products without a field are an error, too
        next(train(images_alone, without_pictures(tmp_path / "c", 4), steps=1, batch=4))
    with pytest.warns(UserWarning, match="3 unreadable pictures"):
        next(train(model, without_pictures(tmp_path / "b", 3), steps=1, batch=4))
