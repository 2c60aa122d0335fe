"""One of each from outside, as CONTRIBUTING.md says: a weighting, a metric, a source, a figure and an app tab, each
found everywhere. A method: tests/test_methods.py."""

import sys
import types

import pytest
from conftest import ranked
from forks import forks
from test_cli import gcl

from gcl_toolkit import GCLModel, UserError, evaluate, four_way_split, load, train
from gcl_toolkit.data.sources import SOURCES
from gcl_toolkit.data.weighting import WEIGHTINGS, register
from gcl_toolkit.measure import metrics
from gcl_toolkit.methods import Graded, as_method
from gcl_toolkit.views import figures


@pytest.fixture
def model():
    return GCLModel("small", dimension=16, image_size=16, width=8)


def test_a_weighting(model, monkeypatch):
    def squared(scores):
        """The square of the share of the highest score."""
        return (scores / scores.max()) ** 2

    monkeypatch.setattr("gcl_toolkit.data.weighting.WEIGHTINGS", WEIGHTINGS)
    register(squared)
    try:
        assert as_method("graded:weighting=squared") == Graded("squared")
        assert "(squared)" in Graded("squared").about
        assert len(list(train(model, ranked(6, 12), "gcl-linear:weighting=squared", steps=1, batch=4))) == 1
    finally:
        del WEIGHTINGS["squared"]
    with pytest.raises(UserError, match="unknown weighting 'squared'"):
        Graded("squared")


def test_a_metric(model, monkeypatch):
    def hits(ranked, k, _):
        """Relevant products among the first k."""
        return ((ranked.gain_QxH > 0) & (ranked.rank_QxH <= k)).sum(1).astype(float)

    monkeypatch.setitem(metrics.METRICS, "Hits", metrics.Metric("Hits", hits))
    assert metrics.parse("Hits@5") == metrics.Metric("Hits", hits) @ 5
    list(train(model, ranked(4, 6), steps=1, batch=4))
    table = evaluate(model, ranked(4, 6), [metrics.parse("Hits@5")])
    assert table["Hits@5"].tolist() == [5.0] * 4


def test_a_source_with_its_own_options(capsys, monkeypatch, tmp_path):
    module = types.ModuleType("outside_source")

    def load_toy(*, queries: int = 6, shout: bool = False):
        """Six queries, or as many as are asked for."""
        data = ranked(queries, 12)
        return four_way_split(data, seed=1)

    module.load = load_toy
    monkeypatch.setitem(sys.modules, "outside_source", module)
    monkeypatch.setitem(SOURCES, "toy", "outside_source")
    assert sum(load("toy:queries=20")[name].queries.num_rows for name in ("in_domain", "novel_query")) == 20
    with pytest.raises(UserError, match=r"toy has no option 'colour'; leave it out \(known: queries, shout, vectors\)"):
        load("toy", colour="red")
    run = ("--data", "toy:queries=20", "--out", tmp_path / "run", "--right", "title=1", "--steps", 1, "--batch", 4)
    status, _, error = gcl(capsys, "train", *run)
    assert status == 0, error
    assert gcl(capsys, "evaluate", tmp_path / "run", "--division", "all")[0] == 0


def test_a_figure_gets_its_look_from_the_library():
    drawn = figures.plain(figures.go.Figure(), 300)
    assert drawn.layout.paper_bgcolor == "rgba(0,0,0,0)"
    looks = figures.styles(["graded", "mine", "yours"])
    assert len(set(looks.values())) == 3


TAB = """
import sys, types
from gcl_toolkit.app import app, page, state

module = types.ModuleType("outside_tab")
module.draw = lambda service, state: f"<p>{len(service.bundle.items)} products of {state.split}</p>"
sys.modules["outside_tab"] = module
state.TABS["counts"] = state.Tab(("split",), module="outside_tab")
print(page.content(app.open_service(sys.argv[1]), {"tab": "counts", "split": "in_domain"}))
"""


def test_an_app_tab(small_study):
    """In its own process, since gradio starts threads and event loops."""
    pytest.importorskip("gradio")
    printed = forks("gcl_toolkit.app.app").run(TAB, str(small_study / "bundle"))
    assert "<p>24 products of in_domain</p>" in printed
    assert 'aria-current="page">Counts</a>' in printed
    assert 'data-url="?tab=counts&amp;split=in_domain"' in printed
