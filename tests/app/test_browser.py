"""The page in a real browser: the system's Chromium, driven by playwright; skipped, with the reason, without them."""

import csv
import re
import urllib.error
import urllib.request
from urllib.parse import parse_qs, urlsplit

import chrome
import pytest
import small_bundle
from chrome import in_the_address, sent, view, visit

from gcl_toolkit.app import playground
from gcl_toolkit.app.answers import TOP
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import TABS
from gcl_toolkit.measure.metrics import NDCG
from gcl_toolkit.views.bundle import read_bundle

chrome.needed()
A, B = "graded", "clip"


@pytest.fixture(scope="module")
def folder(small_study):
    return small_study / "bundle"


@pytest.fixture(scope="module")
def service(folder):
    return Service(read_bundle(folder))


@pytest.fixture(scope="module")
def url(small_app):
    return small_app


def titles(page):
    return [card.split(" (")[0] for card in page.locator(".card:visible").evaluate_all("all => all.map(e => e.title)")]


def expected_titles(service, query, weight, split="zero_shot"):
    return [p.title for p in service.search(split, query, A, weight, 20).products]


def choose(page, element, value):
    box = page.locator(f"#{element} input")
    box.click()
    box.fill(value)
    box.press("Enter")


def a_query(service, split="zero_shot"):
    return next(label for label in service.labels[split] if label.startswith("mug number"))


def test_search_by_a_stored_query_shows_the_services_ranking_and_says_so_in_the_url(page, url, service):
    visit(page, url, split="zero_shot", query=a_query(service))
    assert titles(page) == expected_titles(service, a_query(service), 0.5)
    shown = page.locator(".card:visible .facts b").all_inner_texts()
    products = service.search("zero_shot", a_query(service), A, 0.5).products
    assert shown == [f"{p.cosine:.3f}".replace("-", "−").replace("nan", "–") for p in products]
    badges = page.locator(".card:visible .badge").all_inner_texts()
    assert badges == ["not listed" if p.score is None else f"{p.score:g}" for p in products]


def test_a_typed_text_is_searched_and_the_address_brings_it_back(page, url, service):
    visit(page, url, split="zero_shot")
    choose(page, "query", "some mug")
    in_the_address(page, query="some mug", tab="search")
    assert titles(page) == expected_titles(service, "some mug", 0.5)
    page.goto(page.url)
    view(page).wait_for()
    assert titles(page) == expected_titles(service, "some mug", 0.5)


def test_the_slider_ranks_anew(page, url, service):
    visit(page, url, split="zero_shot", query=a_query(service))
    box = page.locator("#weight input[type=number]")
    box.fill("0")
    box.press("Enter")
    in_the_address(page, weight="0.0")
    assert titles(page) == expected_titles(service, a_query(service), 0.0)
    assert titles(page) != expected_titles(service, a_query(service), 0.5)


def test_compare_shows_the_services_numbers(page, url, service):
    query = a_query(service)
    visit(page, url, tab="compare", split="zero_shot", query=query, a=A, b=B)
    answer = service.compare("zero_shot", query, A, B)
    assert page.locator(".sentence:visible").inner_text() == answer.sentence
    shown = page.locator(".values:visible dd").all_inner_texts()
    wanted = [f"{value:.3f}" for ranking in (answer.a, answer.b) for value in ranking.metrics.values()]
    assert [text.split("\n")[0] for text in shown] == wanted
    assert f"DCG {answer.a.dcg:.0f} / {answer.a.ideal_dcg:.0f}" in shown[[*answer.a.metrics].index(NDCG @ 10)]
    columns = page.locator(".side:visible").evaluate_all(
        "all => all.map(side => [...side.querySelectorAll('.hit')].map(e => Number(e.dataset.item)))"
    )
    assert columns == [[p.item for p in part] for part in (answer.a.products, answer.b.products, answer.ideal)]


def test_a_row_of_the_queries_opens_its_comparison(page, url, service):
    visit(page, url, tab="queries", split="in_domain", division="all", order="loss", a=A, b=B)
    table = service.queries("in_domain", A, B, "NDCG@10", "loss")
    rows = page.locator(".queries tbody tr")
    assert rows.locator("button").all_inner_texts() == [" ".join(q.split()) for q in table["query"]]
    page.locator(".figure:visible .main-svg").first.wait_for()  # the page's script has run
    rows.nth(1).click()
    in_the_address(page, tab="compare", query=table["query"][1])
    comparison = service.compare("in_domain", table["query"][1], A, B)
    assert page.locator(".sentence:visible").inner_text() == comparison.sentence


