"""Public data sets in the layouts in which they are published, on a server that answers as the hub does."""

import csv
import json
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pyarrow as pa
import pytest
from conftest import png, ranked
from hub import Hub
from pyarrow import parquet

from gcl_toolkit import Fields, GCLModel, cli, train
from gcl_toolkit.data.columns import is_image, is_vector
from gcl_toolkit.data.ranked_data import SPLITS
from gcl_toolkit.data.sources import SOURCES, layout_of, load
from gcl_toolkit.data.sources.check import check
from gcl_toolkit.data.sources.sets import CARDS, SETS
from gcl_toolkit.data.sources.table import write
from gcl_toolkit.errors import DataError

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as server:
        server.use(monkeypatch, tmp_path / "cache")
        yield server


def put(hub, name, file, rows, schema=None):
    """A parquet file of a data set on the hub."""
    path = hub.folder / "datasets" / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema), path)


def scores(data):
    return {(r["query_id"], r["product_id"]): r["score"] for r in data.qrels.to_pylist()}


# -- Marqo's evaluation sets -------------------------------------------------------------------------------------------

LISTED = pa.schema(
    {"image": PICTURE, "item_ID": pa.string(), "query": pa.string(), "title": pa.string(), "position": pa.int64()}
)


def put_marqo(hub, name):
    rows = [
        {
            "image": {"bytes": png(10 * query + at), "path": f"{at}.jpg"},
            "item_ID": f"B{query}{at}",
            "query": f"category {query}",
            "title": f"title {query} {at}",
            "position": at,
        }
        for query in range(6)
        for at in range(1, 5)
    ]
    for shard in range(2):
        put(hub, name, f"data/data-{shard:05}-of-00002-ab12.parquet", rows[shard::2], LISTED)


@pytest.mark.parametrize("source", ["amazon_eval", "amazon_eval_100k", "google_shopping_eval"])
def test_marqos_evaluation_sets_have_pictures_titles_and_positions(hub, source):
    put_marqo(hub, SETS[source].pairs.place)
    data = load(source)["zero_shot"]
    assert data.corpus_fields == ["image", "title"]
    row = {r["product_id"]: r for r in data.corpus.to_pylist()}["B32"]
    assert (row["title"], row["image"]["bytes"]) == ("title 3 2", png(32))
    assert [scores(data)["category 3", f"B3{at}"] for at in range(1, 5)] == [100, 99, 98, 97]
    assert data.qrels["position"].to_pylist()[:2] == [1, 3]
    assert (data.card["licence"], data.card["source"]) == ("not stated", SETS[source].pairs.place)
    assert {*load(f"{source}:fields=title")["zero_shot"].corpus.column_names} == {"product_id", "title"}


def test_a_subset_has_whole_lists_and_is_all_that_is_fetched(hub):
    """200 queries of 5 pictures of 4 kB, in row groups of 50 rows."""
    noise = np.random.default_rng(0)
    rows = [
        {"item_ID": f"B{q}-{at}", "query": f"category {q}", "title": f"title {q} {at}", "position": at}
        | {"image": {"bytes": noise.bytes(4000), "path": None}}
        for q in range(200)
        for at in (1, 2, 3, 150, 4)
    ]
    for shard in range(2):
        table = pa.Table.from_pylist(rows[500 * shard : 500 * shard + 500], LISTED)
        file = hub.folder / "datasets" / "Marqo" / "amazon-products-eval" / "data" / f"data-{shard:05}-of-00002.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, file, row_group_size=50)
    data = load("amazon_eval:queries=20")["zero_shot"]
    assert (data.queries.num_rows, data.corpus.num_rows, data.qrels.num_rows) == (20, 100, 100)
    texts = set(data.query_ids)
    expected = {(r["query"], r["item_ID"]): max(101 - r["position"], 1) for r in rows if r["query"] in texts}
    assert scores(data) == expected
    images = {row["product_id"]: row["image"]["bytes"] for row in data.corpus.to_pylist()}
    assert images == {r["item_ID"]: r["image"]["bytes"] for r in rows if r["query"] in texts}
    assert hub.bytes < 0.75 * 1000 * 4000
    [stored] = (hub.folder.parent / "cache").rglob("20-seed0-*.parquet")
    assert parquet.read_metadata(stored).num_rows == 100
    hub.reset()
    assert load("amazon_eval:queries=20")["zero_shot"] == data
    assert hub.requests == []
    assert load("amazon_eval:queries=20,fields=title")["zero_shot"].corpus_fields == ["title"]
    assert hub.bytes < 400_000  # the ends of the files, which are read for their footers


