"""The lessons that run in a browser: their formulas are the library's, their checks reject wrong answers, and the pages
work in Chromium without an outside request."""

import importlib.util
import json
import re
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from gcl_toolkit import AP, ERR, NDCG, RBP
from gcl_toolkit.data import propensity
from gcl_toolkit.losses import gcl_loss
from gcl_toolkit.measure import metrics as library
from gcl_toolkit.measure import statistics

LESSONS = Path(__file__).parents[1] / "docs/lessons"
sys.path[:0] = [str(LESSONS), str(LESSONS.parent)]
import answers  # noqa: E402
import better  # noqa: E402
import check  # noqa: E402
import metrics  # noqa: E402
import score  # noqa: E402

WRONG = {
    "score-constant": ["falls", "rises", "others", "", "sam", "Same "],
    "score-gap": ["0.0139", "0.28", "0.0416", "0.12", "-0.028", "four", "nan"],
    "metrics-ndcg": ["1", "0.5", "0.818e1", "0.82 of 1", "0.786", "0.922", "81"],
    "better-queries": ["56", "21", "225", "440", "882", "1764", ""],
    "better-overlap": ["none", "notsig", "small", "pair", ""],
}
NEAR_MISSES = {
    "score-row": [
        "def row_loss(logits, weights): return 1.0",
        "import numpy as np\ndef row_loss(l, w):\n l = np.array(l); p = np.exp(l) / np.exp(l).sum(0)\n"
        " return float((np.array(w) / np.mean(w) * -np.log(np.diag(p))).mean())",  # columns
        "import numpy as np\ndef row_loss(l, w):\n l = np.array(l); p = np.exp(l) / np.exp(l).sum(1, keepdims=True)\n"
        " return float((np.array(w) * -np.log(np.diag(p))).mean())",  # weights not divided by their mean
        "import numpy as np\ndef row_loss(l, w):\n l = np.array(l); p = np.exp(l) / np.exp(l).sum(1, keepdims=True)\n"
        " return float((np.array(w) / np.mean(w) * -np.log(np.diag(p))).mean())",  # overflows
        "import numpy as np\ndef row_loss(l, w):\n l = np.array(l); l = l - l.max(1, keepdims=True)\n"
        " p = np.exp(l) / np.exp(l).sum(1, keepdims=True)\n return float(-np.log(np.diag(p)).mean())",  # no weights
        "def loss(logits, weights): return 0",
    ],
    "metrics-function": [
        "def ndcg(r, j, k): return 1.0",
        "from math import log2\ndef d(g): return sum(x / log2(i + 2) for i, x in enumerate(g))\n"
        "def ndcg(r, j, k): return d(r[:k]) / (d(sorted(r, reverse=True)[:k]) or 1)",  # ideal of the returned only
        "from math import log2\ndef d(g): return sum(x / log2(i + 2) for i, x in enumerate(g))\n"
        "def ndcg(r, j, k): return d(r[:k]) / (d(sorted(j, reverse=True)) or 1)",  # ideal without cut-off
        "from math import log2\ndef d(g): return sum((2**x - 1) / log2(i + 2) for i, x in enumerate(g))\n"
        "def ndcg(r, j, k): return d(r[:k]) / (d(sorted(j, reverse=True)[:k]) or 1)",  # exponential gain
        "from math import log2\ndef d(g): return sum(x / log2(i + 2) for i, x in enumerate(g))\n"
        "def ndcg(r, j, k): return d(r[:k]) / d(sorted(j, reverse=True)[:k])",  # divides by 0
    ],
    "better-function": [
        "def per_look(c, n, k, e): return c / n if n else 0",
        "def per_look(c, n, k, e): return c / n * k ** -e if n else 0",
        "def per_look(c, n, k, e): return c / n * k if n else 0",
        "def per_look(c, n, k, e): return c * k ** e / n",
        "def per_look(c, n, k, e): return c / n * (k - 1) ** e if n else 0",
    ],
}
RIGHT = {
    "score-row": "import numpy as np\ndef row_loss(l, w):\n l = np.array(l, float)\n l = l - l.max(1, keepdims=True)\n"
    " log_p = l - np.log(np.exp(l).sum(1, keepdims=True))\n"
    " return (np.array(w) / np.mean(w) * -np.diag(log_p)).mean()",
    "metrics-function": "from math import log2\ndef d(g): return sum(x / log2(i + 2) for i, x in enumerate(g))\n"
    "def ndcg(r, j, k):\n ideal = d(sorted(j, reverse=True)[:k])\n return d(r[:k]) / ideal if ideal else 0",
    "better-function": "def per_look(c, n, k, e): return c / n * k ** e if n else 0",
}