def test_it_is_three_clicks_to_why_a_query_got_worse(page, url, service):
    visit(page, url, split="in_domain", division="all")
    page.get_by_role("tab", name="Queries").click()
    page.get_by_label("losses first").click()
    in_the_address(page, tab="queries", order="loss")
    state = service.state({"split": "in_domain", "division": "all"})
    worst = service.queries(state.split, state.a, state.b, state.metric, "loss", state.division)["query"][0]
    page.locator(".queries:visible tbody button").first.click()
    in_the_address(page, tab="compare", query=worst)
    comparison = service.compare(state.split, worst, state.a, state.b)
    assert page.locator(".sentence:visible").inner_text() == comparison.sentence


def test_the_csv_holds_every_query_and_no_formula(page, url, service, tmp_path):
    visit(page, url, tab="queries", split="in_domain", division="all", a=A, b=B)
    with page.expect_download() as download:
        page.locator("a.download:visible").click()
    download.value.save_as(tmp_path / "queries.csv")
    with (tmp_path / "queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = service.queries("in_domain", A, B, "NDCG@10")
    assert [row["query_id"] for row in rows] == table["query_id"].tolist()
    assert [float(row[f"NDCG@10 {A}"]) for row in rows] == pytest.approx(table["a"].tolist(), abs=1e-6)
    assert not [row for row in rows if re.match(r"\s*[=+@-]", row["query"])]


@pytest.mark.parametrize("tab", TABS)
def test_hostile_titles_and_queries_stay_text(page, url, service, tab):
    """The page fixture fails the test when anything is executed."""
    for query in ("${alert(3)}", '{{constructor.constructor("alert(4)")()}}'):
        split = next(s for s in service.bundle.splits if query in service.labels[s])
        visit(page, url, tab=tab, split=split, query=query, division="all")
        assert page.locator(".view script, .view [onerror], .view [onload], .view [onmouseover]").count() == 0
        in_the_address(page, tab=tab, **({"query": query} if "query" in TABS[tab].shows else {}))
    if tab == "queries":
        assert page.locator(".queries button").all_inner_texts() != []


def test_a_picture_from_this_machine_is_searched_and_forgotten_again(page, url, service):
    visit(page, url, split="in_domain", query=a_query(service, "in_domain"))
    picture = small_bundle.png(9 * 7, 70)
    page.locator("#upload input[type=file], input[type=file]").first.set_input_files(
        {"name": "mug.png", "mimeType": "image/png", "buffer": picture}
    )
    page.locator(".asked").wait_for()
    digest = service.encoders.keep(picture)
    in_the_address(page, image=digest)
    expected = service.search("in_domain", a_query(service, "in_domain"), A, 0.5, 20, image=digest)
    assert titles(page) == [p.title for p in expected.products]
    page.goto(page.url)
    page.locator(".asked").wait_for()
    assert titles(page) == [p.title for p in expected.products]
    page.get_by_label("Search by text again").click()
    page.locator(".asked").wait_for(state="detached")
    assert titles(page) == expected_titles(service, a_query(service, "in_domain"), 0.5, "in_domain")


def test_terms_rank_anew_and_stand_in_the_address(page, url, service):
    visit(page, url, split="zero_shot", query=a_query(service))
    box = page.locator("#more textarea, #more input").first
    box.fill("some mug:2")
    box.press("Enter")
    in_the_address(page, more="some mug:2")
    expected = service.search("zero_shot", a_query(service), A, 0.5, 20, more="some mug:2")
    assert titles(page) == [p.title for p in expected.products]


def test_a_card_opens_the_neighbours_in_both_models_spaces(page, url, service):
    visit(page, url, split="zero_shot", query=a_query(service))
    item = int(page.locator(".card").nth(2).get_attribute("data-item"))
    page.locator(".card").nth(2).click()
    page.locator(".details").wait_for()
    in_the_address(page, item=item)
    for model in (A, B):
        near = page.locator(f".strip[data-model={model}] li").evaluate_all(
            "all => all.map(e => Number(e.dataset.item))"
        )
        assert near == [p.item for p in service.neighbours(item, model).products]
    page.get_by_label("Close the details").click()
    page.locator(".details").wait_for(state="detached")


@pytest.mark.parametrize("tab", TABS)
def test_every_view_comes_back_from_its_address(page, url, service, tab):
    options = {"split": "in_domain", "query": a_query(service, "in_domain"), "a": B, "b": A, "weight": 0.25, "item": 3}
    options |= {"look": "lines", "metric": "AP", "order": "spread", "division": "all", "panels": "a", "colour": "score"}
    options |= {"weighting": "linear", "temperature": 0.2, "score": 55.0, "more": "some mug:0.5"}
    visit(page, url, tab=tab, **options)
    in_the_address(page, tab=tab, **{name: options[name] for name in TABS[tab].shows if name in options})
    first = sent(page)
    if page.locator(".figure:visible").count():  # leaving while figures are drawn may abort the navigation
        page.locator(".figure:visible .main-svg").last.wait_for()
    page.goto(page.url)
    view(page).wait_for()
    assert sent(page) == first
    for name, place in (("weight", "#weight"), ("temperature", "#temperature"), ("score", "#score")):
        if name in TABS[tab].shows:
            assert float(page.locator(f"{place} input[type=number]").input_value()) == options[name]


def test_the_playground_follows_its_sliders(page, url, service):
    visit(page, url, tab="playground", weighting="linear")
    box = page.locator("#score input[type=number]")
    box.fill("7")
    box.press("Enter")
    in_the_address(page, score="7.0")
    made = playground.batch(service, service.state({"weighting": "linear", "score": 7}))
    shown = page.locator(".pairs tbody tr td:nth-child(6)").all_inner_texts()
    assert shown == [f"{weight:.3f}" for weight in made.weights]
    page.locator(".figure .main-svg").first.wait_for()
    assert page.locator(".modebar-btn[data-title*=loud], .modebar-btn[data-title*=hare]").count() == 0


def test_training_draws_its_curves_and_what_every_split_reached(page, url, service):
    visit(page, url, tab="training")
    losses, reached = page.locator(".figure:visible").nth(0), page.locator(".figure:visible").nth(1)
    for figure in (losses, reached):
        for name in (A, B):
            figure.locator(".legendtext", has_text=re.compile(f"^{name}$")).wait_for()
    assert reached.locator(".annotation-text").all_text_contents() == [
        s.replace("_", " ") for s in service.bundle.splits
    ]


def test_a_saved_comparison_opens_without_a_server_and_asks_for_nothing(page, url, service, tmp_path, chromium):
    visit(page, url, tab="compare", split="zero_shot", query=a_query(service))
    with page.expect_download() as download:
        page.locator("a.download:visible").click()
    download.value.save_as(tmp_path / "comparison.html")
    other, asked = chromium.new_page(), []
    other.on("request", lambda request: asked.append(request.url))
    other.goto((tmp_path / "comparison.html").as_uri())
    answer = service.compare("zero_shot", a_query(service), A, B)
    assert other.locator(".sentence").inner_text() == answer.sentence
    assert other.locator(".hit").count() == len(answer.a.products) + len(answer.b.products) + len(answer.ideal)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    other.close()


def test_rank_flow_lines_end_at_their_rows_on_the_page_and_in_the_saved_file(page, url, service, tmp_path, chromium):
    visit(page, url, tab="compare", look="lines", split="in_domain", query=a_query(service, "in_domain"))
    with page.expect_download() as download:
        page.locator("a.download:visible").click()
    download.value.save_as(tmp_path / "comparison.html")
    other = chromium.new_page(viewport=page.viewport_size)
    other.goto((tmp_path / "comparison.html").as_uri())
    for shown in (page, other):
        off = shown.locator(".flow:visible").evaluate(
            """flow => {
              const middle = box => box.top + box.height / 2;
              const rows = [...flow.querySelector("ol").children].map(row => middle(row.getBoundingClientRect()));
              const lines = flow.querySelector(".lines"), box = lines.getBoundingClientRect();
              const scale = box.height / lines.viewBox.baseVal.height;
              return rows.map((row, rank) => row - (box.top + (rank + 0.5) * scale));
            }"""
        )
        assert len(off) == TOP
        assert max(map(abs, off)) < 3, off
    other.close()


def test_a_wrong_url_is_reported_in_one_line_and_the_page_works(page, url):
    visit(page, url, tab="search", a="../../etc/passwd")
    assert "unknown model '../../etc/passwd'; known: clip, graded" in page.locator(".message:visible").inner_text()
    assert page.locator(".card:visible").count() > 0
    assert parse_qs(urlsplit(page.url).query)["tab"] == ["search"]


@pytest.mark.parametrize("tab", TABS)
def test_a_phone_shows_every_tab_without_sideways_scrolling(page, url, tab):
    page.set_viewport_size({"width": 390, "height": 844})
    visit(page, url, tab=tab)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    shown = page.locator("button[role=tab]:visible").all_inner_texts()
    page.locator(".overflow-menu button").first.click()
    more = page.locator(".overflow-dropdown button:visible").all_inner_texts()
    assert sorted(name.strip() for name in (*shown, *more)) == sorted(name.capitalize() for name in TABS)


@pytest.mark.parametrize("path", ["gradio_api/file=/etc/passwd", "file=/etc/passwd", "gradio_api/file=app/app.py"])
def test_no_file_of_the_machine_is_served(url, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url + path)
    with caught.value as answer:
        assert answer.code in (403, 404)
