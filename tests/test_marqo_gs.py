import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import png
from pyarrow import csv, parquet

from gcl_toolkit.data.ranked_data import SPLITS, RankedData, leaks
from gcl_toolkit.data.sources import load
from gcl_toolkit.data.sources.check import check
from gcl_toolkit.data.sources.hierarchy import LEVELS, complete_grades, grade_matrix
from gcl_toolkit.data.sources.table import write
from gcl_toolkit.errors import DataError

PARTS = {"in_domain": (0, 0), "novel_query": (1, 0), "novel_document": (0, 1), "zero_shot": (1, 1)}
QUERIES = {0: range(8), 1: range(8, 10)}
LISTED = 5


def rows(split: str) -> list[dict]:
    """A split in the hub's columns: each query lists LISTED of the half's nine products, at positions 1, 2, ..."""
    part, half = PARTS[split]
    return [
        {
            "query": f"query number {q}",
            "product_id": (product := 900 + 100 * half + (q + i) % 9),
            "position": i + 1,
            "title": None if i == 0 else f"title {product}",
            "pair_id": f"{q}_{product}",
            "score_linear": 100 - i,
            "score_reciprocal": 1 / (i + 1),
            "no_score": 1,
            "query_id": q,
            "image": {"bytes": b"" if i == 1 else png(product), "path": f"{product}.png"} if i else None,
        }
        for q in QUERIES[part]
        for i in range(LISTED)
    ]


def table(split_rows: list[dict]) -> pa.Table:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.Table.from_pylist(split_rows, pa.schema([*_TYPES.items(), ("image", image)]))


_TYPES = {
    "query": pa.string(),
    "product_id": pa.uint64(),
    "position": pa.int64(),
    "title": pa.string(),
    "pair_id": pa.string(),
    "score_linear": pa.int64(),
    "score_reciprocal": pa.float64(),
    "no_score": pa.int64(),
    "query_id": pa.int64(),
}


@pytest.fixture
def hub(tmp_path):
    """The hub's layout: one file for each held-out split, shards in data/ for in_domain as after a download."""
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    for split in SPLITS:
        whole = table(rows(split))
        for i in range(3):
            third = whole.num_rows // 3
            part = whole.slice(i * third, third if i < 2 else None)
            parquet.write_table(part, folder / "data" / f"{split}-0000{i}-of-00003.parquet", row_group_size=4)
    return folder


@pytest.fixture
def tar(tmp_path):
    """The same data in the tar's layout, with ground truth for two queries a split."""
    folder = tmp_path / "marqo_gs_wfash_1m"
    (folder / "pictures").mkdir(parents=True)
    corpora: tuple[dict, dict] = ({}, {})
    for split, (q, d) in PARTS.items():
        stem = f"query_{q}_product_id_{d}"
        frame = (
            table(rows(split))
            .drop_columns(["image"])
            .append_column("image_local", pa.nulls(len(rows(split)), pa.string()))
        )
        csv.write_csv(frame, folder / f"{stem}.csv")
        for row in rows(split):
            product = row["product_id"]
            corpora[d][str(product)] = {
                "title": f"title {product}",
                "image_local": f"pictures/{product}.png",
                "price": 3,
            }
            (folder / "pictures" / f"{product}.png").write_bytes(png(product))
        for division, number in (("dev", QUERIES[q][0]), ("test", QUERIES[q][1])):
            truth = {f"query number {number}_{{!@#~}}_": {"900": 99}}
            (folder / f"{stem}_gt_{division}.json").write_text(json.dumps(truth))
        (folder / f"{stem}_queries.json").write_text(json.dumps([f"query number {n}" for n in QUERIES[q]]))
    for d in (0, 1):
        corpora[d][f"77{d}"] = {"title": float("nan"), "image_local": None}
        (folder / f"corpus_{d + 1}.json").write_text(json.dumps(corpora[d]))
    return folder


def scores(data: RankedData) -> dict:
    texts = dict(zip(data.query_ids, data.queries["query"].to_pylist(), strict=True))
    qrels = data.qrels.to_pylist()
    return {(texts[row["query_id"]], row["product_id"]): (row["score"], row["position"]) for row in qrels}


@pytest.fixture(params=["hub", "tar"])
def splits(request):
    return load(request.getfixturevalue(request.param))


