"""Material for teachers: the exam's key is computed again with the library, sheets fit on paper, references exist."""

import re
import shutil

import numpy as np
import pytest
import torch

from docs import build
from gcl_toolkit import AP, NDCG
from gcl_toolkit.data.fields import fuse
from gcl_toolkit.data.propensity import power_law
from gcl_toolkit.data.weighting import to_weights
from gcl_toolkit.losses import gcl_loss
from gcl_toolkit.measure.agreement import weighted_kappa
from gcl_toolkit.measure.metrics import measure
from gcl_toolkit.measure.statistics import holm, minimal_detectable_effect
from notebooks import build as notebooks
from notebooks import facts


def numbered(name):
    """Number of a question -> its text, without its points; and its points."""
    parts = re.split(r"^\*\*(\d+)\.\*\* \((\d+)\) ", (build.ROOT / f"docs/{name}.md").read_text(), flags=re.M)[1:]
    texts = {int(n): " ".join(text.split("\n## ")[0].split()) for n, text in zip(parts[::3], parts[2::3], strict=True)}
    return texts, {int(n): int(points) for n, points in zip(parts[::3], parts[1::3], strict=True)}


EXAM, POINTS = numbered("exam")
KEY, KEY_POINTS = numbered("exam_key")


def dotted(value, places):
    """A number as the key prints it: .069, −.11."""
    return f"{value:.{places}f}".replace("0.", ".", 1).replace("-", "−")


def gradient(S, weights, **options):
    S = torch.tensor(S, dtype=torch.float64, requires_grad=True)
    eye = torch.eye(len(S), dtype=torch.float64)
    gcl_loss(S, eye, torch.tensor(weights, dtype=torch.float64), logit_scale=1.0, **options).backward()
    return S.grad


def metrics_of_question_5():
    grades, ranked = {"3": 3, "2": 2, "1": 1, "0": 0}, {"0": 3.0, "3": 2.0, "1": 1.0}
    return [dotted(value, 3) for value in measure({"q": grades}, {"q": ranked}, [NDCG @ 3, AP]).loc["q"]]


def fused():
    picture, title = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    present = {"image": torch.tensor([True]), "title": torch.tensor([True])}
    product = fuse({"image": picture, "title": title}, present, {"image": 0.9, "title": 0.1})[0]
    return dotted(float(product @ torch.tensor([0.6, 0.8])), 3)


def detectable():
    """The effect that 100 queries with the interval .01 ± .03 detect, and the queries for .01."""
    unit = np.tile([1.0, -1.0], 50)
    effect = minimal_detectable_effect(unit / unit.std(ddof=1) * 0.03 / 1.96 * 10)
    return [dotted(effect, 3), f"{round(100 * (effect / 0.01) ** 2, -1):,.0f}"]


def liked():
    looks = 100 * np.asarray(power_law(4, 1.0).value_K)[[0, 3]]
    return [dotted(clicks / look, 2) for clicks, look in zip((10, 5), looks, strict=True)]


def kappa():
    first, second = np.ones(100), np.ones(100)
    first[:10], second[10:20] = 0, 0
    return [dotted(weighted_kappa(first, second), 2), dotted((first == second).mean(), 2)]


def gaps_of(weighting, positions=(1, 10), temperature=0.02):
    one, two = to_weights(101.0 - np.array(positions), weighting)
    return temperature * np.log(one / two)


COMPUTED = {
    1: lambda: [dotted(np.log(2) / 10, 3), dotted(np.log(4) / 10, 3)],
    2: lambda: [dotted(gaps_of("reciprocal"), 3), dotted(gaps_of("linear"), 4)],
    5: metrics_of_question_5,
    6: lambda: [fused()],
    9: detectable,
    10: lambda: [dotted(0.47 - 0.44, 2), f"{(0.47 - 0.44) / (0.47 - 0.31):.0%}"],
    11: lambda: [", ".join(dotted(p, 2) for p in holm([0.01, 0.02, 0.03, 0.2])), f"{1 - 0.95**4:.0%}"],
    12: lambda: [dotted(holm([0.03, *[0.9] * 7])[0], 2)],
    16: liked,
    17: lambda: [f"{4096**2 * 4 / 1e6:.0f} MB", f"{2 * 4096 * 512 * 4 / 1e6:.1f} MB"],
    18: kappa,
}


@pytest.mark.parametrize("question", COMPUTED)
def test_the_keys_numbers_are_the_librarys(question):
    for number in COMPUTED[question]():
        assert re.search(rf"(?<![\d.−]){re.escape(number)}(?![\d])", KEY[question]), number


def test_the_gaps_of_question_1_minimise_the_loss():
    """One query: every row of S is the same."""
    weights = np.array([1, 0.5, 0.25])
    for w, cosines in ((np.ones(3), np.full(3, 0.4)), (weights, 0.4 + np.log(weights) / 10)):
        assert gradient(np.tile(10 * cosines, (3, 1)), w).sum(dim=0).abs().max() < 1e-9


