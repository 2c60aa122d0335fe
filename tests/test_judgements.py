"""Judgements survive a kill at any byte, several processes and bad files; undo, and qrels there and back."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gcl_toolkit.data.judgements import COLUMNS, Judgements
from gcl_toolkit.errors import DataError, UserError

WRITER = """
import sys
from gcl_toolkit.data.judgements import Judgements
judgements = Judgements(sys.argv[1])
for number in range(int(sys.argv[3])):
    judgements.grade("q", f"p{number}", number % 5, sys.argv[2], "a note of " + "some " * 20)
    print(number, flush=True)
"""


def pairs(judgements):
    return {(q, p): grade for q, p, grade in judgements.grades().itertuples(index=False)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made here" / "judgements.jsonl"


def start(path, judge, number):
    command = [sys.executable, "-c", WRITER, str(path), judge, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_file_that_ends_at_any_byte_keeps_its_complete_lines_and_goes_on(path):
    whole = Judgements(path)
    for number in range(2):
        whole.grade(f"q{number}", "größe", number, "ann", "ä\nb")
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        complete = data[:size].count(b"\n")
        again = Judgements(path)
        assert again.revision == complete
        again.grade("q9", "p", 4, "bob")
        expected = {(f"q{number}", "größe"): number for number in range(complete)} | {("q9", "p"): 4}
        assert pairs(Judgements(path)) == expected
        assert len(path.read_bytes().splitlines()) == complete + 1


def test_a_killed_process_loses_nothing_that_it_reported(path):
    process = start(path, "ann", 100_000)
    while process.stdout.readline().strip() != "40":
        pass
    time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    reported = 41 + len(process.communicate()[0].split())
    kept = Judgements(path)
    assert reported <= kept.revision <= reported + 1
    assert pairs(kept) == {("q", f"p{number}"): number % 5 for number in range(kept.revision)}
    kept.grade("q", "last", 1, "ann")
    assert pairs(Judgements(path))["q", "last"] == 1


def test_two_processes_append_at_once_and_each_reads_the_other(path):
    here = Judgements(path)
    writers = [start(path, judge, 60) for judge in ("ann", "bob")]
    for number in range(60):
        here.grade("q", f"p{number}", number % 5, "me")
    assert [len(writer.communicate()[0].split()) for writer in writers] == [60, 60]
    assert here.revision == 180
    table = here.last()
    assert table.groupby("judge")["product_id"].nunique().to_dict() == {"ann": 60, "bob": 60, "me": 60}
    for line in path.read_text().splitlines():
        assert [*json.loads(line)] == [*COLUMNS]


def test_a_process_waits_while_another_appends(path):
    fcntl = pytest.importorskip("fcntl")
    Judgements(path).grade("q", "p", 1, "me")
    before = path.read_bytes()
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = threading.Thread(target=Judgements(path).grade, args=("q", "p", 2, "ann"))
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()
        assert path.read_bytes() == before
    writer.join()
    assert Judgements(path).revision == 2


def test_the_last_grade_of_a_judge_counts_and_the_median_of_judges_rounds_down(path):
    judgements = Judgements(path)
    judgements.grade("q", "p", 0, "ann")
    judgements.grade("q", "p", 3, "ann")
    assert pairs(judgements) == {("q", "p"): 3}
    judgements.grade("q", "p", 0, "bob")
    assert pairs(judgements) == {("q", "p"): 1}
    judgements.grade("q", "p", 4, "cy")
    assert pairs(judgements) == {("q", "p"): 3}
    judgements.grade("q", "p", 0, "lm:some-model@12ab")
    judgements.grade("q", "other", 0, "lm:some-model@12ab")
    assert pairs(judgements) == {("q", "p"): 3}
    machine = judgements.grades(lambda name: name.startswith("lm:"))
    assert machine["product_id"].tolist() == ["p", "other"]
    judgements.grade("q", "p", None, "cy")
    assert pairs(judgements) == {("q", "p"): 1}
    assert set(judgements.last()["judge"]) == {"ann", "bob", "lm:some-model@12ab"}


def test_undo_takes_back_one_judges_grades_one_by_one_also_after_a_restart(path):
    judgements = Judgements(path)
    for grade in (1, 3):
        judgements.grade("q", "p", grade, "ann", f"note {grade}")
    judgements.grade("q", "p2", 4, "ann")
    judgements.grade("q", "p3", 2, "bob")
    assert judgements.undo("ann").grade is None
    assert pairs(judgements) == {("q", "p"): 3, ("q", "p3"): 2}
    again = Judgements(path)
    undone = again.undo("ann")
    assert (undone.product_id, undone.grade, undone.note) == ("p", 1, "note 1")
    assert pairs(again) == pairs(judgements) == {("q", "p"): 1, ("q", "p3"): 2}
    again.undo("ann")
    assert pairs(again) == {("q", "p3"): 2}
    assert again.undo("ann") is None
    assert again.undo("nobody") is None
    assert again.revision == 7


def test_times_are_utc_in_order_and_nothing_of_a_line_is_lost(path):
    judgements = Judgements(path)
    made = judgements.grade('q "1"', "p,2", 2, "Änn", "two\nlines, \u2028 and more")
    (row,) = Judgements(path).last().to_dict("records")
    assert row == {name: getattr(made, name) for name in COLUMNS}
    assert made.time.endswith("+00:00")
    assert abs(time.time() - time.mktime(time.strptime(made.time[:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone) < 60


@pytest.mark.parametrize("form", ["trec", "csv"])
def test_qrels_there_and_back(path, tmp_path, form):
    judgements, other = Judgements(path), Judgements(tmp_path / "other.jsonl")
    for judge, grade in (("ann", 1), ("bob", 4)):
        judgements.grade("q1", "p1", grade, judge, "why")
    judgements.grade("q1", "p2", 0, "ann")
    text = judgements.qrels(form)
    if form == "trec":
        assert text == "q1 0 p1 2\nq1 0 p2 0\n"
    assert other.add_qrels(text, "imported") == (2 if form == "trec" else 3)
    assert pairs(other) == pairs(judgements) == {("q1", "p1"): 2, ("q1", "p2"): 0}
    if form == "csv":
        assert other.last().equals(judgements.last())
    assert Judgements(tmp_path / "none.jsonl").qrels(form) in ("", ",".join(COLUMNS) + "\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("q 0 p 1\nq 0 p\n", r"line 2: 3 columns, 'q 0 p'"),
        ("q 0 p 1\n\nq 0 p 7\n", r"line 3: the grade is '7'; an integer from 0 to 4"),
        ("q 0 p 1.5\n", r"line 1: the grade is '1.5'"),
        ("query_id,grade\nq,1\n", r"line 1: column 'product_id' is missing"),
        ("query_id,product_id,grade\nq,p,1\nq,,1\n", r"line 3: product_id is ''"),
        ("query_id,product_id,grade\nq,p,good\n", r"line 2: the grade is 'good'"),
    ],
)
def test_a_bad_import_names_its_line_and_appends_nothing(path, text, problem):
    judgements = Judgements(path)
    with pytest.raises(DataError, match=problem):
        judgements.add_qrels(text, "ann")
    assert judgements.revision == 0


def test_junk_of_trec_is_0_and_a_csv_may_start_with_a_mark(path):
    judgements = Judgements(path)
    assert judgements.add_qrels("q 0 p -2\r\n", "ann") == 1
    assert judgements.add_qrels("\ufeffquery_id,product_id,grade\r\nq,p2,3.0\r\n", "ann") == 1
    assert pairs(judgements) == {("q", "p"): 0, ("q", "p2"): 3}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (("q", "p", 5, "ann"), "the grade is '5'; an integer from 0 to 4 is expected"),
        (("q", "p", True, "ann"), "the grade is 'True'"),
        (("q", "p", 2.0, "ann"), "the grade is '2.0'"),
        (("q", "", 2, "ann"), "product_id is ''"),
        (("q", "p", 2, " "), "judge is ' '"),
        (("q", "p", 2, "a" * 501), "a text of 1 to 500 characters"),
    ],
)
def test_values_out_of_range_are_refused(path, values, problem):
    with pytest.raises(UserError, match=problem):
        Judgements(path).grade(*values)
    assert not path.exists()


def test_a_broken_line_in_the_middle_is_reported_with_its_number(path):
    Judgements(path).grade("q", "p", 1, "ann")
    line = path.read_text()
    for broken, problem in (("{oops}\n", "not a judgement"), (line.replace("1,", "9,", 1), "the grade is '9'")):
        path.write_text(line + broken + line)
        with pytest.raises(DataError, match=rf"line 2: .*{problem}.*; correct or remove the line"):
            Judgements(path)


def test_an_id_with_a_space_has_no_trec_line_and_a_folder_is_no_file(path, tmp_path):
    judgements = Judgements(path)
    judgements.grade("q 1", "p", 1, "ann")
    with pytest.raises(DataError, match="'q 1': TREC separates columns by white space; export CSV"):
        judgements.qrels()
    assert "q 1,p,1,ann" in judgements.qrels("csv")
    with pytest.raises(UserError, match="can't be written"):
        Judgements(tmp_path).grade("q", "p", 1, "ann")