def test_every_layout_gives_the_same_scores_and_products(splits):
    assert list(splits) == list(SPLITS)
    for name, data in splits.items():
        expected = {(r["query"], str(r["product_id"])): (r["score_linear"], r["position"]) for r in rows(name)}
        assert scores(data) == expected
        half = 900 + 100 * PARTS[name][1]
        products = {str(half + i) for i in range(9)}
        assert set(data.product_ids) - {"770", "771"} == products
        for row in data.corpus.to_pylist():
            if row["product_id"] in products:
                assert row["title"] == f"title {row['product_id']}"
                assert row["image"]["bytes"] or row["image"]["path"].endswith(f"/pictures/{row['product_id']}.png")
    assert splits["in_domain"].corpus == splits["novel_query"].corpus
    assert splits["novel_document"].corpus == splits["zero_shot"].corpus
    assert leaks(splits) == []


def test_the_first_image_and_title_that_are_there_stand(hub):
    changed = rows("in_domain")
    first = next(row for row in changed if row["title"] and row["image"]["bytes"])
    again = next(row for row in changed[::-1] if row["product_id"] == first["product_id"])
    again |= {"title": "another title", "image": {"bytes": png(3), "path": "3.png"}}
    for shard in (hub / "data").glob("in_domain-*"):
        shard.unlink()
    parquet.write_table(table(changed), hub / "in_domain.parquet")
    data = load(hub)["in_domain"]
    product = data.corpus.filter(pc.equal(data.corpus["product_id"], str(first["product_id"]))).to_pylist()[0]
    assert product["title"] == first["title"]
    assert product["image"]["bytes"] == first["image"]["bytes"]
    assert data.card["conflicts"] == {"title": {"count": 1, "first": str(first["product_id"])}}
    assert any("column title: 1 id with two values" in line for line in check(hub)[1])


def test_a_subset_is_the_same_from_every_layout_and_keeps_whole_lists(hub, tar):
    subsets = [load(hub, queries=4), load(tar, queries=4), load(f"{hub}:queries=4")]
    chosen = [[sorted(data.queries["query"].to_pylist()) for data in splits.values()] for splits in subsets]
    assert chosen[0] == chosen[1] == chosen[2]
    assert len({*chosen[0][0], *chosen[0][1]}) == 4
    for splits in subsets:
        for data in splits.values():
            assert (np.bincount(data.pairs.query) == LISTED).all()
        for one, other in (("in_domain", "novel_query"), ("novel_document", "zero_shot")):
            listed = {*splits[one].qrels["product_id"].to_pylist(), *splits[other].qrels["product_id"].to_pylist()}
            assert set(splits[one].product_ids) == set(splits[other].product_ids) == listed
    assert load(hub, queries=4, seed=1)["in_domain"].queries != subsets[0]["in_domain"].queries
    smaller = load(hub, queries=2)["in_domain"]
    assert set(smaller.query_ids) <= set(subsets[0]["in_domain"].query_ids)


def test_the_hubs_queries_are_divided_by_hash_and_the_tars_by_ground_truth(hub, tar):
    for data in load(hub).values():
        assert set(data.queries["division"].to_pylist()) <= {"dev", "test"}
    data = load(tar)["in_domain"]
    assert data.queries["division"].to_pylist() == ["dev", "test", *[None] * 6]
    assert data.only("dev").queries["query"].to_pylist() == ["query number 0"]


def test_ids_that_mean_two_queries_give_way_to_the_text(hub):
    for split in SPLITS:
        for shard in (hub / "data").glob(f"{split}-*"):
            shard.unlink()
        own = rows(split)
        for row in own:
            row["query_id"] -= QUERIES[PARTS[split][0]][0]  # counted from 0 in every split
        parquet.write_table(table(own), hub / f"{split}.parquet")
    splits = load(hub)
    assert splits["zero_shot"].query_ids.tolist() == ["query number 8", "query number 9"]
    assert splits["zero_shot"].card["query_ids"] == "the query's text"
    assert leaks(splits) == []


def test_a_pair_listed_twice_keeps_its_best_score(hub):
    own = [*rows("zero_shot"), rows("zero_shot")[0] | {"position": 50, "score_linear": 51}]
    for shard in (hub / "data").glob("zero_shot-*"):
        shard.unlink()
    parquet.write_table(table(own[::-1]), hub / "zero_shot.parquet")
    data = load(hub)["zero_shot"]
    assert scores(data)["query number 8", "1008"] == (100, 1)
    assert data.card["repeated_pairs"] == 1
    assert any("repeated in 1 row;" in line for line in check(hub)[1])


