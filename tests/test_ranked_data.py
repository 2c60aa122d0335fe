import numpy as np
import pyarrow as pa
import pytest
from conftest import png, ranked

from gcl_toolkit.data.columns import numbers, present
from gcl_toolkit.data.findings import findings
from gcl_toolkit.data.ranked_data import IMAGE, SPLITS, RankedData, divide, four_way_split, leaks, query_folds
from gcl_toolkit.errors import DataError, UserError

QUERIES = pa.table({"query_id": ["a", "b"], "query": ["mug", "cup"]})
CORPUS = pa.table({"product_id": ["x", "y"], "title": ["red", "blue"]})
QRELS = pa.table({"query_id": ["a", "b"], "product_id": ["x", "y"], "score": [3.0, 1.0]})


def replaced(table, column, values):
    return table.set_column(table.column_names.index(column), column, pa.array(values))


BAD = {
    "no score": ((QUERIES, CORPUS, QRELS.drop_columns(["score"])), ["'score' is missing", "query_id, product_id"]),
    "no id": ((QUERIES.drop_columns(["query_id"]), CORPUS, QRELS), ["queries", "'query_id' is missing"]),
    "nan": ((QUERIES, CORPUS, replaced(QRELS, "score", [3.0, np.nan])), ["qrels row 1", "'b'", "nan", ">= 0"]),
    "infinite": ((QUERIES, CORPUS, replaced(QRELS, "score", [np.inf, 1.0])), ["qrels row 0", "inf"]),
    "negative": ((QUERIES, CORPUS, replaced(QRELS, "score", [-2.0, 1.0])), ["qrels row 0", "-2", ">= 0"]),
    "text": ((QUERIES, CORPUS, replaced(QRELS, "score", ["3", "good"])), ["qrels row 1", "'good'", "number"]),
    "null score": ((QUERIES, CORPUS, replaced(QRELS, "score", [3.0, None])), ["qrels row 1", "None"]),
    "double id": (
        (pa.concat_tables([QUERIES, QUERIES.slice(1)]), CORPUS, QRELS),
        ["rows 1 and 2", "'b'", "unique"],
    ),
    "null id": ((QUERIES, CORPUS, replaced(QRELS, "product_id", ["x", None])), ["qrels row 1", "product_id is empty"]),
    "blank id": ((QUERIES, CORPUS, replaced(QRELS, "query_id", ["a", " "])), ["qrels row 1", "query_id", "empty"]),
    "stray product": (
        (QUERIES, CORPUS, replaced(QRELS, "product_id", ["x", "z"])),
        ["row 1", "'z' is not in the corpus"],
    ),
    "stray query": (
        (QUERIES, CORPUS, replaced(QRELS, "query_id", ["c", "b"])),
        ["row 0", "'c' is not in the queries"],
    ),
    "two scores": (
        (QUERIES, CORPUS, pa.concat_tables([QRELS, replaced(QRELS, "score", [2.0, 1.0]).slice(0, 1)])),
        ["rows 0 and 2", "'a'", "'x'", "two scores, 3 and 2"],
    ),
    "pair twice": ((QUERIES, CORPUS, pa.concat_tables([QRELS, QRELS.slice(1)])), ["rows 1 and 2", "same score twice"]),
    "division": (
        (QUERIES.append_column("division", pa.array(["dev", "train"])), CORPUS, QRELS),
        ["queries row 1", "'train'", "dev, test"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_with_table_row_and_value(name):
    tables, words = BAD[name]
    assert len(findings(*tables)) == 1
    with pytest.raises(DataError) as error:
        RankedData(*tables, name="mine")
    for word in ["mine: ", *words]:
        assert word in str(error.value)


def test_one_of_a_kind_is_singular():
    data = RankedData(QUERIES.slice(0, 1), CORPUS.slice(0, 1), QRELS.slice(0, 1), "tiny")
    assert repr(data).startswith("RankedData(tiny: 1 query, 1 product, 1 scored pair;")


def test_all_kinds_of_mistakes_are_listed_not_only_the_first():
    qrels = pa.table(
        {
            "query_id": ["a", "a", "a", "q", None, "b"],
            "product_id": ["x", "x", "y", "y", "x", "y"],
            "score": ["1", "2", "-1", "nan", "3", "good"],
        }
    )
    found = findings(QUERIES, CORPUS, qrels)
    for word in ("empty", "'q' is not", "'-1'", "'nan'", "two scores"):
        assert sum(word in line for line in found) == 1, (word, found)
    with pytest.raises(DataError, match=r"and 4 more problems"):
        RankedData(QUERIES, CORPUS, qrels)


def test_ids_become_strings_and_scores_floats():
    data = RankedData(
        pa.table({"query_id": [7], "query": ["mug"]}),
        pa.table({"product_id": pa.array([2**64 - 1], pa.uint64()), "title": ["red"]}),
        pa.table({"query_id": [7], "product_id": pa.array([2**64 - 1], pa.uint64()), "score": [100]}),
    )
    assert data.product_ids.tolist() == ["18446744073709551615"]
    assert [p.tolist() for p in data.pairs] == [[0], [0], [100.0]]
    assert data.qrels["score"].type == pa.float64()


def test_present_knows_every_way_to_be_missing():
    images = [{"bytes": b"x", "path": None}, {"bytes": b"", "path": ""}, None, {"bytes": None, "path": "p"}]
    for column, expected in (
        (pa.array(["a", "", " \t\n\u00a0\u3000", None]), [True, False, False, False]),
        (pa.array([0.0, np.nan, None]), [True, False, False]),
        (pa.array([b"x", b"", None]), [True, False, False]),
        (pa.array(images, IMAGE), [True, False, False, True]),
    ):
        assert present(pa.chunked_array([column])).tolist() == expected


def test_numbers_are_nan_where_there_is_none():
    column = pa.chunked_array([pa.array(["1.5", "many", None, ""])])
    np.testing.assert_array_equal(numbers(column), [1.5, np.nan, np.nan, np.nan])


def test_four_splits_share_queries_and_corpora_as_marqo_gs_does():
    splits = four_way_split(ranked(20, 30), seed=3)
    train, novel_query, novel_document, zero_shot = (splits[name] for name in SPLITS)
    assert train.queries["query_id"] == novel_document.queries["query_id"]
    assert train.corpus == novel_query.corpus
    assert novel_document.corpus == zero_shot.corpus
    assert not set(train.query_ids) & set(zero_shot.query_ids)
    assert not set(train.product_ids) & set(zero_shot.product_ids)
    assert [s.queries.num_rows for s in splits.values()] == [16, 4, 16, 4]
    assert {s.corpus.num_rows for s in splits.values()} == {15}
    assert sum(s.qrels.num_rows for s in splits.values()) == 20 * 30
    assert four_way_split(ranked(20, 30), seed=3) == splits
    assert four_way_split(ranked(20, 30), seed=4) != splits
    assert leaks(splits) == []


def test_a_query_is_in_one_division_in_every_split_and_a_given_one_stays():
    data = divide(ranked(40, 2))
    assert {"dev", "test"} == set(data.queries["division"].to_pylist())
    dev, test = data.only("dev"), data.only("test")
    assert set(dev.query_ids).isdisjoint(test.query_ids)
    assert dev.queries.num_rows + test.queries.num_rows == 40
    assert set(dev.qrels["query_id"].to_pylist()) == set(dev.query_ids)
    assert dev.corpus == data.corpus
    division = dict(zip(data.query_ids, data.queries["division"].to_pylist(), strict=True))
    for split in four_way_split(data, seed=5).values():
        for query, half in zip(split.query_ids, split.queries["division"].to_pylist(), strict=True):
            assert division[query] == half
    assert data.only("all") is data
    with pytest.raises(UserError, match="unknown division 'train'"):
        data.only("train")
    with pytest.raises(DataError, match="no column 'division'"):
        ranked().only("dev")


def test_a_query_without_division_is_in_neither():
    data = ranked(2, 2)
    queries = data.queries.append_column("division", pa.array(["dev", None]))
    data = RankedData(queries, data.corpus, data.qrels)
    assert data.only("dev").query_ids.tolist() == ["q0"]
    assert data.only("test").query_ids.tolist() == []


def test_sampled_queries_keep_all_their_scores():
    sampled = ranked(10, 7).sample_queries(3, seed=1)
    assert sampled.queries.num_rows == 3
    assert np.bincount(sampled.pairs.query).tolist() == [7, 7, 7]
    assert sampled.corpus.num_rows == 7


@pytest.mark.parametrize("shared", ["query_id", "query", "product_id", "image"])
def test_leaks_name_what_a_held_out_split_shares_with_training(shared):
    train = ranked(2, 2)
    values = {"query_id": ["z0", "z1"], "query": ["new 0", "new 1"], "product_id": ["y0", "y1"], "image": [50, 51]}
    same = {"query_id": ["z0", "q1"], "query": ["new", " MUG  1"], "product_id": ["y0", "p1"], "image": [50, 1]}
    values[shared] = same[shared]
    held_out = RankedData(
        pa.table({"query_id": values["query_id"], "query": values["query"]}),
        pa.table(
            {
                "product_id": values["product_id"],
                "title": ["title 0", "title 1"],
                "image": pa.array([{"bytes": png(c), "path": None} for c in values["image"]], IMAGE),
            }
        ),
        pa.table({"query_id": [values["query_id"][1]], "product_id": [values["product_id"][1]], "score": [1.0]}),
    )
    (leak,) = leaks({"in_domain": train, "zero_shot": held_out})
    assert f"1 row shares their {shared} with in_domain" in leak
    assert values["query_id" if shared.startswith("query") else "product_id"][1] in leak


def test_folds_hold_out_other_queries_of_the_same_documents():
    splits = four_way_split(ranked(40, 12), seed=1)
    folds = query_folds(splits, 5)
    assert folds[0] is splits
    held_out = [set(fold["novel_query"].query_ids) | set(fold["zero_shot"].query_ids) for fold in folds]
    assert sum(map(len, held_out)) == len(set.union(*held_out)) == 40  # every query once
    division = {
        query: half
        for data in splits.values()
        for query, half in zip(data.query_ids, data.queries["division"].to_pylist(), strict=True)
    }
    for fold, unseen in zip(folds, held_out, strict=True):
        assert list(fold) == list(splits)
        for name, data in fold.items():
            assert data.name == name
            assert data.corpus.equals(splits[name].corpus)
            assert (set(data.query_ids) <= unseen) == (name in ("novel_query", "zero_shot"))
            assert [division[query] for query in data.query_ids] == data.queries["division"].to_pylist()
        assert sum(data.qrels.num_rows for data in fold.values()) == sum(d.qrels.num_rows for d in splits.values())
        assert not leaks(fold)
    with pytest.raises(UserError, match="folds=6; 8 of 40 queries allow 1 to 5"):
        query_folds(splits, 6)
    with pytest.raises(DataError, match="folds need the four splits"):
        query_folds({"in_domain": splits["in_domain"]}, 2)
