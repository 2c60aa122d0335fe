"""What the tabs show, of somebody else's rankings and of a study: their numbers, and in a browser."""

import re
import time
from dataclasses import replace
from html import unescape

import chrome
import numpy as np
import pytest
import runs_bundle
from chrome import in_the_address, visit

from gcl_toolkit.app import grading, verdicts
from gcl_toolkit.app.controls import controls
from gcl_toolkit.app.draw import safe
from gcl_toolkit.app.page import read
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.tabs import compare, playground, queries, training, verdict
from gcl_toolkit.data.judgements import Judgement, Judgements
from gcl_toolkit.data.runs import read_qrels
from gcl_toolkit.data.weighting import WEIGHTINGS
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure import statistics
from gcl_toolkit.measure.agreement import alpha
from gcl_toolkit.measure.metrics import NDCG, measure
from gcl_toolkit.measure.ppi import random_order
from gcl_toolkit.measure.statistics import holm, paired
from gcl_toolkit.measure.unjudged import pooled
from gcl_toolkit.measure.verdict import tied
from gcl_toolkit.views.bundle import read_bundle

chrome.needed()
SYSTEMS = ("new", "elastic", "third")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return runs_bundle.make(tmp_path_factory.mktemp("runs") / "bundle")


@pytest.fixture(scope="module")
def service(folder):
    return Service(read_bundle(folder))


@pytest.fixture(scope="module")
def trained(small_study):
    return Service(read_bundle(small_study / "bundle"))


@pytest.fixture(scope="module")
def url(folder):
    with chrome.served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def values():
    """NDCG@10 of each system by query, from dictionaries."""
    data, rankings = runs_bundle.data(), runs_bundle.rankings()
    qrels: dict = {}
    for row in data.qrels.to_pylist():
        qrels.setdefault(row["query_id"], {})[row["product_id"]] = row["score"]
    runs = {
        name: {f"q{q}": {f"p{p}": -rank for rank, p in enumerate(row)} for q, row in enumerate(rows_QxK)}
        for name, rows_QxK in rankings.items()
    }
    return {name: measure(qrels, run, [NDCG @ 10])["NDCG@10"] for name, run in runs.items()}


def text(html):
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def shown(value):
    return f"{'+' if value >= 0.0005 else ''}{value:.3f}".replace("-", "−")


@pytest.fixture(scope="module")
def titled(folder):
    """The same without a picture."""
    bundle = read_bundle(folder)
    return Service(replace(bundle, items=bundle.items.assign(thumbnail_size=0)))


def test_a_bundle_without_pictures_shows_titles_in_their_place(titled):
    drawn = verdict.draw(titled, titled.state({"tab": "verdict"}))
    assert 'class="picture none title">product &lt;b&gt;' in drawn
    state = titled.state({"tab": "compare"})
    for html in (drawn, compare.draw(titled, state)):
        assert "no picture" not in html
    assert "picture" not in compare.draw(titled, state).split('class="sides"')[1]
    some = Service(replace(titled.bundle, items=titled.bundle.items.assign(thumbnail_size=[9] + [0] * 39)))
    assert "no picture" in compare.draw(some, state)


def test_rankings_of_files_open_with_all_systems(service, trained):
    state, problems = read(service, {})
    assert (state.also, state.given, problems) == ("third", ("also",), [])
    assert read(service, {"tab": "verdict"})[0].also == ""  # as after unticking it
    assert read(trained, {})[0].also == ""


def test_only_systems_with_vectors_invite_any_text(service, trained):
    form = controls(service, service.state({"tab": "compare"}))
    assert "any text" not in form
    assert "Query: choose one of those ranked" in form
    assert "Query: choose one or type any text" in controls(trained, trained.state({"tab": "compare"}))


# -- verdict -----------------------------------------------------------------------------------------------------------