def test_the_second_call_needs_no_hub(hub):
    put_marqo(hub, "Marqo/amazon-products-eval")
    first = load("amazon_eval")
    hub.reset()
    hub.fail("", 503, 1000)
    assert load("amazon_eval") == first
    assert hub.bytes < 10_000  # no file, only answers that the hub is down


def test_a_set_can_be_divided_to_train_on(hub):
    put_marqo(hub, "Marqo/amazon-products-eval")
    splits = load("amazon_eval:whole=false")
    assert set(splits) <= {*SPLITS}
    model = GCLModel("small:image_size=16,width=8", right=Fields(image=0.5, title=0.5))
    assert next(train(model, splits["in_domain"], steps=1, batch=4))["loss"] > 0


# -- SQID and ESCI -----------------------------------------------------------------------------------------------------

VECTORS = pa.list_(pa.float32())
JUDGED = [("q1", "A", "Exact"), ("q1", "B", "Substitute"), ("q1", "C", "Complement"), ("q2", "A", "Irrelevant")]


def vector(number):
    return np.random.default_rng(number).normal(size=8).astype(np.float32).tolist()


def example(query, product, label, **other):
    own = {"query": f"text of {query}", "query_id": int(query[1:]), "product_id": product, "esci_label": label}
    return own | {"product_locale": "us", "small_version": 1, "large_version": 1} | other


def sqid_tables():
    """(examples, products, features of products, features of queries, addresses)"""
    examples = [example(*pair) for pair in JUDGED]
    examples += [example("q3", "D", "Exact", small_version=0), example("q4", "E", "Exact", product_locale="jp")]
    products = [
        {"product_id": p, "product_title": f"title {p}", "product_brand": "b", "product_color": None} for p in "ABCX"
    ]
    of_products = [
        {"product_id": p, "clip_text_features": vector(n), "clip_image_features": None if p == "C" else vector(10 + n)}
        for n, p in enumerate("ABC")
    ]
    of_queries = [{"query_id": str(q), "clip_text_features": vector(20 + q)} for q in (1, 2, 3)]
    return examples, products, of_products, of_queries, [{"product_id": "A", "image_url": "https://x/a.jpg"}]


FEATURES = pa.schema({"product_id": pa.string(), "clip_text_features": VECTORS, "clip_image_features": VECTORS})


@pytest.fixture
def sqid(hub):
    examples, products, of_products, of_queries, urls = sqid_tables()
    titles = {row["product_id"]: row for row in products}
    flat = [row | titles.get(row["product_id"], titles["X"] | {"product_id": row["product_id"]}) for row in examples]
    for shard in range(2):
        put(hub, "tasksource/esci", f"data/test-{shard:05}-of-00002-d48.parquet", flat[shard::2])
    name = "crossingminds/shopping-queries-image-dataset"
    put(hub, name, "data/product_features.parquet", of_products, FEATURES)
    put(hub, name, "data/query_features.parquet", of_queries)
    put(hub, name, "data/product_image_urls.parquet", urls)
    return hub


def test_sqid_has_grades_texts_addresses_and_vectors(sqid):
    data = load("sqid")["zero_shot"]
    assert scores(data) == {("1", "A"): 1.0, ("1", "B"): 0.1, ("1", "C"): 0.01, ("2", "A"): 0.0}
    assert sorted(data.queries["query"].to_pylist()) == ["text of q1", "text of q2"]
    rows = {row["product_id"]: row for row in data.corpus.to_pylist()}
    assert (rows["A"]["title"], rows["A"]["image_url"], rows["B"]["image_url"]) == ("title A", "https://x/a.jpg", None)
    assert is_vector(data.corpus["image_clip"])
    np.testing.assert_array_equal(rows["B"]["image_clip"], np.array(vector(11), np.float32))
    assert rows["C"]["image_clip"] is None
    assert is_vector(data.queries["query_clip"])
    assert "MIT" in data.card["licence"]
    assert data.card["notes"] == [
        "column 'query_clip' is read as vectors of float32"
    ]  # the replica has them in float64


def test_of_sqid_only_the_wanted_fields_are_fetched(sqid):
    data = load("sqid:fields=title")["zero_shot"]
    assert data.corpus_fields == ["title"]
    assert not any("product_features" in path for path, _ in sqid.served)


