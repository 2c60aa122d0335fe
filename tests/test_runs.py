"""Runs and qrels in the forms that other programs write, and what is wrong with them."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gcl_toolkit import DataError, UserError
from gcl_toolkit.app.service import Service
from gcl_toolkit.data.formats import write_trec_qrels, write_trec_run
from gcl_toolkit.data.judgements import Judgements
from gcl_toolkit.data.runs import named, read_qrels, read_run, read_systems, systems, with_judgements
from gcl_toolkit.measure.metrics import NDCG, measure, measure_ranked, ranked_gains
from gcl_toolkit.views.bundle import read_bundle
from gcl_toolkit.views.bundle.parts import write_runs

RUN = {"q1": {"d2": 3.5, "d1": 2.0, "007": -1.0}, "red mug": {"d9": 0.25}}
QRELS = {"q1": {"d2": 3.0, "d1": 0.0}, "red mug": {"d9": 1.0, "d8": 2.0}}
TREC = {query.replace(" ", "_"): row for query, row in RUN.items()}
TREC_QRELS = {query.replace(" ", "_"): row for query, row in QRELS.items()}


def rows(table, *names):
    return pd.DataFrame([(q, p, v) for q, row in table.items() for p, v in row.items()], columns=names)


def written(path, text):
    path.write_text(text)
    return path


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_trec_run_is_read_whatever_its_name(tmp_path):
    for name in ("run.trec", "run.txt", "run", "run.csv"):
        write_trec_run(TREC, tmp_path / name)
        assert read_run(tmp_path / name) == TREC


@pytest.mark.parametrize(
    "names", [("query_id", "product_id", "score"), ("qid", "docno", "score"), ("query", "sku", "_score")]
)
def test_a_table_with_scores_is_a_run(tmp_path, names):
    table = rows(RUN, *names)
    table.to_csv(tmp_path / "run.csv", index=False)
    table.to_csv(tmp_path / "run.tsv", index=False, sep="\t")
    table.to_csv(tmp_path / "excel.csv", index=False, sep=";")
    table.to_json(tmp_path / "run.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "run.parquet")
    table.to_parquet(tmp_path / "nameless")
    for file in tmp_path.iterdir():
        assert read_run(file) == RUN, file.name


def test_a_table_with_ranks_is_a_run(tmp_path):
    table = rows({"q1": {"b": 2, "a": 1, "c": 10}}, "query_id", "product_id", "rank")
    table.to_csv(tmp_path / "run.csv", index=False)
    assert read_run(tmp_path / "run.csv") == {"q1": {"b": -2, "a": -1, "c": -10}}


def test_numeric_ids_are_text_as_they_were_written(tmp_path):
    table = pd.DataFrame({"query_id": [7, 8], "product_id": [1.0, 2.0], "score": [1, 2]})
    table.to_parquet(tmp_path / "run.parquet")
    assert read_run(tmp_path / "run.parquet") == {"7": {"1": 1.0}, "8": {"2": 2.0}}
    written(tmp_path / "run.csv", "query_id,product_id,score\n007,001,1\n")
    assert read_run(tmp_path / "run.csv") == {"007": {"001": 1.0}}


def test_what_ranx_saves_is_read(tmp_path):
    """Its JSON, its parquet and its .lz4 (CBOR in two frames), written as ranx 0.3.21 does: importing it compiles for
    a minute."""
    cbor2, frame = pytest.importorskip("cbor2"), pytest.importorskip("lz4.frame")
    packed = frame.compress(frame.compress(cbor2.dumps(RUN), compression_level=16))
    (tmp_path / "run.lz4").write_bytes(packed)
    written(tmp_path / "run.json", json.dumps(RUN))
    rows(RUN, "q_id", "doc_id", "score").to_parquet(tmp_path / "run.parquet", index=False)
    for file in tmp_path.iterdir():
        assert read_run(file) == RUN, file.name
    written(tmp_path / "qrels.json", json.dumps(QRELS))
    rows(QRELS, "q_id", "doc_id", "score").to_parquet(tmp_path / "qrels.parquet")
    for ending in ("json", "parquet"):
        assert read_qrels(tmp_path / f"qrels.{ending}") == QRELS
    (tmp_path / "cut.lz4").write_bytes(packed[:-9])
    with pytest.raises(DataError, match=r"cut.lz4: can't be read .* is the file complete"):
        read_run(tmp_path / "cut.lz4")


# -- qrels -------------------------------------------------------------------------------------------------------------


def test_trec_qrels_are_read_and_junk_counts_0(tmp_path):
    write_trec_qrels(TREC_QRELS, tmp_path / "qrels.txt")
    assert read_qrels(tmp_path / "qrels.txt") == TREC_QRELS
    written(tmp_path / "qrels.txt", "q1 0 d1 -2\nq1\t0\td2\t1\n")
    assert read_qrels(tmp_path / "qrels.txt") == {"q1": {"d1": 0.0, "d2": 1.0}}


@pytest.mark.parametrize(
    "names", [("query-id", "corpus-id", "score"), ("query_id", "product_id", "grade"), ("query", "docid", "relevance")]
)
def test_a_table_with_grades_is_qrels(tmp_path, names):
    table = rows(QRELS, *names)
    table.to_csv(tmp_path / "test.tsv", index=False, sep="\t")
    table.to_csv(tmp_path / "qrels.csv", index=False)
    table.to_parquet(tmp_path / "qrels.parquet")
    for file in tmp_path.iterdir():
        assert read_qrels(file) == QRELS, file.name


def test_quepids_exports_are_qrels(tmp_path):
    """Its basic CSV, in which a query without ratings is a line of one value, its TREC and its JSON."""
    text = 'query,docid,rating\nstar wars,11,3\n"toys, cheap",862,0\nno ratings\n'
    assert read_qrels(written(tmp_path / "basic.csv", text)) == {"star wars": {"11": 3.0}, "toys, cheap": {"862": 0.0}}
    assert read_qrels(written(tmp_path / "trec.txt", "\n1 0 11 3\n\n1 0 862 0\n")) == {"1": {"11": 3.0, "862": 0.0}}
    text = json.dumps({"queries": [{"query": "star wars", "ratings": {"11": 3, "862": 0}}]})
    assert read_qrels(written(tmp_path / "case.json", text)) == {"star wars": {"11": 3.0, "862": 0.0}}


OPENSEARCH = [{"query": "red mug", "ratings": [{"docId": "B1", "rating": "3.000"}, {"docId": "B2", "rating": 0}]}]


@pytest.mark.parametrize(
    "exported",
    [
        {"name": "Imported", "type": "IMPORT_JUDGMENT", "judgmentRatings": OPENSEARCH},
        {"judgmentRatings": {"red mug": OPENSEARCH[0]["ratings"]}},
        {"judgmentScores": {"red mug": [{"docId": "B1", "score": "3.0"}, {"docId": "B2", "score": "0.0"}]}},
        {"hits": {"total": {"value": 1}, "hits": [{"_id": "x", "_source": {"judgmentRatings": OPENSEARCH}}]}},
        {"requests": [{"id": "red mug", "ratings": [{"_id": "B1", "rating": 3}, {"_id": "B2", "rating": 0}]}]},
        OPENSEARCH,
    ],
)
def test_opensearchs_judgements_are_qrels(tmp_path, exported):
    path = written(tmp_path / "judgements.json", json.dumps(exported, indent=1))
    assert read_qrels(path) == {"red mug": {"B1": 3.0, "B2": 0.0}}


# -- what is wrong with a file -----------------------------------------------------------------------------------------

TREC_LINE, QREL_LINE = "q1 Q0 d1 1 2.5 tag\n", "q1 0 d1 1\n"


@pytest.mark.parametrize(
    ("read", "name", "text", "problem"),
    [
        (read_run, "qrels.txt", QREL_LINE, "these are qrels; give them with --qrels"),
        (read_run, "q.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n", "'score' is a grade: give qrels with --qrels"),
        (read_run, "q.csv", "query,product_id,rating\nq,d,1\n", "'rating' is a grade"),
        (read_run, "q.csv", "query,docid,rating\nq,d,1\n", "these are qrels"),
        (read_run, "j.json", json.dumps({"judgmentRatings": OPENSEARCH}), "this is a judgement list"),
        (read_run, "r.json", "[1]", r"it holds a list; a run is \{query: \{product: score\}\}"),
        (read_run, "r.json", '{"q": {"d": 1', "can't be read .* is the file complete"),
        (read_run, "r.json", '{"q": {"d": "high"}}', "query 'q', product 'd': a score is expected, not 'high'"),
        (read_run, "r.json", '{"q": {"d": 1, "d": 2}}', "the key 'd' appears twice in an object"),
        (read_run, "r.txt", "", "the file is empty"),
        (read_run, "r.csv", "query_id,product_id,score\n", "the table has no rows"),
        (read_run, "r.csv", "query_id|product_id|score\nq|d|1\n", "separate columns by comma, semicolon or tab"),
        (read_run, "r.csv", "query_id,score\nq,1\n", "no column holds the product; .* rename one to product_id"),
        (read_run, "r.csv", "query_id,product_id\nq,d\n", "there is no column rank or score"),
        (read_run, "r.csv", "query_id,product_id,score\nq,d,\n", "line 2: query 'q', .*: a score is expected, not ''"),
        (read_run, "r.csv", "query_id,product_id,score\nq,,1\n", "line 2: column 'product_id' is empty"),
        (read_run, "r.csv", "query_id,product_id,score\nq,d,1\nq,d,2\n", "line 3: query 'q' lists product 'd' twice"),
        (read_run, "r.csv", "query_id;product_id;score\nq;d;1,5\n", "line 2: .*, not '1,5'; write a decimal point"),
        (read_run, "r.csv", "query_id,product_id,rank\nq,d,1\nq,e,1\n", "query 'q' has two products at one rank"),
        (read_run, "r.csv", "query_id,product_id,rank\nq,d,-1\n", "line 2: .* a rank is expected, not '-1'"),
        (read_run, "r.csv", "query_id,product_id,rank,score\nq,d,1,.1\nq,e,2,.2\n", "scores rise with the ranks"),
        (read_run, "r.txt", "q1 Q0 d1 1 2.5\n" * 2, "a TREC line has 6 columns"),
        (read_run, "r.txt", TREC_LINE * 2, "line 2: query 'q1' lists product 'd1' twice"),
        (read_run, "r.txt", TREC_LINE + "q1 Q0 d2 2 3.5 tag\n", "scores rise with the ranks.* negate distances"),
        (read_run, "r.txt", TREC_LINE + "q1 Q0 d2 2 1.5\n", "line 2: 5 columns"),
        (read_qrels, "r.trec", TREC_LINE, "this is a run, not qrels"),
        (read_qrels, "r.csv", "query_id,product_id,rank,score\nq,d,1,1\n", "it has a column 'rank': this is a run"),
        (read_qrels, "q.csv", "query_id,product_id,grade\nq,d,-1\n", "line 2: .* a grade of 0 or more is .* '-1'"),
        (read_qrels, "q.jsonl", '{"query": "q", "docid": "d", "grade": "x"}\n', "line 1: query 'q', product 'd'"),
        (read_qrels, "q.json", '{"q": 3}', "entry 0 is not a judged query"),
        (read_qrels, "q.json", '{"hits": {"hits": [{"_source": {}}, {"_source": {}}]}}', "it holds 2 judgement lists"),
        (read_qrels, "q.json", '{"judgmentRatings": [{"query": "q", "ratings": [{"rating": 1}]}]}', "has no docId"),
        (read_qrels, "q.csv", "query_id,product_id\nq,d\n", "no column holds the grade"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_named_with_the_problem(tmp_path, read, name, text, problem):
    path = written(tmp_path / name, text)
    with pytest.raises(DataError, match=problem) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_faulty_row_of_parquet_counts_from_1(tmp_path):
    pd.DataFrame({"query": ["q", "q"], "docid": ["d", "d"], "grade": [1, 2]}).to_parquet(tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"q.parquet row 2: query 'q' lists product 'd' twice"):
        read_qrels(tmp_path / "q.parquet")


def test_capitals_and_spaces_of_column_names_do_not_count(tmp_path):
    text = "Query ID;Doc ID;Score\nq;d;1.5\n"
    assert read_run(written(tmp_path / "r.csv", text)) == {"q": {"d": 1.5}}
    assert read_qrels(written(tmp_path / "q.csv", text.replace("Score", "Grade"))) == {"q": {"d": 1.5}}


@pytest.mark.parametrize("read", [read_run, read_qrels])
def test_latin_1_and_missing_files_are_reported(tmp_path, read):
    (tmp_path / "latin.csv").write_bytes("query_id,product_id,score\ntête,d,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.csv line 2: the text is not UTF-8"):
        read(tmp_path / "latin.csv")
    with pytest.raises(DataError, match=r"nowhere.txt: no such file"):
        read(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match=r": it is a folder; a file is expected"):
        read(tmp_path)
    (tmp_path / "run.gz").write_bytes(gzip.compress(TREC_LINE.encode()))
    with pytest.raises(DataError, match=r"run.gz: it is compressed .* unpack it"):
        read(tmp_path / "run.gz")


# -- systems -----------------------------------------------------------------------------------------------------------

A = {"q1": {"p1": 3.0, "p2": 2.0, "p9": 1.0}, "q2": {"p2": 1.0}}
B = {"q1": {"p2": 9.0, "p1": 9.0}, "q3": {"p1": 1.0}}
GRADES = {"q1": {"p1": 1.0, "p3": 2.0}, "q2": {"p2": 1.0}, "q4": {"p1": 1.0}}


def listed(data, rows_K):
    return [data.product_ids[row] for row in rows_K if row >= 0]


def test_the_corpus_is_the_union_and_the_queries_those_judged_and_ranked(tmp_path):
    text = "product_id,product_title,picture,colour\np1,Mug,p1.png,red\np5,Cup,,blue\n"
    Image.new("RGB", (8, 8), "red").save(tmp_path / "p1.png")
    data, rankings = systems({"a": A, "b": B}, GRADES, written(tmp_path / "products.csv", text))
    assert data.query_ids.tolist() == ["q1", "q2"]
    assert set(data.product_ids) == {"p1", "p2", "p3", "p5", "p9"}
    assert data.corpus.slice(0, 1).select(["title", "colour"]).to_pylist() == [{"title": "Mug", "colour": "red"}]
    assert data.corpus["image"][0].as_py()["path"] == str(tmp_path / "p1.png")
    assert [listed(data, row) for row in rankings["a"]] == [["p1", "p2", "p9"], ["p2"]]
    assert [listed(data, row) for row in rankings["b"]] == [["p2", "p1"], []]
    assert data.card["notes"] == [
        "left out: 1 judged query in no run",
        "b ranks nothing for 1 of 2 queries, where it counts 0",
        "left out: 1 query of b without judgements",
        "not in the product table: 2 ranked products, such as 'p2'",
    ]


def test_rankings_are_measured_as_the_runs_are():
    rng = np.random.default_rng(0)
    ids = [f"p{n}" for n in range(60)]
    run = {f"q{q}": {p: float(s) for p, s in zip(ids, rng.normal(size=60), strict=True)} for q in range(20)}
    qrels = {f"q{q}": {str(p): float(rng.integers(4)) for p in rng.choice(ids, 15, replace=False)} for q in range(20)}
    data, rankings = systems({"a": run, "b": run}, qrels)
    query, product, grade = data.pairs
    found = measure_ranked(ranked_gains(query, product, grade, rankings["a"]), query, grade, [NDCG @ 10])
    np.testing.assert_allclose(found, measure(qrels, run, [NDCG @ 10]))


def test_texts_come_from_a_table_of_queries_or_are_the_ids(tmp_path):
    table = written(tmp_path / "queries.jsonl", '{"_id": "q1", "text": "red mug"}\n{"_id": "q2", "text": "cup"}\n')
    data, _ = systems({"a": A, "b": B}, GRADES, queries=table)
    assert data.queries["query"].to_pylist() == ["red mug", "cup"]
    by_text = {"red mug": GRADES["q1"], "cup": GRADES["q2"]}  # as in Quepid's export
    again, _ = systems({"a": A, "b": B}, by_text, queries=table)
    assert again.query_ids.tolist() == ["q1", "q2"]
    runs = {"a": {"red mug": {"p1": 1.0}}}
    data, _ = systems(runs, by_text)
    assert data.queries["query"].to_pylist() == ["red mug"]


@pytest.mark.parametrize(
    ("run", "qrels", "problem"),
    [
        ({"1": {"p1": 1.0}}, {"001": {"p1": 1.0}}, r"query '1' of the run a is '001' in the qrels \(1 such .* zeros"),
        ({"1.0": {"p1": 1.0}}, {"1": {"p1": 1.0}}, "a '.0'; write ids alike"),
        ({"Q1": {"p1": 1.0}}, {"q1": {"p1": 1.0}}, "query 'Q1' of the run a is 'q1' in the qrels"),
        ({"q1": {"7": 1.0, "8": 0.5}}, {"q1": {"0007": 1.0}}, "product '7' of the run a is '0007'"),
        ({"x": {"p1": 1.0}}, {"q1": {"p1": 1.0}}, "no query is in both: 'x' in the run a, 'q1' in the qrels"),
        ({"q1": {"x": 1.0}}, {"q1": {"p1": 1.0}}, "the run a ranks no judged product: 'x', in the qrels 'p1'"),
    ],
)  # fmt: skip
def test_ids_that_do_not_match_are_named_with_the_reason(run, qrels, problem):
    with pytest.raises(DataError, match=problem):
        systems({"a": run, "b": run}, qrels)


def test_a_faulty_product_table_is_reported(tmp_path):
    for text, problem in (
        ("product_id,title\np1,a\np1,b\n", "line 3: product 'p1' appears twice"),
        ("name\nmug\n", "no column holds the product"),
        ("product_id,title\nP1,a\n", "product 'p1' of the qrels is 'P1' in the product table"),
    ):
        with pytest.raises(DataError, match=problem):
            systems({"a": A}, GRADES, written(tmp_path / "products.csv", text))


def test_texts_that_are_missing_or_not_unique_are_reported(tmp_path):
    path = tmp_path / "queries.csv"
    data, _ = systems({"a": A}, GRADES, queries=written(path, "query_id,query\nq1,mug\n"))
    assert data.card["notes"][1] == "1 of 2 queries have no text, such as 'q2'"
    with pytest.raises(DataError, match=r"queries.csv line 3: query 'q1' has two texts"):
        systems({"a": A}, GRADES, queries=written(path, "query_id,query\nq1,mug\nq1,cup\n"))
    with pytest.raises(DataError, match="two queries are 'mug'; give the qrels by query_id"):
        systems({"a": A}, {"mug": {"p1": 1.0}}, queries=written(path, "query_id,query\nq1,mug\nq2,mug\n"))


def test_what_is_not_compared_is_noted(tmp_path):
    deep = {"q1": {f"p{rank}": -float(rank) for rank in range(1001)}, "q2": {"p2": 1.0}}
    table = pd.DataFrame({"product_id": ["p1", "p2"], "tags": [["a"], ["b", "c"]]})
    table.to_parquet(tmp_path / "products.parquet")
    data, _ = systems({"a": deep}, GRADES, tmp_path / "products.parquet")
    notes = " ".join(data.card["notes"])
    assert "column 'tags' is not read" in notes
    assert "of a, ranks below 1,000 are left out" in notes


def test_systems_are_named_by_their_files_or_as_asked(tmp_path):
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        write_trec_run(TREC, tmp_path / folder / "run.trec")
    files = [str(tmp_path / folder / "run.trec") for folder in ("old", "new")]
    assert list(named(files)) == ["old-run", "new-run"]
    assert list(named([files[0], f"Élan 2={files[1]}"])) == ["run", "_lan_2"]
    with pytest.raises(
        UserError, match=r"a=.*old/run.trec and a=.*new/run.trec have the same name; give each run once"
    ):
        named([f"a={file}" for file in files])
    with pytest.raises(UserError, match=r"new/run.trec and .*new/run.trec have the same name"):
        named([*files, files[1]])
    with pytest.raises(UserError, match="1 run given; 2 to 5"):
        named(files[:1])


def test_peoples_judgements_replace_and_extend_the_qrels(tmp_path):
    judgements = Judgements(tmp_path / "grades.jsonl")
    judgements.grade("q1", "p1", 4, "me")
    judgements.grade("q1", "p9", 2, "me")
    judgements.grade("q1", "p3", 0, "lm:model@1")
    merged = with_judgements(GRADES, judgements)
    assert merged["q1"] == {"p1": 4.0, "p3": 2.0, "p9": 2.0}
    assert merged["q2"] == GRADES["q2"]
    hundred = with_judgements({"q1": {"p1": 100.0}}, judgements)
    assert hundred["q1"] == {"p1": 100.0, "p9": 50.0}


# -- the bundle --------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path):
    """Three runs of different depths, with pictures and titles, as the app serves them."""
    ids = [f"p{n}" for n in range(30)]
    for number in range(30):
        Image.new("RGB", (20, 30), (8 * number, 0, 0)).save(tmp_path / f"{number}.png")
    table = pd.DataFrame({"product_id": ids, "title": ["mug"] * 30, "image": [f"{n}.png" for n in range(30)]})
    table.assign(kind=["a", "b"] * 15).to_csv(tmp_path / "products.csv", index=False)
    rng = np.random.default_rng(1)
    qrels = {f"q{q}": {str(p): float(rng.integers(4)) for p in rng.choice(ids, 9, replace=False)} for q in range(40)}
    write_trec_qrels(qrels, tmp_path / "qrels.txt")
    for name, depth in (("deep", 25), ("flat", 12), ("old", 20)):
        run = {q: {str(p): -float(r) for r, p in enumerate(rng.permutation(ids)[:depth])} for q in qrels}
        write_trec_run(run, tmp_path / f"{name}.trec")
    files = [str(tmp_path / f"{name}.trec") for name in ("deep", "flat", "old")]
    data, rankings = read_systems(files, tmp_path / "qrels.txt", tmp_path / "products.csv")
    write_runs(data, rankings, tmp_path / "bundle", control="old", category="kind")
    return Service(read_bundle(tmp_path / "bundle"), Judgements(tmp_path / "grades.jsonl"))


def test_a_bundle_of_runs_has_ranks_and_no_vectors(service, tmp_path):
    bundle = service.bundle
    assert bundle.pair == ("deep", "old")
    assert (bundle.manifest["unlisted"], bundle.manifest["query"]) == ("unjudged", "query_id")
    assert {system.kind for system in bundle.systems.values()} == {"run"}
    assert service.searchable == []
    state = service.state()
    assert (state.a, state.b, state.split, state.division) == ("deep", "old", "all", "all")
    assert service.metrics("deep")["NDCG@10"].iat[service.labels["all"][state.query]] > 0
    assert "category: a" in service.slices("all")
    assert bundle.thumbnail(3)[:4] == b"RIFF"
    run, qrels = read_run(tmp_path / "flat.trec"), read_qrels(tmp_path / "qrels.txt")
    expected = measure(qrels, run, [*bundle.metrics]).reset_index(drop=True)
    pd.testing.assert_frame_equal(service.metrics("flat"), expected, check_exact=False, check_index_type=False)


def test_ranks_below_what_a_run_ranks_are_unknown(service):
    query = service.state().query
    ranks_N = service.ranks("all", query, "flat")
    assert sorted(ranks_N[ranks_N > 0]) == list(range(1, 13))
    comparison = service.compare("all", query, "deep", "flat", "old")
    assert [ranking.listed for ranking in comparison.rankings] == [25, 12, 20]
    for product in comparison.a.products:
        assert product.other["flat"] == (ranks_N[product.item] or None)
    assert any(product.other["flat"] is None for product in comparison.a.products)
    table = service.queries(service.state({"also": "flat"}))
    assert table["unjudged"].between(1, 30).all()
