"""The page in a real browser: the system's Chromium, driven by playwright; skipped, with the reason, without them."""

import csv
import itertools
import re
import urllib.error
import urllib.request

import chrome
import pytest
import small_bundle
from chrome import in_the_address, move, parameters, query_string, sent, settled, view, visit

from gcl_toolkit.app import playground
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import TABS
from gcl_toolkit.views.bundle import read_bundle

chrome.needed()
A, B = "graded", "clip"
WEBGL = False
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 1000}


@pytest.fixture(scope="module")
def service(small_study):
    return Service(read_bundle(small_study / "bundle"))


@pytest.fixture(scope="module")
def url(small_app):
    return small_app


@pytest.fixture(scope="module")
def opened(chromium, url):
    """One page for all tests, and what went wrong in it."""
    page, wrong = chromium.new_page(viewport=DESK), []
    page.set_default_timeout(chrome.WAIT)
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"executed: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else wrong.append(f"to: {r.url}"))
    visit(page, url)
    yield page, wrong
    page.close()


@pytest.fixture
def page(opened):
    """The shared page; afterwards: no request to another host, nothing executed, no error in the console."""
    page, wrong = opened
    wrong.clear()
    page.set_viewport_size(DESK)
    yield page
    page.unroute_all()
    assert not wrong, wrong


def titles(page):
    return [card.split(" (")[0] for card in page.locator(".card:visible").evaluate_all("all => all.map(e => e.title)")]


def expected_titles(service, query, weight=0.5, split="zero_shot", **more):
    return [p.title for p in service.search(split, query, A, weight, 20, **more).products]


def a_query(service, split="zero_shot"):
    return next(label for label in service.labels[split] if label.startswith("mug number"))


def type_query(page, text):
    box = page.get_by_label(re.compile("^Query"))
    box.fill(text)
    box.press("Enter")


def upload(page):
    picture = {"name": "mug.png", "mimeType": "image/png", "buffer": small_bundle.png(9 * 7, 70)}
    page.locator("input[name=upload]").set_input_files(picture)
    page.locator(".chip").wait_for()


def in_view(page, selector):
    """Whether the whole element is on the screen."""
    box, size = page.locator(selector).first.bounding_box(), page.viewport_size
    return box["y"] >= 0 and box["y"] + box["height"] <= size["height"] and box["x"] + box["width"] <= size["width"]


def focused(page, selector):
    return page.evaluate("selector => document.activeElement.matches(selector)", selector)


# -- searching ---------------------------------------------------------------------------------------------------------


def test_a_typed_text_wins_over_stored_queries_that_begin_so(page, service):
    move(page, tab="search", split="zero_shot")
    assert any(label.startswith("mug n") for label in service.labels["zero_shot"])
    type_query(page, "mug")
    in_the_address(page, query="mug", tab="search")
    assert titles(page) == expected_titles(service, "mug")
    assert page.get_by_label(re.compile("^Query")).input_value() == "mug"


def test_a_typed_text_takes_the_place_of_a_picture(page, service):
    query = a_query(service, "in_domain")
    move(page, tab="search", split="in_domain", query=query)
    upload(page)
    digest = service.encoders.keep(small_bundle.png(9 * 7, 70))
    in_the_address(page, image=digest, tab="search")
    assert titles(page) == expected_titles(service, query, split="in_domain", image=digest)
    page.get_by_role("link", name="Compare", exact=True).click()
    in_the_address(page, tab="compare")
    assert "this view uses the text" in page.locator(".chip").inner_text()
    page.get_by_role("link", name="Search", exact=True).click()
    in_the_address(page, tab="search", image=digest)
    type_query(page, "mug")
    in_the_address(page, query="mug")
    assert "image" not in parameters(page)
    assert page.locator(".chip").count() == 0
    assert titles(page) == expected_titles(service, "mug", split="in_domain")