def test_sqid_beside_the_files_of_esci_on_disk(tmp_path):
    examples, products, of_products, of_queries, urls = sqid_tables()
    short = [row | {"esci_label": row["esci_label"][0], "split": "test"} for row in examples]
    short += [example("q1", "X", "E", split="train")]
    files = {
        "shopping_queries_dataset_examples": short,
        "shopping_queries_dataset_products": [row | {"product_locale": "us"} for row in products],
        "query_features": of_queries,
    }
    for name, rows in files.items():
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    parquet.write_table(pa.Table.from_pylist(of_products, FEATURES), tmp_path / "product_features.parquet")
    with (tmp_path / "product_image_urls.csv").open("w") as file:
        csv.writer(file).writerows([["product_id", "image_url"], *(row.values() for row in urls)])
    data = load(tmp_path)["zero_shot"]
    assert scores(data) == {("1", "A"): 1.0, ("1", "B"): 0.1, ("1", "C"): 0.01, ("2", "A"): 0.0}
    assert data.corpus["title"].to_pylist() == ["title A", "title B", "title C"]
    assert data.corpus_fields == ["title", "brand", "color", "image_url", "title_clip", "image_clip"]
    assert f"{tmp_path}: read as sqid, zero_shot" in check(tmp_path)[0]


# -- WANDS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wands(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    tables = {
        "query": [
            ("query_id", "query", "query_class"),
            (0, "salon chair", "Massage Chairs"),
            (1, "3 1/2 inch pull", ""),
        ],
        "product": [
            ("product_id", "product_name", "product_class", "category hierarchy", "product_description"),
            (7, '3-5/8" centers pull', "Pulls", "Home / Pulls", "solid, with\ttabs"),
            (8, "salon chair", "Chairs", "Furniture", "two\nlines; semicolon"),
            (9, "not judged", "", "", ""),
        ],
        "label": [
            ("id", "query_id", "product_id", "label"),
            (0, 0, 8, "Exact"),
            (1, 0, 7, "Irrelevant"),
            (2, 1, 7, "Partial"),
            (3, 1, 7, "Exact"),
        ],
    }
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows(rows)
    return folder


def test_wands_is_read_from_its_three_files(wands):
    data = load(wands)["zero_shot"]
    assert data == load(f"wands:path={wands}")["zero_shot"]
    assert scores(data) == {("0", "8"): 2, ("0", "7"): 0, ("1", "7"): 2}
    assert data.card["notes"] == ["pairs repeated in 1 row; the best score is kept"]
    rows = {row["product_id"]: row for row in data.corpus.to_pylist()}
    assert rows["7"]["title"] == '3-5/8" centers pull'
    assert rows["7"]["category"] == "Home / Pulls"
    assert rows["8"]["description"] == "two\nlines; semicolon"
    assert {*rows} == {"7", "8", "9"}
    assert data.queries["query"].to_pylist() == ["salon chair", "3 1/2 inch pull"]


def test_wands_is_fetched_once(wands, hub, monkeypatch):
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=wands))
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    own = SETS["wands"]
    parts = {name: tuple(replace(f, place=address) for f in getattr(own, name)) for name in ("queries", "products")}
    monkeypatch.setitem(SETS, "wands", replace(own, pairs=replace(own.pairs, place=address), **parts))
    data = load("wands")
    server.shutdown()
    server.server_close()
    assert load("wands") == data
    assert scores(data["zero_shot"])["0", "8"] == 2
    (hub.folder.parent / "cache").rename(hub.folder.parent / "moved")
    with pytest.raises(DataError, match=rf"{address}/label.csv can't be fetched \(.*refused.*\); call again"):
        load("wands")


# -- BEIR, MTEB and M-BEIR in parquet ----------------------------------------------------------------------------------