def test_the_verdicts_numbers_are_those_of_paired(service, values):
    html = verdict.draw(service, service.state({"tab": "verdict", "a": "new", "b": "elastic", "also": "third"}))
    found = {name: paired(values[name], values["elastic"]) for name in ("new", "third")}
    corrected = holm([d.p_value for d in found.values()])
    for (name, d), p_value in zip(found.items(), corrected, strict=True):
        row = text(re.search(rf"<tr><th scope=\"row\">[^/]*</span> {name}</th>.*?</tr>", html)[0])
        expected = [f"{d.mean_a:.3f}", shown(d.difference), f"{shown(d.low)} to {shown(d.high)}"]
        for part in (*expected, f"{p_value:.3f}" if p_value >= 0.001 else "< .001", f"{runs_bundle.QUERIES}"):
            assert part in row
    lists = service.lists("all", SYSTEMS)
    groups = ["{" + ", ".join(group) + "}" if len(group) > 1 else group[0] for group in tied(lists)]
    assert f"in groups that can’t be separated: {'; '.join(groups)}." in text(html)


def test_a_verdict_names_both_systems_the_score_and_examples_of_both_outcomes(service):
    state = service.state({"tab": "verdict"})
    html = verdict.draw(service, state)
    assert (state.a, state.b) == ("new", "elastic")
    assert "A ranking from a file." in text(html)
    table = service.queries_of(state).set_index("row")["difference"]
    for kind, sign in (("win", 1), ("loss", -1)):
        link = re.search(rf'href="([^"]*)" id="example-{kind}"', html)[1]
        query = unescape(re.search(r"query=([^&]*)", unescape(link))[1]).replace("+", " ")
        assert sign * table[service.labels["all"][query]] > 0.05
    for word in ("score", "NDCG@10", "unjudged", "interval", "bounds", "bpref", "slice"):
        assert f'class="term" tabindex="0" title="{safe(service.bundle.manifest["glossary"][word])}"' in html


def test_zero_shot_is_explained_where_it_appears(trained):
    html = verdict.draw(trained, trained.state({"tab": "verdict", "split": "zero_shot", "division": "all"}))
    assert 'title="Queries and products both never seen in training.">zero-shot</abbr>' in html
    assert "zero-shot. Queries and products both never seen in training." in text(html).replace(" .", ".")
    other = verdict.draw(trained, trained.state({"tab": "verdict", "split": "in_domain", "division": "all"}))
    assert "in-domain. Training queries on training products" in text(other).replace(" .", ".")


def test_a_term_is_explained_where_nothing_can_hover(page, url):
    """On a phone a tap focuses it, as Tab does on a keyboard."""
    visit(page, url, tab="verdict")
    score = page.locator(".term", has_text="score").first
    score.focus()
    shown = score.evaluate("term => getComputedStyle(term, '::after').content")
    assert shown == f'"{score.get_attribute("title")}"'


def test_a_product_without_a_grade_is_unjudged_in_rankings_and_not_listed_in_a_study(service, trained):
    for of, word, other in ((service, "unjudged", "not listed"), (trained, "not listed", "unjudged")):
        for tab in (verdict, compare):
            html = tab.draw(of, of.state({"division": "all"}))
            assert f">{word}</span>" in html
            assert f">{other}</span>" not in html


def test_exported_qrels_are_csv_where_ids_contain_spaces(service, tmp_path, monkeypatch):
    state = service.state()
    expected = read_qrels(written(tmp_path / "trec.txt", grading.qrels(service, state)))
    items = service.bundle.items.assign(product_id="mug " + service.bundle.items["product_id"])
    monkeypatch.setattr(service, "bundle", replace(service.bundle, items=items))
    found = read_qrels(written(tmp_path / "spaces.txt", grading.qrels(service, state)))
    assert found == {query: {f"mug {p}": grade for p, grade in row.items()} for query, row in expected.items()}


def written(path, content):
    path.write_text(content)
    return path


def test_slices_that_regressed_come_first_and_lead_to_their_queries(service):
    state = service.state({"tab": "verdict"})
    html = verdict.draw(service, state)
    rows = re.findall(r"<tr>.*?</tr>", html[html.index('id="slices"') :])
    assert "category: lamp regressed" in text(rows[1])
    name = unescape(re.search(r"slice=([^&\"]*)", rows[1])[1]).replace("+", " ").replace("%3A", ":")
    assert name == "category: lamp"
    found = queries.chosen(service, service.state({"tab": "queries", "slice": name}))
    assert f" {len(found)} " in f" {text(rows[1])} "
    assert sum("few" in text(row).split() for row in rows) == sum(
        len(queries.chosen(service, service.state({"slice": s}))) < 30 for s in service.slices("all")[1:]
    )


