import json
import re

import pyarrow as pa
import pytest
from conftest import png, ranked
from PIL import Image
from pyarrow import parquet

from gcl_toolkit.data.ranked_data import SPLITS, four_way_split
from gcl_toolkit.data.sources import load, spelt
from gcl_toolkit.data.sources.check import check
from gcl_toolkit.data.sources.table import read_table, write
from gcl_toolkit.errors import DataError, UserError

FLAT = """query,product_id,title,image,clicks,carts,position
red mug,007,Mug,a.png,3,1,1
red mug,008,,,1,0,2
blue cup,007,,a.png,0,0,1
blue cup,009,Cup,,5,2,2
"""


@pytest.fixture
def flat(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    file = tmp_path / "mine.csv"
    file.write_text(FLAT)
    return file


def test_a_flat_csv_becomes_three_tables(flat):
    data = read_table(flat, columns={"score": "clicks"})
    assert data.name == "mine.csv"
    assert data.query_ids.tolist() == ["red mug", "blue cup"]
    assert data.product_ids.tolist() == ["007", "008", "009"]
    assert data.corpus["title"].to_pylist() == ["Mug", None, "Cup"]
    assert data.corpus["image"].to_pylist() == [{"bytes": None, "path": str(flat.parent / "a.png")}, None, None]
    assert data.qrels["score"].to_pylist() == [3, 1, 0, 5]
    assert data.qrels["position"].to_pylist() == [1, 2, 1, 2]
    assert data.query_fields == ["query"]


def test_score_columns_are_weighted_and_summed(flat):
    data = read_table(flat, score={"clicks": 1, "carts": 4})
    assert data.qrels["score"].to_pylist() == [7, 1, 0, 13]
    assert data.corpus_fields == ["title", "image"]


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".tsv"])
def test_other_formats_read_the_same(flat, ending):
    expected = read_table(flat, score="clicks")
    rows = [dict(zip(FLAT.splitlines()[0].split(","), line.split(","), strict=True)) for line in FLAT.splitlines()[1:]]
    for row in rows:
        row |= {key: int(row[key]) for key in ("clicks", "carts", "position")}
    other = flat.with_suffix(ending)
    if ending == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), other)
    elif ending == ".jsonl":
        other.write_text("\n".join(map(json.dumps, rows)))
    else:
        other.write_text(FLAT.replace(",", "\t"))
    data = read_table(other, score="clicks")
    assert data.queries == expected.queries
    assert data.corpus == expected.corpus
    assert data.qrels["score"] == expected.qrels["score"]


def test_columns_can_have_other_names(tmp_path):
    file = tmp_path / "shop.csv"
    file.write_text("search_term,sku,name,gain\nmug,1,Mug,3\n")
    data = load(file, columns={"query": "search_term", "product_id": "sku", "title": "name"})
    assert sum(split.qrels.num_rows for split in data.values()) == 1
    data = read_table(file, columns={"query": "search_term", "product_id": "sku", "title": "name"})
    assert data.qrels["score"].to_pylist() == [3]
    assert data.corpus.column_names == ["product_id", "title"]


