"""gcl judge against a local server: what it grades, what it costs, that it continues; and the verdict that follows."""

import csv
import math
import threading
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from gcl_toolkit import cli
from gcl_toolkit.curate.demo import Shop, serve
from gcl_toolkit.curate.filling import STORED, judge_name
from gcl_toolkit.data.judgements import Judgements
from gcl_toolkit.measure.ppi import random_order

QUERIES, DEPTH = 70, 5
NAME = judge_name("m")


@pytest.fixture(scope="module")
def shop():
    return Shop(products=300, queries=200)


class Counted:
    """The shop's answers, counted; `answer` may raise the number of queries at which the server fails."""

    def __init__(self, shop, fails_from=math.inf):
        self.shop, self.asked, self.fails_from, self.lock = shop, Counter(), fails_from, threading.Lock()

    def answer(self, path, parameters, body, origin):
        reply = self.shop.answer(path, parameters, body, origin)
        with self.lock:
            self.asked[path] += 1
            broken = self.asked[path] >= self.fails_from
        return reply._replace(status=400) if broken else reply


@pytest.fixture
def files(tmp_path, shop):
    """Two runs of ten products, qrels of the first two ranks of the first run, and tables of texts and titles."""
    rng, grades = np.random.default_rng(0), {}
    new = {f"q{row:02d}": shop.rankings[row][:10] for row in range(QUERIES)}
    old = {query: rng.permutation(shop.rankings[int(query[1:])][:20])[:10] for query in new}
    for name, run in (("new", new), ("old", old)):
        lines = [f"{q} Q0 {p:05d} {r + 1} {10 - r} {name}\n" for q, found in run.items() for r, p in enumerate(found)]
        (tmp_path / f"{name}.trec").write_text("".join(lines))
    for query, found in new.items():
        grades |= {(query, f"{product:05d}"): 3 - rank for rank, product in enumerate(found[:2])}
    (tmp_path / "qrels.txt").write_text("".join(f"{q} 0 {p} {g}\n" for (q, p), g in grades.items()))
    titles = {"product_id": [f"{p:05d}" for p in range(300)], "title": shop.catalogue.titles}
    pd.DataFrame(titles).to_csv(tmp_path / "products.csv", index=False)
    texts = {"query_id": list(new), "query": [shop.queries[row].text for row in range(QUERIES)]}
    pd.DataFrame(texts).to_csv(tmp_path / "queries.csv", index=False)
    pooled = {(q, f"{p:05d}") for run in (new, old) for q, found in run.items() for p in found[:DEPTH]}
    return tmp_path, pooled - grades.keys()


def arguments(folder, *more, command="judge"):
    given = [str(folder / f"{name}.trec") for name in ("new", "old")]
    options = ("qrels", "qrels.txt"), ("products", "products.csv"), ("queries", "queries.csv")
    paths = [part for name, file in (*options, ("judgements", "j.jsonl")) for part in (f"--{name}", str(folder / file))]
    return [command, *given, *paths, *more]


def ask(folder, address, *more):
    cli.main(
        arguments(
            folder, "--depth", str(DEPTH), "--model", "m", "--model-url", f"{address}/v1", "--rate", "9999", *more
        )
    )


def test_the_unjudged_pool_is_graded_once_and_a_second_run_asks_nothing(files, shop, capsys):
    folder, open_pairs = files
    server = Counted(shop)
    with serve(server) as address:
        ask(folder, address)
        asked, lines = server.asked.total(), (folder / "j.jsonl").read_text()
        ask(folder, address)
    table = Judgements(folder / "j.jsonl").last()
    assert set(zip(table["query_id"], table["product_id"], strict=True)) == open_pairs
    assert set(table["judge"]) == {NAME}
    assert set(table["grade"]) <= set(STORED.values())
    assert asked == QUERIES  # a request a query: fewer than 20 products
    assert server.asked.total() == asked
    assert (folder / "j.jsonl").read_text() == lines
    printed = capsys.readouterr().out
    assert f"{len(open_pairs)} unjudged products of {QUERIES} queries; {QUERIES} requests" in printed
    assert f"0 new grades by {NAME}; {QUERIES} requests" in printed
    # the server's answers, by what it was asked: its grades of the template
    row = table.iloc[0]
    query, title = shop.queries[int(row["query_id"][1:])].text, shop.catalogue.titles[int(row["product_id"])]
    listed = [
        shop._grades({"query": query, "products": [{"id": place, "title": title}]})["grades"][str(place)]
        for place in range(1, 12)
    ]
    assert row["grade"] in {STORED[grade] for grade in listed}