def test_unjudged_products_are_counted_and_bounded(service):
    found = verdicts.against(service, service.state({"tab": "verdict"}))[0].found
    html = text(verdict.draw(service, service.state({"tab": "verdict"})))
    assert f"{shown(found.bounds[0])} to {shown(found.bounds[1])}" in html
    assert f"A new {found.unjudged['new']:.1f} " in html
    for name in ("condensed list", "bpref"):
        assert shown(found.variants[name].difference) in html
        assert name.capitalize() in html
    assert found.bounds[0] < found.difference.difference < found.bounds[1]


def test_one_system_alone_has_no_verdict_but_a_reason(service):
    html = verdict.draw(service, service.state({"tab": "verdict", "a": "new", "b": "new"}))
    assert "A verdict needs two systems" in html


def test_queries_states_the_interval_of_the_verdict(service, values):
    d = paired(values["new"], values["elastic"])
    html = text(queries.draw(service, service.state({"tab": "queries", "order": "b"})))
    low, high = (f"{value:.3f}".replace("-", "−") for value in (d.low, d.high))
    assert f"95 % interval {low} to {high} (paired over these queries), p = {d.p_value:.3f}." in html


def test_a_control_is_explained_by_what_it_lacks(trained):
    object.__setattr__(trained.system("clip"), "about", "graded - scores: the same, with weight 1")
    html = verdict.draw(trained, trained.state({"tab": "verdict", "split": "in_domain", "division": "all"}))
    assert "B was trained like A, but without scores: the difference shows what the scores bring." in html
    assert "<p>The same, with weight 1.</p>" in html


def test_the_judges_agreement_is_shown(folder, tmp_path):
    judgements = Judgements(tmp_path / "j.jsonl")
    grades = {"ann": (0, 1, 3, 3), "bob": (0, 2, 3, 1)}
    for judge, row in grades.items():
        for product, grade in enumerate(row):
            judgements.grade("q0", f"p{product}", grade, judge)
    service = Service(read_bundle(folder), judgements)
    names, value, items = verdicts.judges(service)[-1]
    table = judgements.last().rename(columns={"product_id": "item"})
    assert (value, items) == (alpha(table), 4)
    assert f"{names} {value:.2f} 4" in text(verdict.draw(service, service.state({"tab": "verdict"})))
    assert verdicts.judges(Service(read_bundle(folder))) == []


def test_a_language_models_grades_are_corrected_by_those_of_people(folder, tmp_path):
    """The model finds whatever `elastic` ranks first perfect; people, who grade 30 queries, find it irrelevant."""
    service = Service(read_bundle(folder), Judgements(tmp_path / "j.jsonl"))
    state = service.state({"tab": "verdict"})
    lists = service.lists(state.split, (state.a, state.b))
    query, product = pooled(lists.qrels, [*lists.rankings.values()], 10)
    ids, names = np.asarray(lists.query_ids), service.bundle.items["product_id"].to_numpy()
    read = set(random_order(ids)[:30].tolist())
    for judge, rows, liked in (("lm:kind@0", range(len(ids)), 4), ("ann", read, 0)):
        service.judgements.append(
            Judgement(ids[q], names[p], liked if p in lists.rankings["elastic"][q, :10] else 2, judge)
            for q, p in zip(query.tolist(), product.tolist(), strict=True)
            if q in rows
        )
    row, item, score = (service.bundle.qrels[name].iat[0] for name in ("query", "item", "score"))
    known = service.bundle.queries["query_id"].iat[row], names[item]
    service.judgements.append([Judgement(*known, 0 if score else 4, "lm:kind@0")])
    by_model = service.qrels_by("lm:kind@0")
    assert by_model.score[(by_model.query == row) & (by_model.product == item)].tolist() == [score]
    (found,) = verdicts.by_models(service, state).values()
    assert found.human == 30
    alone, people = found.variants["judge alone"].difference, found.variants["people alone"].difference
    assert alone < found.difference.difference
    assert people == pytest.approx(found.difference.difference, abs=0.1)
    shown = text(verdict.draw(service, state))
    assert "lm:kind@0 " + found.sentence in shown
    service.judgements.append([Judgement("q0", "p0", 1, "lm:lazy@0")])
    why = verdicts.by_models(service, state)["lm:lazy@0"]
    assert why.startswith("0 human-judged queries; a judge can be corrected from 10")
    assert why in text(verdict.draw(service, state))