def test_question_3_and_the_gradients_of_7_and_8():
    S, w = np.random.default_rng(0).normal(size=(4, 4)), np.array([1, 0.5, 0.2, 0.7])
    assert torch.allclose(gradient(S, 7 * w), gradient(S, w))
    plain = {"normalise_weights": False}
    assert torch.allclose(gradient(S, 7 * w, **plain), 7 * gradient(S, w, **plain))
    P, C = (torch.tensor(S).softmax(dim) for dim in (1, 0))
    v = torch.tensor(w / w.mean())
    by_key = (v[:, None] * P + v * C) / (2 * len(S))
    off = ~torch.eye(4, dtype=torch.bool)
    assert torch.allclose(gradient(S, w)[off], by_key[off])
    assert gradient(np.zeros((2, 2)), [1, 0]).tolist() == [[-0.5, 0.25], [0.25, 0]]
    assert "(−.5, .25) and (.25, 0)" in KEY[8]


def test_points_and_minutes_add_up_and_the_key_has_the_same():
    text = (build.ROOT / "docs/exam.md").read_text()
    assert POINTS == KEY_POINTS
    assert list(EXAM) == list(KEY) == list(range(1, 19))
    parts = [[int(n) for n in found] for found in re.findall(r"^## .*\((\d+) points, about (\d+) minutes", text, re.M)]
    sums = [sum(POINTS[n] for n in part) for part in (range(1, 7), range(7, 12), (12, 13, 14))]
    assert [points for points, _ in parts] == sums
    assert {POINTS[n] for n in range(13, 19)} == {4}  # of which two are chosen
    assert f"**{sum(m for _, m in parts)} minutes, {sum(sums)} points.**" in text


@pytest.mark.parametrize("question", [n for n in KEY if n not in (4, 12)])
def test_the_points_of_a_keys_steps_add_up(question):
    steps = [int(n) for n in re.findall(r" \((\d)\)", KEY[question])]
    assert sum(steps) == KEY_POINTS[question]


def test_the_students_sheet_has_no_answer():
    for question, compute in COMPUTED.items():
        asked = EXAM[question]
        assert not [n for n in compute() if re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", asked)], question


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="needs Chromium")
def test_each_handout_fits_on_one_page_and_the_exam_on_one_leaf(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SITE", tmp_path)
    for name, pages in (("handouts", 2), ("exam", 2)):
        page = build.printed(name)
        build.pdf(page)
        assert len(re.findall(rb"/Type /Page\b", page.with_suffix(".pdf").read_bytes())) == pages, name
    assert page.read_text().count('class="blank"') >= 3


def test_each_mistake_names_a_fact_that_a_notebook_asserts_and_an_exercise_that_exists():
    text = (build.ROOT / "docs/MISTAKES.md").read_text().replace("\\_", "_")
    entries = [" ".join(entry.split()) for entry in re.split(r"(?m)^(?=\d+\. )", text)[1:]]
    sources = {int(name[:2]): name for name in facts.SOURCES}
    for entry in entries:
        assert re.search(r"Shown: .* Caught: ", entry), entry
        for number, fact in re.findall(r"notebook (\d+), \*(.+?)\*(?=[.;])", entry):
            assert fact in facts.facts(sources[int(number)]), fact
        for number, exercise in re.findall(r"notebook (\d+), exercise (\d)", entry):
            assert f"# **{exercise}.** " in facts.SOURCES[sources[int(number)]].read_text(), entry
        for lesson, exercise in re.findall(r"browser lesson (\d), exercise (\d)", entry):
            page = ("score", "metrics", "better")[int(lesson) - 1]
            assert f"<b>Exercise {exercise}.</b>" in (build.LESSONS / f"{page}.md").read_text(), entry
        for question in re.findall(r"exam questions? (\d+)(?: and (\d+))?", entry):
            assert {int(n) for n in question if n} <= set(EXAM), entry
    assert [int(entry.split(".")[0]) for entry in entries] == list(range(1, len(entries) + 1))


def test_the_plan_uses_every_slide():
    slides = (build.ROOT / "docs/slides.md").read_text().split("\n---\n")
    rows = re.findall(r"slides? (\d+)(?: – (\d+))?", (build.ROOT / "docs/TEACHING.md").read_text())
    assert [n for first, last in rows for n in range(int(first), int(last or first) + 1)] == [
        *range(1, len(slides) + 1)
    ]


@pytest.mark.parametrize("page", ["docs/LEARN.md", "notebooks/README.md"])
def test_every_notebook_is_listed_with_its_own_minutes(page):
    listed = dict(re.findall(r"(?m)^\|.*?(\d\d_\w+)\.ipynb.*\| (\d+) \|$", (build.ROOT / page).read_text()))
    built = [name for name in facts.SOURCES if (build.ROOT / f"notebooks/{name}.ipynb").exists()]
    minutes = {name: re.search(r"\*\*Time\*\* (\d+) minutes", facts.SOURCES[name].read_text())[1] for name in built}
    assert listed == minutes


def test_the_links_to_colab_and_binder_have_the_address_and_version():
    text = (build.ROOT / "docs/LEARN.md").read_text()
    assert len(re.findall(r"\]\(https://(?:colab\.research|mybinder)", text)) == 2
    assert notebooks.with_address(text) == text