@pytest.fixture(scope="module")
def expected():
    return json.loads(json.dumps(answers.expected()))


# -- formulas ----------------------------------------------------------------------------------------------------------


def test_the_loss_and_its_gradient_are_the_librarys():
    rng = np.random.default_rng(0)
    left, right = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 6, 4)))
    weights = rng.uniform(0, 2, 6)
    expected = gcl_loss(*map(torch.from_numpy, (left, right, weights)), logit_scale=20.0)
    assert score.gcl_loss(left, right, weights, 20.0) == pytest.approx(expected.item(), abs=1e-9)
    logits = torch.from_numpy(20 * left @ right.T).requires_grad_()
    rows, columns = (-(logits - logits.logsumexp(axis, keepdim=True)).diagonal() for axis in (1, 0))
    (torch.from_numpy(weights / weights.mean()) * (rows + columns)).mean().mul(0.5).backward()
    np.testing.assert_allclose(score.gradient(logits.detach().numpy(), weights), logits.grad, atol=1e-9)


def test_training_lowers_the_loss_on_the_circle():
    weights, query = np.tile([1, 0.5, 0.25, 0.1], 2), np.repeat([0, 1], 4)
    frames = score.train(score.START, weights, 0.1)

    def loss(angles):
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return score.gcl_loss(points[query], points[2:], weights, 10.0)

    assert loss(frames[-1]) < loss(frames[len(frames) // 2]) < loss(frames[0])
    assert score.kendall(np.cos(frames[-1, 0] - frames[-1, 2:6]), np.array([4, 3, 2, 1])) == 1


@pytest.mark.parametrize("temperature", [0.03, 0.1, 0.15])
@pytest.mark.parametrize("last", [10, 100])
def test_the_figure_shows_what_the_lesson_says_over_its_whole_range(temperature, last):
    """The order is lost with constant weights, and only with these; and the answer to exercise 1."""
    for name in ("constant", "reciprocal", "log", "sqrt", "linear", "exponential"):
        words = score.points(name, temperature, 2, 4, last)
        assert ("the order is lost" if name == "constant" else "tau 1.00") in words, name
    assert score.points("constant", temperature, 2, 4, last).count("<td>1.000</td>") >= 4
    cosines = [re.findall(r"<td>([\d.]+)</td></tr>", score.points("constant", temperature, 2, 4, p)) for p in (10, 100)]
    assert cosines[0] == cosines[1]


def test_the_paired_interval_excludes_0_where_the_lesson_says():
    low_and_high = [re.findall(r"paired</td>.*?<td>(-?[\d.]+)</td><td>(-?[\d.]+)</td></tr>", better.overlap(c, 100, 0))
                    for c in (0, 0.9)]  # fmt: skip
    assert float(low_and_high[0][0][0]) < 0 < float(low_and_high[1][0][0])


def test_the_gap_is_tau_log_of_the_weight_ratio():
    assert score.learnt_gap(1.0, 0.1, 0.05) == pytest.approx(0.05 * np.log(10), abs=1e-3)


def test_the_metrics_are_the_librarys():
    rng = np.random.default_rng(1)
    for _ in range(20):
        grades = rng.integers(0, 4, 12).astype(float)
        ranked, qrels = rng.permutation(12)[:8], {"q": {str(k): g for k, g in enumerate(grades)}}
        run = {"q": {str(k): -place for place, k in enumerate(ranked)}}
        values = library.measure(qrels, run, [NDCG @ 10, ERR, RBP(0.9), AP]).loc["q"]
        mine = [metric(grades[ranked], grades) for metric in metrics.METRICS.values()]
        np.testing.assert_allclose(mine, values, atol=1e-9)


def test_the_statistics_are_the_librarys():
    values, p_values = np.random.default_rng(2).normal(0.02, 0.2, 50), [0.01, 0.04, 0.03, 0.2]
    effect = statistics.minimal_detectable_effect(values)
    assert better.minimal_detectable_effect(values) == pytest.approx(effect, abs=1e-9)
    assert better.power(effect, values.std(ddof=1), 50) == pytest.approx(0.8, abs=1e-9)
    np.testing.assert_allclose(better.holm(np.array(p_values)), statistics.holm(p_values), atol=1e-9)
    np.testing.assert_allclose(better.propensities(9, 1.3), propensity.power_law(9, 1.3).value_K, atol=1e-9)


def test_the_bounds_of_an_unjudged_product_hold_for_every_grade():
    grades, judged = np.array([3, np.nan, 1]), np.array([3.0, 1])
    low, high = metrics.bounds(metrics.ndcg, grades, judged, 3)
    values = [metrics.ndcg(np.array([3, g, 1.0]), np.array([3, 1, g])) for g in range(4)]
    assert (low, high) == (min(values), max(values))
    assert low < high


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exercise", answers.SHORT)
def test_a_right_answer_passes_and_wrong_ones_do_not(expected, exercise):
    value, step = answers.SHORT[exercise]
    typed = str(value) if step is None else f"{float(value):.3f}"
    assert check.answer(exercise, typed, expected[exercise])[0]
    assert len(WRONG[exercise]) >= 5
    assert not any(check.answer(exercise, wrong, expected[exercise])[0] for wrong in WRONG[exercise])


@pytest.mark.parametrize("exercise", answers.FUNCTIONS)
def test_a_right_function_passes_and_near_misses_do_not(expected, exercise):
    assert check.function(exercise, RIGHT[exercise], expected[exercise])[0]
    assert len(NEAR_MISSES[exercise]) >= 5
    for source in NEAR_MISSES[exercise]:
        with np.errstate(all="ignore"):
            right, words = check.function(exercise, source, expected[exercise])
        assert not right, source
        assert words


MISTAKES = {
    "def per_look(c, n, k, e)\n return 1": "SyntaxError: expected ':' (your code, line 1)",
    "def per_look(c, n, k, e):\n c / n": "returns None. Does your function end with return?",
    "def per_look(c, n, k, e):\n x = 1\n return c / m": "NameError: name 'm' is not defined (line 3)",
    "def per_look(c, n, k, e): exit()": "raises SystemExit: None",
    "def per_look(c, n, k, e): print('k is', k); return 0": "not right.\nPrinted:\nk is 1",
    f"print('hello')\n{RIGHT['better-function']}": "Right on all 6 inputs.\nPrinted:\nhello",
}


@pytest.mark.parametrize("source", MISTAKES)
def test_a_students_mistake_is_described(expected, source):
    assert MISTAKES[source] in check.function("better-function", source, expected["better-function"])[1]


def test_the_trap_of_err_has_one_answer():
    assert metrics.trap("100 10 20 30 40 60")[0]
    for wrong in (
        "100 60 40 30 20 10",
        "10 20 30 40 60 100",
        "100 10 20 40 30 60",
        "100 10 20 30 60 40",
        "60 100 10 20 30 40",
    ):
        assert not metrics.trap(wrong)[0]


# -- in the browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    sys.path.insert(0, str(Path(__file__).parent / "app"))
    import chrome

    if not chrome.CHROMIUM or not importlib.util.find_spec("playwright") or not shutil.which("npm"):
        pytest.skip("chromium, playwright or npm is missing")
    import build

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SITE", tmp_path_factory.mktemp("site"))
        for source in LESSONS.glob("*.md"):
            build.write(source, build.document(source))
        build.lessons()
        handler = partial(SimpleHTTPRequestHandler, directory=build.SITE)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield build.SITE / "docs/lessons", f"http://127.0.0.1:{server.server_port}/docs/lessons/"
            server.shutdown()


@pytest.fixture(scope="module")
def browser(site):
    import chrome
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chrome.CHROMIUM, args=chrome.FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def lesson(site, browser):
    """Opens a lesson and waits until Python has drawn its figures; there must be no error and no outside request."""
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    problems, home = [], site[1].split("docs")[0]

    def opened(name):
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(error))
        page.on("request", lambda request: request.url.startswith(home) or problems.append(request.url))
        page.goto(f"{site[1]}{name}.html")
        page.locator("body.ready").wait_for(timeout=120_000)
        for result in page.locator("form[data-call] .result").all():
            result.locator("table, svg").first.wait_for(state="attached", timeout=60_000)
        return page

    yield opened
    context.close()
    assert not problems


def answered(page, exercise, right):
    page.locator(f"#{exercise} button[type=submit]").click()
    page.locator(f"#{exercise}.{'right' if right else 'wrong'}").wait_for()


def test_lesson_1_computes_and_checks(lesson):
    page = lesson("score")
    assert not page.get_by_text("the order is lost").first.is_visible()  # before the reader has predicted
    page.get_by_text("I have an answer").click()
    figure = page.locator("form[data-call='score.points']")
    assert "the order is lost" in figure.inner_text()
    figure.locator("select").select_option("reciprocal")
    figure.get_by_text("Kendall's tau 1.00").wait_for()
    page.check("input[value=falls]")
    answered(page, "score-constant", False)
    page.check("input[value=same]")
    answered(page, "score-constant", True)
    page.fill("#score-row textarea", RIGHT["score-row"])
    answered(page, "score-row", True)


def test_lesson_2_sorts_by_keyboard_and_checks(lesson):
    page = lesson("metrics")
    figure = page.locator("form[data-call='metrics.order']")
    before = figure.locator(".result").inner_text()
    figure.get_by_label("down").first.press("Enter")
    page.wait_for_function(
        "text => document.querySelector('[data-call=\"metrics.order\"] .result').innerText !== text", arg=before
    )
    assert page.input_value("#order-value") == "2 3 ? 1 0"
    trap = page.locator("#metrics-trap li")
    for grade in (60, 40, 30, 20, 10, 100):  # each to the top
        item = trap.filter(has_text=f"score {grade}").first
        while item.evaluate("e => !!e.previousElementSibling"):
            item.get_by_label("up").click()
    answered(page, "metrics-trap", True)
    page.fill("#metrics-ndcg input", "0.9")
    answered(page, "metrics-ndcg", False)


def test_lesson_3_draws_and_checks(lesson):
    page = lesson("better")
    page.locator("[data-call='better.experiments'] [name=queries]").fill("1000")
    page.get_by_text("25 of 25 experiments find B better").or_(page.get_by_text("24 of 25")).first.wait_for()
    page.fill("#better-queries input", "441")
    answered(page, "better-queries", True)
    page.fill("#better-queries input", "56")
    answered(page, "better-queries", False)


def test_a_loop_that_never_ends_is_stopped_and_the_code_is_kept(lesson):
    page = lesson("better")
    form, loop = page.locator("#better-function"), "def per_look(c, n, k, e):\n    while True: pass"
    check, stop = (form.get_by_role("button", name=name) for name in ("Check", "Stop"))
    assert not stop.is_visible()
    form.locator("textarea").fill(loop)
    check.click()
    page.fill("#better-queries input", "442")  # another exercise waits for the loop, and is taken back
    page.locator("#better-queries button[type=submit]").click()
    page.locator("#better-queries .stop").click()
    page.get_by_text("Stopped before it began.").wait_for()
    stop.press("Enter")
    form.get_by_text("Stopped. Your code is still here").wait_for()
    answered(page, "better-queries", True)
    page.clock.install()
    check.click()
    page.clock.fast_forward(20_000)
    form.get_by_text("Stopped after 20 s").wait_for()
    page.reload()
    assert form.locator("textarea").input_value() == loop
    form.locator("textarea").fill(RIGHT["better-function"])
    check.click(timeout=60_000)
    page.locator("#better-function.right").wait_for(timeout=60_000)


def test_a_lesson_opened_as_a_file_or_in_a_browser_that_keeps_nothing(site, browser):
    page = browser.new_page()
    page.goto((site[0] / "score.html").as_uri())
    assert "python -m http.server" in page.locator("#loading").inner_text()
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked') } })")
    page.goto(f"{site[1]}better.html")
    page.locator("#better-function button[type=submit]").wait_for(state="attached")