def test_a_named_column_takes_the_place_of_one_that_has_our_name(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("query,product_id,title,score,clicks,split\nmug,1,Mug,3,8,here\n")
    with pytest.raises(DataError, match="split is 'here'"):
        read_table(file, columns={"score": "clicks"})
    with pytest.raises(DataError, match="split is 'here'"):
        read_table(file, score={"clicks": 2})
    file.write_text(file.read_text().replace("here", "in_domain"))
    assert read_table(file, columns={"score": "clicks"}).qrels["score"].to_pylist() == [8]
    assert read_table(file, score={"clicks": 2}).qrels["score"].to_pylist() == [16]


def test_three_files_by_folder_or_by_name(tmp_path):
    (tmp_path / "queries.csv").write_text("query_id,query\n1,mug\n")
    (tmp_path / "products.jsonl").write_text('{"product_id": 7, "title": "Mug"}\n{"product_id": 8, "title": "Cup"}\n')
    (tmp_path / "qrels.csv").write_text("query_id,product_id,label\n1,7,3\n")
    by_folder = read_table(tmp_path)
    files = {"queries": "queries.csv", "corpus": "products.jsonl", "qrels": "qrels.csv"}
    by_name = read_table({name: tmp_path / file for name, file in files.items()})
    assert by_folder.product_ids.tolist() == ["7", "8"]
    assert by_folder.qrels["score"].to_pylist() == [3]
    assert (by_folder.queries, by_folder.corpus, by_folder.qrels) == (by_name.queries, by_name.corpus, by_name.qrels)
    with pytest.raises(DataError, match="queries, corpus, qrels are expected"):
        read_table({"queries": tmp_path / "queries.csv"})


def test_a_column_split_is_kept_to(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(
        "query,product_id,title,score,split\nq0,a,A,1,in_domain\nq0,b,B,2,in_domain\nq0,c,C,2,novel_document\n"
        "q1,a,A,1,novel_query\nq1,d,D,5,zero_shot\n"
    )
    splits = load(file)
    assert list(splits) == list(SPLITS)
    assert splits["in_domain"].product_ids.tolist() == splits["novel_query"].product_ids.tolist() == ["a", "b"]
    assert splits["novel_document"].product_ids.tolist() == splits["zero_shot"].product_ids.tolist() == ["c", "d"]
    assert splits["zero_shot"].query_ids.tolist() == ["q1"]
    assert splits["zero_shot"].qrels["score"].to_pylist() == [5]


def test_saved_data_is_read_back_identically(tmp_path):
    data = ranked(10, 12)
    write(data, tmp_path / "one")
    assert (read_table(tmp_path / "one"), read_table(tmp_path / "one").card) == (data, data.card)
    splits = four_way_split(data)
    write(splits, tmp_path / "four")
    assert load(tmp_path / "four") == splits
    with pytest.raises(DataError, match="holds the splits in_domain"):
        read_table(tmp_path / "four")


def test_a_table_that_was_converted_is_read_back_identically(flat, tmp_path):
    data = read_table(flat, score="clicks")
    write(data, tmp_path / "saved")
    assert read_table(tmp_path / "saved") == data


def test_load_knows_names_and_layouts(flat):
    assert load(flat, score="clicks") == load("table", path=flat, score="clicks")
    with pytest.raises(
        UserError,
        match=r"unknown source or path 'shopp'; known: amazon_eval, .*beir, folder, .*marqo_gs, shop, sqid, table",
    ):
        load("shopp")


GOOD = "query,product_id,title,image,score,split\nmug,1,Mug,a.png,3,in_domain\nmug,2,Cup,a.png,1,in_domain\n"
BAD = {
    "missing column": (GOOD.replace("product_id", "sku"), ["'product_id' is missing", "sku", "columns="]),
    "no score": (GOOD.replace("score", "points"), ["'score' is missing", "points"]),
    "NaN score": (GOOD + "mug,3,Bowl,,nan,in_domain\n", ["qrels line 4", "'3'", "'nan'", ">= 0"]),
    "empty score": (
        GOOD + "mug,3,Bowl,,,in_domain\n",
        ["line 4", "score is ''", "(1 such row)", "--quarantine FILE"],
    ),
    "negative score": (GOOD + "mug,3,Bowl,,-1,in_domain\n", ["qrels line 4", "'-1'", ">= 0"]),
    "text score": (GOOD + "mug,3,Bowl,,good,in_domain\n", ["qrels line 4", "'good'", "number"]),
    "unknown split": (GOOD + "mug,3,Bowl,,1,train\n", ["qrels line 4", "split is 'train'", "in_domain, novel_query"]),
    "two scores": (GOOD + "mug,2,Cup,,2,in_domain\n", ["qrels lines 3 and 4", "two scores, 1 and 2", "(1 such pair)"]),
    "empty query": (GOOD + ",2,Cup,,2,in_domain\n", ["qrels line 4", "query_id is empty"]),
    "column twice": ("query,query,product_id,score\n", ["'query'", "appears twice"]),
    "nothing in it": ("", ["first line is empty"]),
    "no rows": (GOOD.splitlines()[0] + "\n", ["no rows"]),
}
ONLY_CHECKED = {
    "no field": (GOOD + "mug,3,,,1,in_domain\n", ["corpus row 2", "'3'", "no field at all", "title and image"]),
    "two titles": (GOOD + "cup,2,Bowl,a.png,1,in_domain\n", ["title", "1 id with two values", "first '2'"]),
    "missing image": (GOOD + "mug,3,Bowl,b.png,1,in_domain\n", ["corpus row 2", "'3'", "is not there", "b.png"]),
    "truncated image": (GOOD + "mug,3,Bowl,cut.png,1,in_domain\n", ["corpus row 2", "can't be decoded", "missing"]),
    "truncated JPEG": (GOOD + "mug,3,Bowl,cut.jpg,1,in_domain\n", ["corpus row 2", "can't be decoded"]),
    "only a truncated image": (GOOD + "mug,3,,cut.png,1,in_domain\n", ["corpus row 2", "'3'", "no field at all"]),
    "not an image": (GOOD + "mug,3,Bowl,text.png,1,in_domain\n", ["corpus row 2", "can't be decoded"]),
    "address": (GOOD + "mug,3,Bowl,https://a/b.png,1,in_domain\n", ["corpus row 2", "address", "a file is expected"]),
    "leak": (GOOD + "MUG,3,Bowl,,1,zero_shot\n", ["leak: zero_shot", "their query", "'MUG'"]),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "cut.png").write_bytes(png(2, size=64)[:-40])
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-400])
    (tmp_path / "text.png").write_text("<html>not found</html>")
    return tmp_path