QRELS = [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d2", 1)]


def put_beir(hub, name, places, picture=False, id_="_id", prefix=""):
    """places: of corpus, queries, and qrels by split."""
    texts = [{id_: f"d{n}", "title": f"title {n}", "text": f"text {n}"} for n in range(1, 4)]
    queries = [{id_: f"q{n}", "text": f"query {n}"} for n in range(1, 5)]
    schema = pa.schema({id_: pa.string(), "modality": pa.string(), "text": pa.string(), "image": PICTURE})
    if picture:
        texts = [
            {id_: f"d{n}", "modality": "image", "text": None, "image": {"bytes": png(n), "path": None}}
            for n in range(1, 4)
        ]
    put(hub, name, f"{prefix}{places['corpus']}.parquet", texts, schema if picture else None)
    put(hub, name, f"{prefix}{places['queries']}.parquet", queries)
    for place, pairs in places["qrels"].items():
        rows = [{"query-id": q, "Q0": "Q0", "corpus-id": d, "score": score} for q, d, score in pairs]
        put(hub, name, f"{prefix}{place}.parquet", rows)


def test_mteb_s_tables_are_the_splits_of_a_beir_set(hub):
    places = {"corpus": "corpus/corpus-00000-of-00001", "queries": "queries/queries-00000-of-00001"}
    qrels = {
        "data/test-00000-of-00001": QRELS,
        "data/train-00000-of-00001": [("q3", "d3", 1)],
        "data/extra-00000-of-00001": [("q4", "d3", 1)],
    }
    put_beir(hub, "mteb/mugs", places | {"qrels": qrels})
    (hub.folder / "datasets" / "mteb" / "mugs" / "README.md").write_text("---\nlicense:\n- cc-by-sa-4.0\n---\n")
    splits = load("beir:path=mteb/mugs")
    assert list(splits) == ["in_domain", "novel_query"]
    data = splits["novel_query"]
    assert scores(data) == {("q1", "d1"): 2, ("q1", "d2"): 0, ("q2", "d2"): 1}
    assert data.queries.to_pylist()[0] == {"query_id": "q1", "query": "query 1", "division": "test"}
    assert data.corpus.to_pylist()[2] == {"product_id": "d3", "title": "title 3", "text": "text 3"}
    assert splits["in_domain"].query_ids.tolist() == ["q3"]
    assert data.card["licence"] == "cc-by-sa-4.0"
    assert splits["in_domain"].card["notes"] == ["qrels that are not read: extra"]


def test_mteb_s_older_sets_are_jsonl(hub):
    folder = hub.folder / "datasets" / "mteb" / "old"
    (folder / "qrels").mkdir(parents=True)
    rows = {"corpus": [{"_id": "d1", "title": "", "text": "one"}], "queries": [{"_id": "q1", "text": "query"}]}
    rows["qrels/test"] = [{"query-id": "q1", "corpus-id": "d1", "score": 2}]
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert scores(load("beir:path=mteb/old")["zero_shot"]) == {("q1", "d1"): 2}


def test_m_beir_s_tables_have_pictures(hub):
    places = {"corpus": "corpus-00000-of-00001", "queries": "query-00000-of-00001"}
    put_beir(hub, "MRBench/mugs", places | {"qrels": {"qrels-00000-of-00001": QRELS}}, picture=True, id_="id")
    data = load("beir:path=MRBench/mugs")["zero_shot"]
    assert data.corpus_fields == ["text", "image"]
    assert is_image(data.corpus["image"])
    assert data.corpus["image"][1].as_py()["bytes"] == png(2)
    assert load("beir:path=MRBench/mugs,fields=text")["zero_shot"].corpus_fields == ["text"]


def test_a_subset_is_named_and_a_downloaded_folder_is_recognised(hub):
    places = {"corpus": "corpus/test-00000-of-00001", "queries": "queries/test-00000-of-00001"}
    for subset in ("de", "en"):
        put_beir(hub, "mteb/many", places | {"qrels": {"qrels/test-00000-of-00001": QRELS}}, prefix=f"{subset}-")
    splits = load("beir:path=mteb/many,subset=en")
    assert scores(splits["zero_shot"])["q1", "d1"] == 2
    assert not any("de-" in path for path, _ in hub.served)
    folder = hub.folder / "datasets" / "mteb" / "many"
    with pytest.raises(DataError, match="subset=de or subset=en is expected"):
        load(folder)
    assert load(folder, subset="de")["zero_shot"].qrels == splits["zero_shot"].qrels


def test_three_parquet_files_of_ones_own_are_a_table(tmp_path):
    """Only numbered files, or those in folders of the tables' names, are a BEIR set."""
    write(ranked(), tmp_path)
    assert layout_of(tmp_path) == "table"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("beir:path=mteb/none", "mteb/none: http.* has no such data set"),
        ("beir:path=nowhere", "nowhere: no such folder; a folder, or a data set on the hub"),
        ("beir:path=mteb/other", "corpus, queries and qrels are expected"),
        ("amazon_eval", "no data/.*parquet, as Marqo/amazon-products-eval has it"),
        ("google_shopping_eval", "columns query, item_ID, title, image, position are expected; it has query, title"),
        ("amazon_eval_100k", "Marqo/amazon-products-eval-100k.*can't be reached .*500"),
        ("amazon_eval:fields=colour", "no data/"),
    ],
)
def test_what_can_go_wrong_is_one_line(hub, source, message):
    put(hub, "mteb/other", "stuff/test-00000-of-00001.parquet", [{"a": 1}])
    put(hub, "Marqo/amazon-products-eval", "README.parquet", [{"a": 1}])
    put(hub, "Marqo/google-shopping-general-eval", "data/data-0.parquet", [{"query": "a", "title": "b", "more": 1}])
    put_marqo(hub, "Marqo/amazon-products-eval-100k")
    hub.fail("eval-100k", 500, 1000)
    with pytest.raises(DataError, match=message) as error:
        load(source)
    assert "\n" not in str(error.value)


# -- the list ----------------------------------------------------------------------------------------------------------


def test_every_source_has_a_card():
    assert {*CARDS} == {*SOURCES}


def test_the_list_is_plain_on_a_pipe(capsys):
    cli.main(["data", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [*CARDS]
    assert "233,448 pairs" in next(line for line in lines if line.startswith("wands\t"))
