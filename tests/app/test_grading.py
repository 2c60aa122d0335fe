"""Grading in place, in a browser: kept in a file, or in the browser of a hosted demo; qrels in and out."""

import csv
import io
import json
import os
import signal
import time
import urllib.error
import urllib.request

import chrome
import pytest
import runs_bundle
from chrome import in_the_address, visit

from gcl_toolkit.data.judgements import Judgements
from gcl_toolkit.measure.ppi import random_order

chrome.needed()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return runs_bundle.make(tmp_path_factory.mktemp("runs") / "bundle")


@pytest.fixture(scope="module")
def path(folder):
    return folder.with_name("judgements.jsonl")


@pytest.fixture(scope="module")
def url(folder, path):
    with chrome.served(folder, "--judgements", str(path)) as address:
        yield address


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(count, path):
    deadline = time.monotonic() + 20
    while len(lines(path)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(lines(path)) == count


def post(url, name, body, **headers):
    return urllib.request.urlopen(urllib.request.Request(url + f"gcl/{name}", body, headers, method="POST"))


def test_digits_grade_the_pooled_unjudged_products_and_undo_takes_them_back(page, url, path):
    visit(page, url, tab="compare", query="mug number 50", a="new", b="elastic")
    before = page.locator(".values dd").all_inner_texts()
    page.locator(".grading [name=judge]").fill("ann")
    page.locator(".grading [name=note]").fill("looks right")
    page.locator("#grade-next").click()
    first = page.evaluate("document.activeElement.closest('.hit').dataset.item")
    page.keyboard.press("4")
    wait_for(1, path)
    (line,) = lines(path)
    assert (line["query_id"], line["grade"], line["judge"], line["note"]) == ("q50", 4, "ann", "looks right")
    page.locator(f".hit[data-item='{first}'] [data-grade='4'][aria-checked=true]").first.wait_for()
    assert page.locator(".values dd").all_inner_texts() != before
    page.keyboard.press("n")
    page.wait_for_function("item => document.activeElement.closest('.hit')?.dataset.item !== item", arg=first)
    page.keyboard.press("1")
    wait_for(2, path)
    page.reload()
    page.wait_for_function("document.querySelector('.grading [name=judge]')?.value === 'ann'")
    page.locator("#grade-undo").click()
    wait_for(3, path)
    page.locator(".grading output", has_text="Undone").wait_for()
    assert [*Judgements(path).grades()["grade"]] == [4]
    page.locator(f".hit[data-item='{first}'] .title a").first.focus()
    page.keyboard.press("2")
    wait_for(4, path)
    assert [*Judgements(path).grades()["grade"]] == [2]


def test_the_next_product_is_of_the_first_query_in_random_order_when_none_is_left(page, url, path):
    asked = "lamp number 1"
    visit(page, url, tab="compare", query=asked, a="new", b="elastic")
    count = len(lines(path))
    while left := page.locator("[data-open]").count():
        page.locator("#grade-next").click()
        page.keyboard.press("0")
        wait_for(count := count + 1, path)
        page.wait_for_function("left => document.querySelectorAll('[data-open]').length < left", arg=left)
    page.locator("#grade-next").click()
    page.wait_for_function("document.activeElement.closest('[data-open]') !== null")
    first = random_order(f"q{row}" for row in range(runs_bundle.QUERIES))[0]
    in_the_address(page, query=f"lamp number {first}")


def test_qrels_go_in_and_out(page, url, path, tmp_path):
    qrels, count = tmp_path / "qrels.txt", len(lines(path))
    qrels.write_text("q70 0 p1 3\nq71 0 p2 0\n")
    visit(page, url, tab="compare", query="mug number 70")
    page.locator("#import").set_input_files(qrels)
    page.locator(".grading output", has_text="2 judgements imported").wait_for()
    for form in ("Qrels", "CSV"):
        with page.expect_download() as download:
            page.locator(".grading").get_by_role("link", name=form).click()
        download.value.save_as(tmp_path / form)
    assert qrels.read_text() in (tmp_path / "Qrels").read_text()
    rows = [row for row in csv.DictReader(io.StringIO((tmp_path / "CSV").read_text())) if row["query_id"] > "q70"]
    assert [(r["product_id"], r["grade"], r["judge"]) for r in rows] == [("p2", "0", "me")]
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, "qrels?judge=me", b"q70 0 p1 3\nq70 0 p1 7\n", **{"X-GCL": "1"})
    with caught.value as answer:
        assert answer.read().startswith(b"line 2: the grade is '7'; an integer from 0 to 4")
    assert len(lines(path)) == count + 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"query_id": "q1", "product_id": "p1", "grade": 9, "judge": "a"}, 400),
        ({"query_id": "q1", "product_id": "none", "grade": 1, "judge": "a"}, 400),
        ({"query_id": ["q1"], "product_id": "p1", "grade": 1, "judge": "a"}, 400),
        ({"query_id": "q1", "product_id": "p1", "grade": 1}, 400),
        ([1], 400),
        (None, 403),
    ],
)
def test_wrong_judgements_and_those_of_other_sites_are_refused(url, path, body, status):
    headers, count = {} if body is None else {"X-GCL": "1"}, len(lines(path))
    data = json.dumps(body or {"query_id": "q1", "product_id": "p1", "grade": 1, "judge": "a"}).encode()
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, "grade", data, **headers)
    with caught.value as answer:
        assert answer.code == status
    assert len(lines(path)) == count


def test_a_killed_server_keeps_every_grade_that_it_confirmed(url, path):
    for number in range(20):
        body = {"query_id": "q80", "product_id": f"p{number}", "grade": number % 5, "judge": "kim"}
        with post(url, "grade", json.dumps(body).encode(), **{"X-GCL": "1"}) as answer:
            assert json.load(answer)["grade"] == number % 5
    os.kill(url.pid, signal.SIGKILL)
    table = Judgements(path).last()
    kept = dict(table[table["judge"] == "kim"][["product_id", "grade"]].itertuples(index=False))
    assert kept == {f"p{number}": number % 5 for number in range(20)}


HOSTED = "import sys; from gcl_toolkit.app.app import *; launch(open_service(sys.argv[1]), port=int(sys.argv[3]))"
"""The app as a Space starts it: without a file of judgements."""


def test_a_hosted_demo_keeps_grades_in_the_browser_and_saves_them(chromium, folder, tmp_path):
    with chrome.served(folder, code=HOSTED) as address:
        page = chromium.new_page()
        visit(page, address, tab="compare", query="mug number 50")
        for grade in ("3", "1"):
            page.locator("#grade-next").click()
            page.keyboard.press(grade)
        page.locator(".grading output", has_text="Graded 1").wait_for()
        page.reload()
        page.locator("[data-grade='3'][aria-checked=true]").first.wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Qrels").click()
        download.value.save_as(tmp_path / "qrels.txt")
        text = (tmp_path / "qrels.txt").read_text()
        assert [(line.split()[0], line.split()[3]) for line in text.splitlines()] == [("q50", "3"), ("q50", "1")]
        assert Judgements(tmp_path / "j").add_qrels(text, "me") == 2
        page.locator("#grade-undo").click()
        page.locator(".grading output", has_text="1 grades").wait_for()
        while page.locator("[data-open]:not(:has([aria-checked=true]))").count():
            page.locator("#grade-next").click()
            page.keyboard.press("2")
        page.locator("#grade-next").click()
        order = [f"q{row}" for row in random_order(f"q{row}" for row in range(runs_bundle.QUERIES))]
        in_the_address(page, query=f"mug number {order[order.index('q50') + 1][1:]}")
        page.close()