def test_a_budget_stops_it_between_batches_in_random_order_and_it_continues(files, shop, capsys):
    folder, open_pairs = files
    order = [f"q{row:02d}" for row in random_order([f"q{row:02d}" for row in range(QUERIES)])]
    with serve(Counted(shop)) as address:
        with pytest.raises(SystemExit):
            ask(folder, address, "--max-requests", "60")
        assert "60 requests were sent, which is the cap (--max-requests)" in capsys.readouterr().err
        graded = Judgements(folder / "j.jsonl").last()["query_id"].unique().tolist()
        assert graded == order[:50]
        ask(folder, address)
    table = Judgements(folder / "j.jsonl").last()
    assert len(table) == len(open_pairs)
    assert f"{QUERIES} requests" in capsys.readouterr().out.splitlines()[-2]


def test_an_error_of_the_server_is_one_line_and_the_next_run_continues(files, shop, capsys):
    folder, open_pairs = files
    server = Counted(shop, fails_from=65)
    with serve(server) as address:
        with pytest.raises(SystemExit):
            ask(folder, address)
        assert "returns 400" in capsys.readouterr().err
        server.fails_from = math.inf
        before = server.asked.total()
        ask(folder, address)
    assert server.asked.total() - before <= QUERIES - 60
    assert len(Judgements(folder / "j.jsonl").last()) == len(open_pairs)


def test_queries_for_people_come_in_random_order_and_their_grades_correct_the_judge(files, shop, capsys):
    folder, open_pairs = files
    with serve(Counted(shop)) as address:
        ask(folder, address)
    cli.main(arguments(folder, "--depth", str(DEPTH), "--for-human", "40"))
    order = [f"q{row:02d}" for row in random_order([f"q{row:02d}" for row in range(QUERIES)])]
    with (folder / "j.people.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["query_id"] for row in rows)) == order[:40]
    assert {(row["query_id"], row["product_id"]) for row in rows} == {
        pair for pair in open_pairs if pair[0] in order[:40]
    }
    judge = {(r.query_id, r.product_id): r.grade for r in Judgements(folder / "j.jsonl").last().itertuples()}
    people = [row | {"grade": max(0, judge[row["query_id"], row["product_id"]] - 1)} for row in rows]
    Judgements(folder / "j.jsonl").add_qrels(pd.DataFrame(people).to_csv(index=False), judge="ann")
    capsys.readouterr()
    cli.main(
        arguments(folder, "--metric", f"NDCG@{DEPTH}", "--judge", NAME, "--out", str(folder), command="compare-runs")
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "(70 queries, corrected by 40 human-judged queries)" in printed
    assert "judge alone: NDCG@5" in printed
    report = " ".join((folder / "verdict.html").read_text().split())
    assert "corrected by people's</h2>" in report
    assert report.count("corrected by 40 human-judged queries") == 1
    with pytest.raises(SystemExit):
        cli.main(arguments(folder, "--judge", "lm:other", command="compare-runs"))
    assert f"unknown judge 'lm:other'; known: ann, {NAME}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--depth", "0"), "--depth is 0"),
        (("--model", ""), "no language model"),
        (("--workers", "0"), "workers is 0; it must be from 1 to 64"),
        (("--products", "queries.csv"), "column"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_sent(files, capsys, change, message):
    folder, _ = files
    change = [str(folder / part) if part.endswith(".csv") else part for part in change]
    with pytest.raises(SystemExit):
        ask(folder, "http://127.0.0.1:9", *change)
    assert message in capsys.readouterr().err


def test_a_table_without_titles_is_named(files, capsys):
    folder, _ = files
    pd.DataFrame({"product_id": ["00001"], "colour": ["red"]}).to_csv(folder / "products.csv", index=False)
    with pytest.raises(SystemExit):
        ask(folder, "http://127.0.0.1:9")
    assert "has no column 'title', which a judge reads" in capsys.readouterr().err