def test_the_verdicts_tables_are_sorted_by_their_buttons(page, url):
    visit(page, url, tab="verdict", also="third")
    table = page.locator("table[class=queries]", has=page.locator("thead", has_text="Queries")).first
    first = lambda: table.locator("tbody tr th").all_inner_texts()  # noqa: E731
    means = {name: i for i, name in enumerate(first())}
    assert len(means) == 3
    column = table.locator("thead th", has_text="Mean")
    button = column.get_by_role("button", name="Sort by this column")
    button.focus()
    page.keyboard.press("Enter")
    assert column.get_attribute("aria-sort") == "descending"
    descending = first()
    values = [float(text) for text in table.locator("tbody tr td:nth-of-type(1)").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    button.click()
    assert (column.get_attribute("aria-sort"), first()) == ("ascending", descending[::-1])
    difference = table.locator("thead th", has_text="Difference").get_by_role("button")
    difference.click()
    assert first()[-1].startswith("B")  # which has none
    slices = page.locator("#slices + .wide table")
    slices.locator("thead th").first.get_by_role("button").click()
    names = slices.locator("tbody th").all_inner_texts()
    assert names == sorted(names, reverse=True)


def test_up_to_three_further_systems_are_ticked(page, url):
    visit(page, url, tab="queries")
    assert page.locator("#view thead th").count() == 5
    page.get_by_label("third").check()
    in_the_address(page, also="third")
    assert "third" in page.locator("#view thead th").all_inner_texts()[3]
    page.get_by_role("link", name="Verdict", exact=True).click()
    in_the_address(page, tab="verdict", also="third")
    assert len(page.locator(".system").all()) == 3
    page.get_by_label("third").uncheck()
    page.wait_for_function("!new URLSearchParams(location.search).has('also')")


def test_queries_are_found_by_a_part_of_their_text(page, url, service):
    visit(page, url, tab="queries")
    box = page.get_by_label("Queries with")
    box.fill("LAMP number 1")
    box.press("Enter")
    in_the_address(page, find="LAMP number 1")
    texts = page.locator("#view tbody th").all_inner_texts()
    assert sorted(texts) == sorted(f"lamp number {n}" for n in (1, *range(10, 20)))
    assert "better on" in page.locator(".sentence").inner_text()
    assert "of 11 queries" in page.locator(".sentence").inner_text()
    assert len(queries.chosen(service, service.state({"tab": "queries", "find": "lamp number 1"}))) == 11
    visit(page, url, tab="queries", find="no such words")
    assert "No queries" in page.locator("#view").inner_text()
    with pytest.raises(UserError, match="201 characters"):
        service.state({"find": "x" * 201})


def test_clicks_to_the_worst_query_its_reason_the_slices_and_a_file(page, url, service, tmp_path):
    visit(page, url)
    page.locator("#slices").wait_for()  # 0 clicks: the regressed slices
    for name, start in (("Report", "<!doctype html>"), ("Queries as CSV", "query,query_id"), ("Qrels", "q0 0 p")):
        with page.expect_download() as download:  # 1 click
            page.get_by_role("link", name=name, exact=True).click()
        download.value.save_as(tmp_path / name)
        assert (tmp_path / name).read_text().startswith(start)
    page.locator("#worst-B").click()
    in_the_address(page, tab="queries", order="b")
    worst = queries.chosen(service, service.state({"tab": "queries", "order": "b"})).iloc[0]
    assert worst["b"] == service.metrics("elastic")["NDCG@10"].min()
    page.locator(".queries tbody a").first.click()
    in_the_address(page, tab="compare", query=worst["query"])
    page.locator(".why tbody tr").first.wait_for()  # no click more: why
    page.go_back()
    page.go_back()
    page.get_by_role("link", name="category: lamp").click()
    in_the_address(page, tab="queries", slice="category: lamp")


def test_the_report_holds_the_verdict_without_the_app(page, url, service, tmp_path, chromium):
    visit(page, url, tab="verdict")
    with page.expect_download() as download:
        page.get_by_role("link", name="Report", exact=True).click()
    download.value.save_as(tmp_path / "verdict.html")
    other, asked = chromium.new_page(), []
    other.on("request", lambda request: asked.append(request.url))
    other.goto((tmp_path / "verdict.html").as_uri())
    sentence = verdicts.against(service, service.state({"tab": "verdict"}))[0].found.sentence
    assert other.locator("h2.verdict").inner_text() == sentence
    assert not [address for address in asked if not address.startswith(("file:", "data:"))]
    other.close()


# -- queries -----------------------------------------------------------------------------------------------------------


def test_columns_sort_both_ways_and_show_every_system(page, url, service, values):
    visit(page, url, tab="queries", also="third", a="new", b="elastic")
    for order, key in (("a", "a"), ("-a", "a")):
        page.locator("#sort-a").click()
        in_the_address(page, order=order)
        cells = page.locator(".queries tbody tr td:nth-child(2)").all_inner_texts()
        expected = sorted(values["new"], reverse=order.startswith("-"))
        assert cells == [f"{value:.3f}" for value in expected]
        assert key in service.queries_of(service.state()).columns
    query = page.locator(".queries tbody th").first.inner_text()
    row = page.locator(".queries tbody tr").first.locator("td").all_inner_texts()
    query_id = "q" + query.split()[-1]
    assert row[:3] == [f"{values[name][query_id]:.3f}" for name in SYSTEMS]


def test_unjudged_products_of_each_system_are_counted_by_query(service):
    data, rankings = runs_bundle.data(), runs_bundle.rankings()
    judged = set(zip(*(data.qrels[name].to_pylist() for name in ("query_id", "product_id")), strict=True))
    table = queries.chosen(service, service.state({"tab": "queries", "also": "third", "order": "-unjudged"}))
    assert table["unjudged"].is_monotonic_decreasing
    for mark, name in (("a", "new"), ("b", "elastic"), ("c", "third")):
        for row in table.itertuples():
            first = rankings[name][int(row.query_id[1:])][:10]
            count = sum((row.query_id, f"p{product}") not in judged for product in first)
            assert table.loc[row.Index, f"unjudged {mark}"] == count


BARS = """() => [...document.querySelectorAll(".histogram i")].map(bar => [bar.className, bar.offsetHeight > 0,
  getComputedStyle(bar).backgroundImage])"""


def test_the_histogram_keeps_its_hatching_after_every_change(page, url):
    """Its hatched bars were empty once the address had changed."""
    visit(page, url, tab="queries")
    for metric in ("AP", "RR"):
        page.locator("#control-metric").select_option(metric)
        in_the_address(page, metric=metric)
        bars = page.evaluate(BARS)
        assert any(tall for kind, tall, _ in bars if kind == "b")
        for kind, tall, image in bars:
            assert not tall or ("repeating-linear-gradient" in image) == (kind == "b")
        assert page.locator(".view [fill^=url], .view [style*='url(']").count() == 0


def test_a_and_b_have_one_colour_each_in_table_and_histogram(page, url):
    visit(page, url, tab="queries")
    colours = page.evaluate(
        """() => Object.fromEntries(["a", "b"].map(side => [side, [".bar", ".histogram > div"].map(place =>
          getComputedStyle(document.querySelector(`${place} i.${side}`))).map(style =>
          (style.backgroundImage + style.backgroundColor).match(/rgb\\([^)]*\\)/)[0]).concat(
          getComputedStyle(document.querySelector(`.letter.${side}`)).backgroundColor)]))"""
    )
    assert [len(set(each)) for each in colours.values()] == [1, 1]
    assert colours["a"] != colours["b"]


# -- compare -----------------------------------------------------------------------------------------------------------


def test_why_lists_the_products_whose_ranks_make_the_difference(service, values):
    from gcl_toolkit.app.tabs import compare

    query = values["new"].sub(values["elastic"]).idxmax()
    state = service.state({"tab": "compare", "query": f"mug number {query[1:]}", "a": "new", "b": "elastic"})
    html = compare.draw(service, state)
    effects = [float(e.replace("−", "-")) for e in re.findall(r'class="effect [ab]">([^<]*)<', html)]
    assert effects
    assert [abs(effect) for effect in effects] == sorted(map(abs, effects), reverse=True)
    comparison = service.compare("all", state.query, "new", "elastic")
    gap = comparison.a.metrics[NDCG @ 10] - comparison.b.metrics[NDCG @ 10]
    assert sum(effects) == pytest.approx(gap, abs=0.4)
    assert "Cosine, by field" not in html


def test_why_shows_each_fields_part_of_both_systems(trained):
    from gcl_toolkit.app.tabs import compare

    for query in trained.labels["in_domain"]:
        html = compare.draw(trained, trained.state({"tab": "compare", "split": "in_domain", "query": query}))
        if 'class="why"' in html:
            break
    for item in map(int, re.findall(r'<tr data-item="(\d+)"', html)):
        row = text(re.search(rf'<tr data-item="{item}">.*?</tr>', html)[0])
        for name in ("graded", "clip"):
            (parts,) = trained.parts("in_domain", query, name, [item])
            for field, value in parts.items():
                assert f"{field} {value:.2f}".replace("-", "−") in row
            fused = trained.search("in_domain", query, name, k=12).products
            cosine = next(product.cosine for product in fused if product.item == item)
            assert sum(parts.values()) == pytest.approx(cosine, abs=1e-3)


ENDS = """flow => {
  const lines = flow.querySelector(".lines").getBoundingClientRect();
  const rows = [...flow.querySelectorAll("ol")].map(list => list.getBoundingClientRect());
  return rows.map(row => [lines.top - row.top, lines.bottom - row.bottom]);
}"""


def test_rank_flow_lines_of_a_typed_text_lie_between_the_lists(chromium, small_app):
    page = chromium.new_page(viewport={"width": 1440, "height": 1000})
    visit(page, small_app, tab="compare", look="lines", split="in_domain", query="some mug")
    for top, bottom in page.locator(".flow").evaluate(ENDS):
        assert abs(top) < 3
        assert -3 < bottom < 40
    page.close()


def test_every_product_of_five_lists_is_reached_by_a_link(page, url):
    visit(page, url, tab="compare", also="third")
    assert page.locator(".hit").count() == 40
    assert page.locator(".hit .title a[href^='?']").count() == 40
    assert page.locator(".side h3 .letter").all_inner_texts() == ["A", "B", "C"]


# -- training and playground -------------------------------------------------------------------------------------------


def test_training_is_drawn_within_800_ms_of_the_processor_without_a_bootstrap(trained, monkeypatch):
    """216 bootstraps for tooltips took 15 seconds at every visit."""
    state = trained.state({"tab": "training"})
    training.draw(trained, state)  # imports plotly
    monkeypatch.setattr(statistics, "_resampled_means", lambda *arguments: pytest.fail("a cell is bootstrapped"))
    start = time.process_time()
    training.draw(trained, state)
    assert time.process_time() - start < 0.8


def test_the_playground_says_what_it_shows_for_a_typed_text(trained):
    state = trained.state({"tab": "playground", "split": "in_domain", "query": "some mug"})
    first = next(iter(trained.labels["in_domain"]))
    html = unescape(playground.draw(trained, state))
    assert f"No scores are known for “some mug”; these are the pairs of “{first}”." in html
    assert "No scores are known" not in playground.draw(
        trained, trained.state({"tab": "playground", "split": "in_domain"})
    )


def test_the_playground_says_that_a_weight_of_0_leaves_a_product_among_the_negatives(trained, monkeypatch):
    monkeypatch.setitem(WEIGHTINGS, "cut", lambda scores: np.where(scores > 50, 1.0, 0.0))
    monkeypatch.setattr(playground.playground, "BY_GRADES", (*playground.playground.BY_GRADES, "cut"))  # no curve
    state = trained.state({"tab": "playground", "weighting": "cut", "split": "in_domain", "score": 100})
    found = playground.playground.batch(trained, state)
    assert found.weights[1] == 0
    assert "A weight of 0 does not leave the pair out" in playground.draw(trained, state)
    weighted = found.weights > 0
    assert (found.gcl[weighted, 1] > 0).all()  # its product is pushed away from the queries with a weight
    state = trained.state({"tab": "playground", "split": "in_domain"})
    assert "A weight of 0" not in playground.draw(trained, state)