@pytest.mark.parametrize("name", [*BAD, *ONLY_CHECKED])
def test_check_names_each_problem_in_one_line(folder, name):
    text, words = (BAD | ONLY_CHECKED)[name]
    (folder / "t.csv").write_text(text)
    _, problems = check(folder / "t.csv")
    words = words if name == "leak" else ["t.csv", *words]
    assert any(all(word in line for word in words) for line in problems), problems
    assert all("\n" not in line for line in problems)


def test_what_was_reported_at_the_import_is_no_problem_of_the_folder(folder):
    (folder / "t.csv").write_text(ONLY_CHECKED["two titles"][0])
    facts, problems = check(folder / "t.csv")
    assert len(problems) == 1
    assert any(fact.startswith("t.csv: rows of queries and corpus: the distinct ones") for fact in facts)
    write(load(folder / "t.csv"), folder / "saved")
    assert check(folder / "saved")[1] == []


@pytest.mark.parametrize("name", [name for name in BAD if name != "no rows"])
def test_bad_tables_are_not_loaded(folder, name):
    text, words = BAD[name]
    (folder / "t.csv").write_text(text)
    with pytest.raises(DataError) as error:
        load(folder / "t.csv")
    assert all(word in str(error.value) for word in ["t.csv", *words])


@pytest.mark.parametrize("lost", ["some", "all"])
def test_a_pair_without_a_split_is_an_error(tmp_path, lost):
    split = [None, None, None] if lost == "all" else ["in_domain", None, "zero_shot"]
    pairs = {"query": ["a", "b", "c"], "product_id": ["1", "2", "3"], "score": [1.0, 2.0, 3.0], "split": split}
    parquet.write_table(pa.table(pairs), tmp_path / "t.parquet")
    row, count = (0, 3) if lost == "all" else (1, 1)
    message = rf"qrels row {row}: split is None; one of in_domain, .* is expected \({count} such rows?\)"
    assert any(re.search(message, problem) for problem in check(tmp_path / "t.parquet")[1])
    with pytest.raises(DataError, match=message):
        load(tmp_path / "t.parquet")


def test_an_option_that_a_source_does_not_have_is_an_error(flat, tmp_path):
    with pytest.raises(
        UserError, match=r"source table has no option 'queries'; .*known: columns, fields, quarantine, score, s"
    ):
        load(flat, queries=5)
    with pytest.raises(UserError, match=r"source shop has no option 'quarantine'; .*known: .*products"):
        load("shop", quarantine=tmp_path / "x.csv")