def test_images_larger_than_memory_stay_on_disk(hub):
    """Arrow holds next to nothing of 8 x 4 MB of images; they are pages of a mapped file."""
    one = {**rows("in_domain")[1], "title": "big"}
    big = [one | {"product_id": n, "image": {"bytes": bytes([n]) * (4 << 20), "path": "x"}} for n in range(8)]
    parquet.write_table(table(big), hub / "data" / "in_domain-00000-of-00003.parquet", row_group_size=1)
    del big
    before = pa.total_allocated_bytes()
    corpus = load(hub)["in_domain"].corpus
    assert pa.total_allocated_bytes() - before < 6 << 20
    row = corpus["product_id"].to_pylist().index("7")
    assert corpus["image"][row].as_py()["bytes"] == bytes([7]) * (4 << 20)


def test_titles_alone_leave_the_images_unread(hub, tar):
    assert load(hub, fields=("title",))["zero_shot"].corpus.column_names == ["product_id", "title"]
    assert load(tar, fields=("title",))["zero_shot"].corpus.column_names == ["product_id", "title"]


def test_the_tars_images_may_lie_elsewhere_and_flat(tar, tmp_path):
    (tar / "pictures").rename(tmp_path / "flat")
    data = load(tar, images=tmp_path / "flat")["in_domain"]
    paths = {row["product_id"]: row["image"] and row["image"]["path"] for row in data.corpus.to_pylist()}
    assert paths["900"] == str(tmp_path / "flat" / "900.png")
    assert paths["770"] is None
    [problem] = check(tar, images=None)[1]
    assert "corpus_1.json: none of 9 pictures found" in problem
    assert "images=FOLDER" in problem


def test_layouts_are_recognised_and_converted(hub, tar, tmp_path):
    for folder in (hub, tar):
        splits = load(folder)
        write(splits, tmp_path / "saved" / folder.name)
        assert load(tmp_path / "saved" / folder.name) == splits
    assert load(tar.parent)["in_domain"] == load(tar)["in_domain"]
    (tar.parent / "marqo_gs_full_10m").mkdir()
    (tar.parent / "marqo_gs_full_10m" / "corpus_1.json").write_text("{}")
    with pytest.raises(DataError, match="marqo_gs_full_10m, marqo_gs_wfash_1m; give one"):
        load(tar.parent)


def test_reading_local_files_does_not_import_the_hubs_client(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    load(hub)


def spoil(hub, tar, how):
    file = hub / "data" / "in_domain-00001-of-00003.parquet"
    stem = tar / "query_0_product_id_0"
    if how == "shard missing":
        file.unlink()
        return hub, ["in_domain has 2 of 3 files", "fetch the others"]
    if how == "shard cut":
        file.write_bytes(file.read_bytes()[:200])
        return hub, ["split in_domain", "can't be read", "complete"]
    if how == "column missing":
        for shard in file.parent.glob("in_domain*"):
            parquet.write_table(table(rows("in_domain")).drop_columns(["score_linear"]), shard)
        return hub, ["in_domain-0000", "'score_linear' is missing", "no_score"]
    if how == "csv column missing":
        stem.with_suffix(".csv").write_text("query,product_id\nmug,1\n")
        return tar, ["query_0_product_id_0.csv", "'score_linear' is missing"]
    if how == "json cut":
        (tar / "corpus_2.json").write_text('{"1": {"title": "a"')
        return tar, ["corpus_2.json", "can't be read as JSON", "complete"]
    if how == "json missing":
        (tar / "corpus_2.json").unlink()
        return tar, ["corpus_2.json", "no such file"]
    if how == "unknown product":
        (tar / "corpus_2.json").write_text('{"1": {"title": "a"}}')
        return tar, ["novel_document", "qrels row 0", "'1000' is not in the corpus"]
    if how == "text score":
        stem.with_suffix(".csv").write_text("query,product_id,score_linear\nquery number 0,900,high\n")
        return tar, ["in_domain", "qrels row 0", "'high'", "number"]
    stem.with_name(f"{stem.name}_gt_dev.json").write_text('{"17": {}}')
    stem.with_name(f"{stem.name}_gt_test.json").unlink()
    return tar, ["query_0_product_id_0", "'17'", "text of the query is expected"]


@pytest.mark.parametrize(
    "how",
    [
        "shard missing",
        "shard cut",
        "column missing",
        "csv column missing",
        "json cut",
        "json missing",
        "unknown product",
        "text score",
        "ground truth of other queries",
    ],
)
def test_spoilt_files_are_named_by_load_and_by_check(hub, tar, how):
    folder, words = spoil(hub, tar, how)
    with pytest.raises(DataError) as error:
        load(folder)
    _, problems = check(folder)
    for lines in ([str(error.value)], problems):
        assert any(all(word in line for word in words) for line in lines), lines


def test_a_folder_without_the_data_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"neither in_domain\.parquet"):
        load("marqo_gs", path=tmp_path)


