"""The site that `make docs` builds: it works without other hosts, and its formulas are drawn."""

import importlib.util
import shutil

import pytest

from docs import build

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LINES = (
    '<script src="https://a.org/x.js"></script>',
    "<script async src=//a.org/x.js></script>",
    '<link rel="stylesheet" href="https://a.org/x.css">',
    '<img alt="" src="http://a.org/x.png">',
    "<style>@font-face { src: url(https://a.org/x.woff) }</style>",
    '<style>@import "https://a.org/x.css";</style>',
    '<script type="module">import x from "https://a.org/x.mjs"</script>',
    "<script>await import('https://a.org/x.mjs')</script>",
)


@pytest.mark.parametrize("line", LINES)
def test_what_is_loaded_from_another_host_is_found(tmp_path, line):
    links = '<a href="https://a.org">a</a> <code>--url http://localhost:8000/v1</code> <img src="x.png">'
    (tmp_path / "index.html").write_text(links)
    assert build.other_hosts(tmp_path) == []
    (tmp_path / "index.html").write_text(links + line)
    assert len(build.other_hosts(tmp_path)) == 1


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not (build.CACHE / "mathjax-3.2.2.tgz").exists() and not shutil.which("npm"):
        pytest.skip("npm is missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SITE", tmp_path_factory.mktemp("site"))
        patch.setattr(build, "pdf", lambda page: None)
        build.pages()
        yield build.SITE


def test_no_page_refers_to_another_host_and_no_link_is_broken(site):
    assert len(list(site.glob("notebooks/[0-9]*.html"))) == 12
    assert build.other_hosts(site) == []
    assert build.broken_links(site) == []


def test_the_site_has_no_answer_in_clear(site):
    folder = site / "docs/lessons"
    assert not (folder / "answers.py").exists()
    for path in folder.glob("*"):
        if path.is_file():
            text = path.read_text()
            assert "0.0277" not in text
            assert "row_loss(l" not in text.replace("row_loss(logits", "")
            assert path.suffix == ".html" or '"same"' not in text


@pytest.fixture(scope="module")
def page(site):
    if not CHROMIUM or not importlib.util.find_spec("playwright"):
        pytest.skip("chromium or playwright is missing")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 720})
        browser.close()


def test_the_notebooks_formulas_are_drawn_without_a_network(site, page):
    outside = []
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or outside.append(request.url))
    for notebook in sorted(site.glob("notebooks/[0-9]*.html")):
        page.goto(notebook.as_uri())
        page.wait_for_function("window.MathJax?.startup?.promise?.then(() => true)")
        assert "$" not in page.locator(".jp-MarkdownOutput").evaluate_all("all => all.map(e => e.innerText).join()")
        assert page.locator("mjx-merror").count() == 0
        if notebook.name.startswith("02"):
            assert page.locator("mjx-container").count() > 20
    assert outside == []


def test_formulas_and_code_that_are_wider_than_a_phone_can_be_scrolled(site, page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto((site / "notebooks/02_the_loss.html").as_uri())
    page.wait_for_function("window.MathJax?.startup?.promise?.then(() => true)")
    wide = page.locator("mjx-container[display], .highlight pre").evaluate_all(
        "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => getComputedStyle(e).overflowX)"
    )
    ends = page.locator("mjx-container[display], .highlight pre").evaluate_all(
        "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    )
    page.set_viewport_size({"width": 1280, "height": 720})
    assert len(wide) > 10
    assert set(wide) == {"auto"}
    assert ends <= 390


def test_the_slides_have_the_notebooks_figures_and_fit(site, page):
    page.goto((site / "docs/slides.html").as_uri())
    spare = page.locator("section").evaluate_all("all => all.map(each => each.scrollHeight - each.clientHeight)")
    assert len(spare) >= 12
    assert max(spare) <= 0
    assert page.locator("img").evaluate_all("all => all.every(image => image.naturalWidth > 300)")
    for key, slide in (("PageDown", 1), ("PageDown", 2), ("ArrowRight", 3), ("PageUp", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        page.wait_for_timeout(500)
        assert page.evaluate("scrollY / innerHeight") == slide, key