def test_options_can_be_part_of_the_name_of_a_source(flat, tmp_path):
    options = {"seed": 3, "noise": 0.5, "sparse": True, "sheet": "a=b"}
    assert spelt("shop:seed=3,noise=0.5,sparse=true,sheet=a=b") == ("shop", options)
    assert spelt("C:/my table.csv") == ("C:/my table.csv", {})
    pairs = [f"q{q},p{p},{q + p}\n" for q in range(10) for p in range(10)]
    (odd := tmp_path / "by:me=1.csv").write_text("query,product_id,clicks\n" + "".join(pairs))
    assert load(f"{odd}:score=clicks,seed=3") == load(odd, score="clicks", seed=3) != load(odd, score="clicks")
    for wrong in ("seed=x", "seed=true", "seed=1.5"):
        with pytest.raises(UserError, match=r"option seed of source table is .*; int is expected"):
            load(f"{odd}:{wrong}")


def test_a_corrupt_card_is_a_problem_not_a_traceback(tmp_path):
    write(ranked(), tmp_path)
    for text in ('{"name": "to', "[1, 2]"):
        (tmp_path / "card.json").write_text(text)
        assert any("card.json: can't be read as JSON" in problem for problem in check(tmp_path)[1])
        with pytest.raises(DataError, match=r"card.json: can't be read"):
            load(tmp_path)


def test_check_lists_all_kinds_at_once(folder):
    rows = [
        "mug,3,,,1,in_domain",
        "mug,4,Bowl,cut.png,-1,in_domain",
        "mug,2,Cup,,2,here",
        "mug,5,Jug,b.png,good,zero_shot",
    ]
    (folder / "t.csv").write_text(GOOD + "\n".join(rows))
    _, problems = check(folder / "t.csv")
    for word in ("no field at all", "decoded", "is not there", "'-1'", "two scores", "split is 'here'", "'good'"):
        assert sum(word in line for line in problems) == 1, (word, problems)


def test_check_counts_what_is_there(folder):
    (folder / "t.csv").write_text(GOOD + "cup,2,,,2,novel_query\n")
    facts, problems = check(folder / "t.csv")
    assert problems == []
    for fact in (
        "t.csv: 2 queries, 2 products, 3 pairs",
        "t.csv: pairs per query: 1 to 2, median 1.5",
        "t.csv: score: 1 to 3, 3 distinct values",
        "t.csv: title: missing in 0 of 2 (0.0%)",
        "images decoded: 2, broken: 0",
        "novel_query of the splits: 1 query, 2 products, 1 pair",
    ):
        assert fact in facts, facts


def test_check_names_mistakes_in_three_tables(tmp_path):
    (tmp_path / "queries.csv").write_text("query_id,query\n1,mug\n1,cup\n2,\n")
    (tmp_path / "corpus.csv").write_text("product_id,title\n7,Mug\n")
    (tmp_path / "qrels.csv").write_text("query_id,product_id,score\n1,7,3\n1,9,3\n")
    _, problems = check(tmp_path)
    twice, without = "queries lines 2 and 3: query_id '1' twice", "queries line 4: query_id '2' has no field"
    for word in (twice, without, "qrels line 3: product_id '9' is not in the corpus"):
        assert sum(word in line for line in problems) == 1, (word, problems)


def test_files_that_cannot_be_read_are_a_problem_not_a_traceback(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "other.xlsx").write_bytes(b"")
    for path, word in (
        (tmp_path / "cut.parquet", "file complete"),
        (tmp_path / "other.xlsx", ".jsonl is expected"),
    ):
        facts, problems = check(path)
        assert facts == []
        assert len(problems) == 1
        assert word in problems[0]
        assert path.name in problems[0]
    (tmp_path / "t.csv").write_text(GOOD)
    with pytest.raises(DataError, match="'clicks', named in columns="):
        read_table(tmp_path / "t.csv", columns={"score": "clicks"})


def test_shopping_queries_are_read_as_a_table(real_data):
    data = read_table(real_data("esci150_dev"))
    assert (data.queries.num_rows, data.corpus.num_rows, data.qrels.num_rows) == (100, 4568, 4449)
    assert set(data.qrels["score"].to_pylist()) == {1, 0.1, 0.01, 0}
    assert set(read_table(real_data("esci150_dev"), score="label").qrels["score"].to_pylist()) == {3, 2, 1, 0}
    assert sum(split.qrels.num_rows for split in load(real_data("esci150_dev")).values()) == 4449
    assert all(problem.endswith("clean it") for problem in check(real_data("esci150_dev"))[1])  # strange texts only
