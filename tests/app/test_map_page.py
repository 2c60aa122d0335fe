"""The map in a real browser."""

import big_bundle
import chrome
import pytest
from chrome import in_the_address, served, visit

from gcl_toolkit.app import mapping
from gcl_toolkit.app.service import Service
from gcl_toolkit.views.bundle import read_bundle

chrome.needed()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return big_bundle.make(tmp_path_factory.mktemp("map_page") / "bundle", 100_000)


@pytest.fixture(scope="module")
def service(folder):
    return Service(read_bundle(folder))


@pytest.fixture(scope="module")
def url(folder):
    with served(folder) as address:
        yield address


def open_map(page, url, **options):
    visit(page, url, tab="map", **options)
    page.locator(".map[data-points]").wait_for()


def milliseconds(page):
    return int(page.locator(".map").get_attribute("data-milliseconds"))


def draw_lasso(page, panel=0, size=90):
    """Around the middle of a panel."""
    page.get_by_label("Select points by drawing around them").click()
    box = page.locator(".frame").nth(panel).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - size, y - size)
    page.mouse.down()
    for dx, dy in ((size, -size), (size, size), (-size, size)):
        page.mouse.move(x + dx, y + dy, steps=5)
    page.evaluate("window.gclReleased = performance.now()")
    page.mouse.up()
    page.locator(".selection .count").wait_for()


@pytest.mark.slow
def test_100_000_points_are_drawn_and_lassoed(page, url, service):
    open_map(page, url, panels="a")
    assert page.locator(".frame").get_attribute("data-renderer") == "webgl2"
    assert int(page.locator(".map").get_attribute("data-points")) == 100_050
    drawn, lassoed = [], []
    for size in (60, 90, 120):
        page.get_by_label("Zoom in").click()
        page.wait_for_timeout(200)
        drawn.append(milliseconds(page))
        page.get_by_label("Show all points").click()
        draw_lasso(page, size=size)
        lassoed.append(page.evaluate("performance.now() - window.gclReleased"))
        page.get_by_role("button", name="Clear").click()
        page.locator(".selection").wait_for(state="detached")
    # Idle, this takes less than 1 and 2 seconds (docs/BENCHMARKS.md); a busy machine needs its time.
    assert min(drawn) < 10_000, drawn
    assert min(lassoed) < 20_000, lassoed


@pytest.mark.parametrize("panel", [0, 1])
def test_a_lasso_selects_as_numpy_does_and_its_url_restores_it(page, url, service, panel):
    open_map(page, url)
    draw_lasso(page, panel)
    page.wait_for_function("new URLSearchParams(location.search).get('lasso')")
    lasso = page.evaluate("new URLSearchParams(location.search).get('lasso')")
    assert lasso.startswith("ab"[panel] + ":")
    found = mapping.select(service, service.state({"tab": "map", "lasso": lasso}))
    assert page.locator(".selection .count").inner_text() == f"{len(found.products):,}"
    assert len(found.products) > 1000
    shown = page.locator(".selection .grid li").evaluate_all("all => all.map(e => Number(e.dataset.item))")
    assert shown == found.products[:60].tolist()
    page.goto(page.url)
    page.locator(".selection .count").wait_for()
    assert page.locator(".selection .count").inner_text() == f"{len(found.products):,}"


def test_a_click_shows_the_neighbours_in_the_models_own_space_and_the_tip_its_picture(page, url, service):
    open_map(page, url, panels="a")
    box = page.locator(".frame").bounding_box()
    places = service.bundle.models["a"].map_Mx2[:100_000]
    item = int((places[:, 0] ** 2 + (places[:, 1] - 1) ** 2).argmin())  # at the upper edge there is room around it
    scale = min(box["width"], box["height"]) / 2.15
    x = box["x"] + box["width"] / 2 + float(places[item, 0]) * scale
    y = box["y"] + box["height"] / 2 - float(places[item, 1]) * scale
    page.mouse.move(x, y)
    page.locator(".tip.shown img").wait_for()
    page.mouse.click(x, y)
    page.locator(".details").wait_for()
    clicked = int(page.evaluate("new URLSearchParams(location.search).get('item')"))
    assert ((places[clicked] - places[item]) ** 2).sum() * scale**2 < 4
    near = page.locator(".strip[data-model=a] li").evaluate_all("all => all.map(e => Number(e.dataset.item))")
    assert near == [p.item for p in service.neighbours(clicked, "a").products]


def test_without_webgl_the_same_points_are_drawn_in_2d(page, url):
    page.add_init_script(
        "const real = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        "  return kind === 'webgl2' ? null : real.call(this, kind, ...rest); };"
    )
    open_map(page, url, panels="a")
    assert page.locator(".frame").get_attribute("data-renderer") == "2d"
    draw_lasso(page)
    assert milliseconds(page) < 20_000
    inked = page.evaluate(
        "() => { const c = document.querySelector('.points');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n / (c.width * c.height); }"
    )
    assert inked > 0.05


def test_each_map_says_what_it_preserves(page, url):
    open_map(page, url, colour="score")
    shown = page.locator(".kept li:visible").all_inner_texts()
    assert len(shown) == 2
    assert all(
        "preserves 10 % of a product’s 10 nearest products and 10 % of a query’s first 10" in line for line in shown
    )
    in_the_address(page, colour="score", tab="map")
