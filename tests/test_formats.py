import json
import re

import numpy as np
import pyarrow as pa
import pytest
from conftest import ranked

from gcl_toolkit import NDCG, RR, DataError, RankedData, load
from gcl_toolkit.data.formats import (
    qrels_of,
    read_trec_qrels,
    read_trec_run,
    run_of,
    write_trec_qrels,
    write_trec_run,
)
from gcl_toolkit.data.sources.beir import read_beir, write_beir
from gcl_toolkit.data.sources.check import check
from gcl_toolkit.measure.baselines import random_top_k
from gcl_toolkit.measure.evaluate import measure_ranking
from gcl_toolkit.measure.metrics import measure

RUN = {"q1": {"d2": 0.1 + 0.2, "d1": 0.3, "d3": -1e-7}, "q0": {"d1": 7.0}}
QRELS = {"q1": {"d1": 3.0, "d2": 0.5}, "q0": {"d9": 0.0}}


def test_a_ranking_measures_the_same_as_rows_and_as_dicts():
    data = ranked(5, 9)
    rows = random_top_k(5, 9, 7, seed=3)
    rows[2, 3:] = -1
    table = measure(qrels_of(data), run_of(data, rows), [NDCG @ 4, RR])
    assert table.to_numpy() == pytest.approx(measure_ranking(rows, data, [NDCG @ 4, RR]).to_numpy(), abs=1e-12)
    assert len(run_of(data, rows)["q2"]) == 3
    scores = np.linspace(1, -1, 35).reshape(5, 7)
    assert list(run_of(data, rows, scores)["q1"].values()) == scores[1].tolist()


def test_trec_files_come_back_as_they_went(tmp_path):
    write_trec_run(RUN, tmp_path / "run.txt")
    write_trec_qrels(QRELS, tmp_path / "qrels.txt")
    assert read_trec_run(tmp_path / "run.txt") == RUN
    assert read_trec_qrels(tmp_path / "qrels.txt") == QRELS
    first = (tmp_path / "run.txt").read_text().splitlines()[0]
    assert first == "q1 Q0 d2 1 0.30000000000000004 gcl"
    assert (tmp_path / "qrels.txt").read_text().splitlines()[0] == "q1 0 d1 3"


def test_trec_runs_are_written_best_first_and_read_by_score(tmp_path):
    write_trec_run({"q": {"low": 1, "high": 2, "same": 2}}, tmp_path / "run")
    assert [line.split()[2:4] for line in (tmp_path / "run").read_text().splitlines()] == [
        ["high", "1"],
        ["same", "2"],
        ["low", "3"],
    ]
    (tmp_path / "run").write_text("q Q0 a 1 0.5 x\nq\tQ0\tb\t2\t0.9\tx\n\n")
    assert read_trec_run(tmp_path / "run") == {"q": {"a": 0.5, "b": 0.9}}
    (tmp_path / "qrels").write_text("q 0 junk -2\nq 0 good 1\n")
    assert read_trec_qrels(tmp_path / "qrels") == {"q": {"junk": 0.0, "good": 1.0}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q Q0 a 1 0.5 x\nq Q0 b 2 0.4\n", "line 2: 5 columns"),
        ("q Q0 a 1 high x\n", "line 1: score 'high'; a number is expected"),
        ("q Q0 a 1 nan x\n", "line 1: score 'nan'"),
        ("q Q0 a 1 1 x\n\nq Q0 a 2 2 x\n", "line 3: query 'q' lists product 'a' twice"),
    ],
)
def test_errors_in_a_run_name_file_and_line(tmp_path, text, words):
    (tmp_path / "a.run").write_text(text)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'a.run'} {words}")):
        read_trec_run(tmp_path / "a.run")


def test_more_errors_of_trec_files(tmp_path):
    (tmp_path / "qrels").write_text("q 0 a inf\n")
    with pytest.raises(DataError, match="line 1: grade 'inf'; a finite number"):
        read_trec_qrels(tmp_path / "qrels")
    with pytest.raises(DataError, match="no such file"):
        read_trec_run(tmp_path / "none")
    with pytest.raises(DataError, match=r"id 'red mug': .* white space"):
        write_trec_run({"red mug": {"a": 1}}, tmp_path / "run")
    (tmp_path / "latin").write_bytes(b"q Q0 \xfc 1 1 x\n")
    with pytest.raises(DataError, match="line 1: the text is not UTF-8"):
        read_trec_run(tmp_path / "latin")