def slow_grade(query, product):
    """Twin of `grade_matrix` for one pair, as the rule is stated."""
    known = [level for level in range(len(query)) if query[level] >= 0]
    for level in known:
        if query[level] == product[level]:
            return len(query) if level == known[0] else len(query) - level
    return 0


def test_grades_agree_with_the_rule_pair_by_pair():
    rng = np.random.default_rng(0)
    query, product = rng.integers(-1, 3, (30, 3)), rng.integers(-1, 3, (40, 3))
    expected = [[slow_grade(q, p) for p in product.tolist()] for q in query.tolist()]
    assert grade_matrix(query, product).tolist() == expected
    assert {0, 1, 2, 3} == set(np.unique(expected))


def hierarchy(folder, products=("900", "901", "902", "903")):
    parquet.write_table(
        pa.table({"query_id": [1, 2], "fine_id": [5, -1], "coarse_id": [1, 1], "top": ["a", "a"]}),
        folder / "queries_meta.parquet",
    )
    parquet.write_table(
        pa.table(
            {"product_id": products, "fine_id": [5, 6, 7, 8], "coarse_id": [1, 1, 2, 3], "top": ["a", "a", "a", "b"]}
        ),
        folder / "products_meta.parquet",
    )


def listed(pairs):
    query, product, score = zip(*pairs, strict=True)
    data = RankedData(
        pa.table({"query_id": ["1", "2"], "query": ["golden apple", "apple"]}),
        pa.table({"product_id": ["900", "901", "902", "903"], "title": ["a", "b", "c", "d"]}),
        pa.table({"query_id": query, "product_id": product, "score": score}),
    )
    return {"in_domain": data}


def test_complete_grades_take_the_scores_of_the_listed_pairs(tmp_path):
    hierarchy(tmp_path)
    splits = listed([("1", "900", 100.0), ("1", "901", 60.0), ("2", "902", 30.0)])
    complete = complete_grades(splits, tmp_path)["in_domain"]
    found = {(r["query_id"], r["product_id"]): (r["score"], r["grade"]) for r in complete.qrels.to_pylist()}
    expected = {("1", "900"): (100, 3), ("1", "901"): (60, 2), ("1", "902"): (30, 1)}
    assert found == expected | {("2", "900"): (100, 3), ("2", "901"): (100, 3), ("2", "902"): (30, 1)}


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("1", "900", 9.0), ("2", "900", 7.0)], ["row 1", "query '2', product '900'", "score is 7, expected 9"]),
        ([("1", "903", 9.0)], ["row 0", "'903'", "no level agrees"]),
        ([("1", "900", 9.0)], ["no listed pair has grade 1"]),
    ],
)
def test_levels_that_contradict_the_listed_pairs_are_refused(tmp_path, pairs, words):
    hierarchy(tmp_path)
    with pytest.raises(DataError) as error:
        complete_grades(listed(pairs), tmp_path)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_levels_must_name_every_id(tmp_path):
    hierarchy(tmp_path, products=["900", "901", "902", "3"])
    with pytest.raises(DataError, match=r"products_meta.parquet: '903' is missing"):
        complete_grades(listed([("1", "900", 9.0)]), tmp_path)
    with pytest.raises(DataError, match=r"queries_meta.parquet: column 'shelf' is missing"):
        complete_grades(listed([("1", "900", 9.0)]), tmp_path, levels=("fine_id", "shelf"))


def test_groceries_load_whole(real_data):
    splits = load(real_data("grocery_dev"))
    assert [data.queries.num_rows for data in splits.values()] == [237, 58, 237, 58]
    assert [data.corpus.num_rows for data in splits.values()] == [810] * 4
    assert [data.qrels.num_rows for data in splits.values()] == [13260, 3160, 13260, 3160]
    assert len({q for data in splits.values() for q in data.query_ids}) == 295
    assert leaks(splits) == []


def test_complete_grades_of_groceries_are_every_listed_grade(real_data):
    folder = real_data("grocery_dev")
    splits = load(folder, fields=("title",))
    complete = complete_grades(splits, folder, LEVELS)
    meta = parquet.read_table(folder / "pairs_meta.parquet").to_pylist()
    for name, data in complete.items():
        grade = {(r["query_id"], r["product_id"]): r["grade"] for r in data.qrels.to_pylist()}
        stated = {(str(r["query_id"]), str(r["product_id"])): r["grade"] for r in meta if r["split"] == name}
        assert {pair: grade[pair] for pair in stated} == stated
        assert len(grade) > 4 * len(stated)
        assert {(r["grade"], r["score"]) for r in data.qrels.to_pylist()} == {(3, 100), (2, 60), (1, 30)}