def test_a_picture_is_removed_by_its_chip(page, service):
    query = a_query(service, "in_domain")
    move(page, tab="search", split="in_domain", query=query)
    upload(page)
    page.get_by_label("Remove the picture").click()
    page.locator(".chip").wait_for(state="detached")
    assert titles(page) == expected_titles(service, query, split="in_domain")


def test_what_is_no_picture_is_refused_in_words(opened):
    page, wrong = opened
    move(page, tab="search")
    file = {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.locator("input[name=upload]").set_input_files(file)
    page.get_by_text("can't be read as a picture").wait_for()
    assert titles(page)
    assert [text for text in wrong if "400" not in text] == []


def test_sliders_and_terms_rank_anew(page, service):
    query = a_query(service)
    move(page, tab="search", split="zero_shot", query=query)
    page.get_by_label(re.compile("^Weight of")).fill("0")
    in_the_address(page, weight="0")
    assert titles(page) == expected_titles(service, query, 0.0)
    assert titles(page) != expected_titles(service, query, 0.5)
    box = page.get_by_label("More of")
    box.fill("some mug:2")
    box.press("Enter")
    in_the_address(page, more="some mug:2")
    assert titles(page) == expected_titles(service, query, 0.0, more="some mug:2")


# -- the history, and late answers -------------------------------------------------------------------------------------


def test_back_and_forward_stay_in_the_app(page, url, service):
    page.set_viewport_size({"width": 1440, "height": 600})
    visit(page, url, tab="search", split="zero_shot")
    length, shown = page.evaluate("history.length"), [sent(page)]
    page.get_by_label("Split").select_option("in_domain")
    in_the_address(page, split="in_domain")
    shown.append(sent(page))
    page.evaluate("scrollTo(0, 100)")
    page.wait_for_function("history.state?.scroll === 100")
    page.locator("#tab-queries").dispatch_event("click")  # a click of playwright's would scroll to it
    in_the_address(page, tab="queries")
    assert page.evaluate("history.length") == length + 2
    page.go_back()
    in_the_address(page, tab="search", split="in_domain")
    assert sent(page) == shown[1]
    assert page.evaluate("scrollY") == 100
    page.go_back()
    in_the_address(page, split="zero_shot")
    assert sent(page) == shown[0]
    assert page.get_by_label("Split").input_value() == "zero_shot"
    page.go_forward()
    page.go_forward()
    in_the_address(page, tab="queries", split="in_domain")
    assert page.evaluate("history.length") == length + 2


def test_a_late_answer_does_not_override_a_newer_click(page):
    move(page, tab="search", split="zero_shot")
    late = []

    def hold(route):
        if late:
            return route.continue_()
        late.append(route)  # answered below, after the newer click

    page.route("**/gcl/view?*", hold)
    page.get_by_label("Split").select_option("in_domain")
    page.get_by_role("link", name="Queries", exact=True).click()
    in_the_address(page, tab="queries", split="in_domain")
    shown = sent(page)
    late[0].continue_()
    page.wait_for_timeout(300)
    assert parameters(page)["tab"] == "queries"
    assert sent(page) == shown


def test_a_busy_server_is_asked_once_more(opened):
    page, wrong = opened
    move(page, tab="about")
    refused = []

    def refuse(route):
        if refused:
            return route.continue_()
        refused.append(route.fulfill(status=503, headers={"Retry-After": "0.1"}, body="busy"))

    page.route("**/gcl/view?*", refuse)
    page.get_by_role("link", name="Queries", exact=True).click()
    in_the_address(page, tab="queries")
    page.unroute_all()
    assert [text for text in wrong if "503" not in text] == []


def test_pictures_are_new_elements_whose_place_is_kept(page, service):
    move(page, tab="search", split="zero_shot", query=a_query(service))
    page.evaluate("document.querySelectorAll('.view img').forEach(image => { image.old = true; })")
    held = []
    page.route("**/gcl/picture/*", lambda route: held.append(route))
    page.get_by_label("Split").select_option("in_domain")
    in_the_address(page, split="in_domain")
    images = page.locator(".card img")
    assert images.evaluate_all("all => all.filter(image => image.old || image.naturalWidth).length") == 0
    before = page.locator(".card").evaluate_all("all => all.map(card => card.offsetHeight)")
    for route in held:
        route.continue_()
    page.wait_for_function("[...document.querySelectorAll('.card img')].some(image => image.naturalWidth)")
    assert page.locator(".card").evaluate_all("all => all.map(card => card.offsetHeight)") == before


def test_seven_tabs_work_at_once(chromium, url):
    """More than the six connections that a browser opens to a host."""
    context = chromium.new_context(viewport=DESK)
    context.set_default_timeout(chrome.WAIT)
    pages = [context.new_page() for _ in range(7)]
    for one in pages:
        one.goto(url + query_string(tab="search"), wait_until="commit")
    for one in pages:
        settled(one)
    for one in pages:
        one.get_by_role("link", name="About", exact=True).click()
    for one in pages:
        in_the_address(one, tab="about")
    context.close()


def test_a_link_opens_in_a_tab_of_its_own(page, service):
    move(page, tab="search", split="in_domain", query=a_query(service, "in_domain"))
    with page.context.expect_page() as other:
        page.get_by_role("link", name="Queries", exact=True).click(modifiers=["Control"])
    settled(other.value)
    assert parameters(other.value) == {"tab": "queries", "split": "in_domain", "query": a_query(service, "in_domain")}
    other.value.close()
    assert parameters(page)["tab"] == "search"


# -- details, keyboard, screen readers ---------------------------------------------------------------------------------


def test_details_open_in_view_and_escape_returns_to_their_product(page, service):
    move(page, tab="search", split="zero_shot", query=a_query(service))
    card = page.locator(".card").last
    item = int(card.get_attribute("data-item"))
    card.scroll_into_view_if_needed()
    scrolled = page.evaluate("scrollY")
    card.locator("a").first.click()
    in_the_address(page, item=item)
    assert page.evaluate("scrollY") == scrolled
    assert in_view(page, "#details .title")
    assert focused(page, "#details")
    for model in (A, B):
        near = page.locator(f".strip[data-model={model}] li").evaluate_all("all => all.map(e => +e.dataset.item)")
        assert near == [p.item for p in service.neighbours(item, model).products]
    page.keyboard.press("Escape")
    page.locator("#details").wait_for(state="detached")
    assert focused(page, f".card[data-item='{item}'] a")
    assert "item" not in parameters(page)


def test_the_keyboard_alone_leads_from_the_start_to_every_product(page, url):
    visit(page, url)
    seen = []

    def to(selector, most=80):
        for _ in range(most):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
            if focused(page, selector):
                return
        raise AssertionError(seen)

    to("#tab-compare")
    page.keyboard.press("Enter")
    in_the_address(page, tab="compare")
    assert focused(page, "#tab-compare")
    to("[name=query]")
    to("select[name=b]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    settled(page)
    assert focused(page, "select[name=b]")
    to(".hit a")
    page.keyboard.press("Enter")
    page.locator("#details").wait_for()
    assert focused(page, "#details")
    page.keyboard.press("Escape")
    page.locator("#details").wait_for(state="detached")
    assert focused(page, ".hit a")
    reached = page.locator(".hit").evaluate_all("all => all.filter(e => e.querySelector('a[href]')).length")
    assert reached == page.locator(".hit").count() > 0


def test_a_new_view_is_announced_and_named(page):
    move(page, tab="about")
    page.get_by_role("link", name="Queries", exact=True).click()
    in_the_address(page, tab="queries")
    assert page.get_by_role("status").first.inner_text().startswith("Queries")
    assert page.title().startswith("Queries")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_no_serious_violation_on_any_tab(page, size):
    """In the dark only colours are looked at: nothing else differs."""
    resources = pytest.importorskip("importlib.resources")
    pytest.importorskip("axe_playwright_python", reason="pip install -e '.[dev]' for axe-core")
    page.set_viewport_size(size)
    page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text())
    found, rules = {}, {"light": ["wcag2a", "wcag2aa", "wcag21aa"], "dark": ["color-contrast"]}
    for tab, scheme in itertools.product(TABS, rules):
        if scheme == "light":
            move(page, tab=tab, item=3)
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
        run = "rules => axe.run(document, { runOnly: rules, resultTypes: ['violations'] })"
        for violation in page.evaluate(run, rules[scheme])["violations"]:
            if violation["impact"] in ("serious", "critical"):
                found[tab, scheme, violation["id"]] = violation["nodes"][0]["html"][:200]
    page.evaluate("document.body.classList.remove('dark')")
    assert not found, found


@pytest.mark.parametrize("tab", TABS)
def test_a_phone_shows_every_tab_and_what_was_asked_on_its_first_screen(page, tab):
    page.set_viewport_size(PHONE)
    move(page, tab=tab)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for name in TABS:
        assert in_view(page, f"#tab-{name}")
    assert in_view(page, ".card .title" if tab == "search" else ".view :is(h2, h3, p)")
    wide = page.locator("table").evaluate_all(
        "all => all.filter(e => e.offsetWidth > e.parentElement.clientWidth && !e.closest('.wide, .rows')).length"
    )
    assert wide == 0
    assert page.locator("#options:not([open])").count() == page.locator("#options").count()


def test_controls_are_large_enough_for_a_finger(page):
    page.set_viewport_size(PHONE)
    move(page, tab="search")
    page.locator("#options summary").click()
    heights = page.locator("#controls :is(select, input:not([type=file], [type=radio], [type=checkbox]), summary)")
    assert min(heights.evaluate_all("all => all.map(e => e.offsetHeight)")) >= 44
    page.locator("#options summary").click()


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tab", TABS)
def test_every_view_comes_back_from_its_address(page, service, tab):
    options = {"split": "in_domain", "query": a_query(service, "in_domain"), "a": B, "b": A, "weight": 0.25, "item": 3}
    options |= {"look": "lines", "metric": "AP", "order": "spread", "division": "all", "panels": "a", "colour": "score"}
    options |= {"weighting": "linear", "temperature": 0.2, "score": 55, "more": "some mug:0.5"}
    move(page, tab=tab, **options)
    in_the_address(page, tab=tab, **options)
    for name in TABS[tab].controls:
        control = page.locator(f"#controls [name={name}]")
        if control.count() and name in options and control.first.get_attribute("type") != "radio":
            shown = control.input_value()
            assert shown == str(options[name]) or float(shown) == options[name], name
    first = sent(page)
    move(page, tab="about")
    page.go_back()
    in_the_address(page, tab=tab)
    assert sent(page) == first


def test_one_bad_parameter_resets_only_itself(page):
    move(page, tab="queries", metric="AP", slice="nonsense", division="all", a="../../etc/passwd")
    shown = page.locator("#view .message").all_inner_texts()
    assert len(shown) == 2
    assert "a: unknown system '../../etc/passwd'; known: " in shown[0]
    assert shown[1].startswith("slice: unknown slice 'nonsense'")
    assert parameters(page) == {"tab": "queries", "metric": "AP", "division": "all"}
    assert page.get_by_label("Metric").input_value() == "AP"


def test_a_and_b_change_places_in_one_click(page):
    move(page, tab="compare", a=A, b=B)
    page.get_by_label("Swap A and B").click()
    in_the_address(page, a=B, b=A)
    assert page.locator("select[name=a]").input_value() == B


def test_the_theme_of_the_address_is_kept(page, url):
    visit(page, url, tab="about", __theme="dark")
    page.get_by_role("link", name="Queries", exact=True).click()
    in_the_address(page, tab="queries", __theme="dark")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    visit(page, url)
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "light"


@pytest.mark.parametrize("tab", TABS)
def test_hostile_titles_and_queries_stay_text(page, service, tab):
    """The page fixture fails the test when anything is executed."""
    for query in ("${alert(3)}", '{{constructor.constructor("alert(4)")()}}'):
        split = next(s for s in service.bundle.splits if query in service.labels[s])
        move(page, tab=tab, split=split, query=query, division="all")
        assert page.locator("#gcl :is(script, [onerror], [onload], [onmouseover])").count() == 0
        in_the_address(page, tab=tab, query=query)


# -- figures and files -------------------------------------------------------------------------------------------------


def test_the_playground_follows_its_sliders(page, service):
    move(page, tab="playground", weighting="linear")
    page.get_by_label(re.compile("^Score of the first pair")).fill("7")
    in_the_address(page, score="7")
    made = playground.batch(service, service.state({"weighting": "linear", "score": 7}))
    shown = page.locator(".pairs tbody tr td:nth-child(6)").all_inner_texts()
    assert shown == [f"{weight:.3f}" for weight in made.weights]
    page.locator(".figure .main-svg").first.wait_for()
    assert page.locator(".modebar-btn[data-title*=loud], .modebar-btn[data-title*=hare]").count() == 0


def test_training_draws_its_curves_and_what_every_split_reached(page, service):
    move(page, tab="training")
    losses, reached = page.locator(".figure:visible").nth(0), page.locator(".figure:visible").nth(1)
    for figure in (losses, reached):
        for name in (A, B):
            figure.locator(".legendtext", has_text=re.compile(f"^{name}$")).wait_for()
    splits = [split.replace("_", " ") for split in service.bundle.splits]
    assert reached.locator(".annotation-text").all_text_contents() == splits


def test_the_csv_holds_every_query_and_no_formula(page, service, tmp_path):
    options = {"tab": "queries", "split": "in_domain", "division": "all", "a": A, "b": B}
    move(page, **options)
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    download.value.save_as(tmp_path / "queries.csv")
    with (tmp_path / "queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = service.queries(service.state(options))
    assert [row["query_id"] for row in rows] == table["query_id"].tolist()
    assert [float(row[f"NDCG@10 {A}"]) for row in rows] == pytest.approx(table["a"].tolist(), abs=1e-6)
    assert not [row for row in rows if re.match(r"\s*[=+@-]", row["query"])]


def test_a_saved_comparison_opens_without_a_server_and_asks_for_nothing(page, service, tmp_path, chromium):
    move(page, tab="compare", split="zero_shot", query=a_query(service))
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as one HTML file").click()
    download.value.save_as(tmp_path / "comparison.html")
    other, asked = chromium.new_page(), []
    other.on("request", lambda request: asked.append(request.url))
    other.goto((tmp_path / "comparison.html").as_uri())
    answer = service.compare("zero_shot", a_query(service), A, B)
    assert other.locator(".sentence").inner_text() == answer.sentence
    assert other.locator(".hit").count() == len(answer.a.products) + len(answer.b.products) + len(answer.ideal)
    assert other.locator("a[href]").count() == other.locator("a.download").count()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    other.close()


@pytest.mark.parametrize("path", ["gradio_api/file=/etc/passwd", "file=/etc/passwd", "gradio_api/file=app/app.py"])
def test_no_file_of_the_machine_is_served(url, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url + path)
    with caught.value as answer:
        assert answer.code in (403, 404)


def test_the_view_is_drawn_once_and_no_connection_is_held(page, url):
    """Gradio opens an event stream, one of six that a browser allows, for a page with a state."""
    asked = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(url)))
    visit(page, url, tab="about")
    page.wait_for_timeout(300)
    assert [path for path in asked if path.startswith("gcl/view")] == ["gcl/view?tab=about"]
    assert [path for path in asked if "heartbeat" in path or "queue" in path] == []
    assert view(page).count() == 1