def beir(folder, **qrels):
    """A small BEIR folder, written by hand."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "d1", "title": "A mug", "text": "red\tand “warm”", "metadata": {"price": 3.5, "urls": ["x"]}},
        {"_id": "d2", "title": "", "text": "A rug"},
        {"_id": "d3", "title": "A bag", "text": "", "metadata": {"price": 4, "colour": "blue"}},
    ]
    queries = [{"_id": f"q{n}", "text": f"query {n}", "metadata": {}} for n in range(4)]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    for name, rows in qrels.items():
        text = "\n".join(["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)])
        (folder / "qrels" / f"{name}.tsv").write_text(text + "\n")
    return folder


def test_a_beir_folder_is_ranked_data(tmp_path):
    data = read_beir(beir(tmp_path / "mugs", test=[("q2", "d1", 2), ("q2", "d3", 0), ("q0", "d2", 1)]))
    assert data.queries.to_pylist() == [{"query_id": "q0", "query": "query 0"}, {"query_id": "q2", "query": "query 2"}]
    assert data.corpus.to_pylist() == [
        {"product_id": "d1", "price": "3.5", "title": "A mug", "text": "red\tand “warm”", "colour": None},
        {"product_id": "d2", "price": None, "title": "", "text": "A rug", "colour": None},
        {"product_id": "d3", "price": "4", "title": "A bag", "text": "", "colour": "blue"},
    ]
    assert qrels_of(data) == {"q0": {"d2": 1.0}, "q2": {"d1": 2.0, "d3": 0.0}}
    assert data.name == "mugs"


def test_beir_comes_back_as_it_went(tmp_path):
    data = read_beir(beir(tmp_path / "mugs", test=[("q2", "d1", 2), ("q2", "d3", 0), ("q0", "d2", 1)]))
    write_beir(data, tmp_path / "again")
    again = read_beir(tmp_path / "again")
    assert again.queries.equals(data.queries)
    assert again.corpus.select(data.corpus.column_names).equals(data.corpus)
    assert again.qrels.equals(data.qrels)
    lines = [json.loads(line) for line in (tmp_path / "again" / "corpus.jsonl").read_text().splitlines()]
    assert lines[2] == {"_id": "d3", "title": "A bag", "text": "", "metadata": {"price": "4", "colour": "blue"}}


def test_load_takes_beir_s_own_splits(tmp_path):
    both = beir(tmp_path / "a", train=[("q0", "d1", 1)], dev=[("q1", "d1", 1)], test=[("q2", "d2", 1), ("q3", "d2", 1)])
    splits = load(both)
    assert list(splits) == ["in_domain", "novel_query"]
    assert splits["novel_query"].only("dev").query_ids.tolist() == ["q1"]
    assert splits["novel_query"].only("test").query_ids.tolist() == ["q2", "q3"]
    assert {data.corpus.num_rows for data in splits.values()} == {3}
    alone = load(beir(tmp_path / "b", test=[("q2", "d2", 1)]))
    assert list(alone) == ["zero_shot"]
    assert alone["zero_shot"].only("test").query_ids.tolist() == ["q2"]
    with pytest.raises(DataError, match=r"qrels of train, dev, validation or test are expected; it has other"):
        load(beir(tmp_path / "c", other=[("q2", "d2", 1)]))


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("qrels/test.tsv", "q1\td1", "test.tsv: .*Expected 3 columns, got 2"),
        ("qrels/test.tsv", "q1\td1\tgood", r"qrels row 1 \(query 'q1', product 'd1'\): score is 'good'"),
        ("qrels/test.tsv", "q9\td1\t1", "qrels row 1: query_id 'q9' is not in the queries"),
        ("qrels/test.tsv", "q1\td9\t1", "qrels row 1: product_id 'd9' is not in the corpus"),
        ("corpus.jsonl", '{"_id": "d4", "title"', "corpus.jsonl line 4: not JSON"),
        ("queries.jsonl", '{"text": "no id"}', "queries.jsonl line 5: an object with an _id"),
    ],
)
def test_errors_in_a_beir_folder_name_file_and_line(tmp_path, file, line, words):
    folder = beir(tmp_path / "mugs", test=[("q0", "d1", 1)])
    with (folder / file).open("a") as written:
        written.write(line + "\n")
    with pytest.raises(DataError, match=words):
        read_beir(folder)
    assert any(re.search(words, problem) for problem in check(folder)[1])


def test_check_lists_what_a_beir_folder_holds(tmp_path):
    facts, problems = check(beir(tmp_path / "mugs", train=[("q0", "d1", 1)], test=[("q1", "d1", 1), ("q2", "d2", 2)]))
    assert facts[0].endswith("read as beir, in_domain, novel_query")
    assert "novel_query: 2 queries, 3 products, 2 pairs" in facts
    assert problems == []


def test_what_beir_can_not_hold_is_an_error(tmp_path):
    data = ranked(2, 2)
    write_beir(data, tmp_path / "a")  # the pictures are left out
    assert read_beir(tmp_path / "a").corpus_fields == ["title", "text"]
    half = pa.table({"query_id": ["q0"], "product_id": ["p0"], "score": [0.5]})
    with pytest.raises(DataError, match=r"score 0.5; BEIR's grades are integers: use weighting.rescale"):
        write_beir(RankedData(data.queries, data.corpus, half), tmp_path / "b")
    with pytest.raises(DataError, match=r"corpus.jsonl, queries.jsonl and qrels/ are expected"):
        read_beir(tmp_path)
