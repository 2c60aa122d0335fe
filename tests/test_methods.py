"""A method is a value: controls are derived from it and differ in one thing; one from outside is found everywhere."""

import re
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ranked
from test_losses import pair_batch
from torch.nn.functional import normalize

from gcl_toolkit import GCLModel, UserError, train
from gcl_toolkit.losses import fast
from gcl_toolkit.methods import (
    CONTROLS,
    DEFAULT,
    DERIVED,
    GCL,
    KL,
    METHODS,
    PAPER,
    RIVALS,
    Graded,
    Matrix,
    Method,
    as_method,
    name_of,
)
from gcl_toolkit.studies.glossary import IN_WORDS, groups, in_words, meaning
from gcl_toolkit.studies.study import BASELINES, STUDIED, laboratory

SETTING = {"scores": "weighting", "false negatives": "exclude_known", "all but the best scores": "top_only"}


def different(a, b):
    return {field.name for field in fields(a) if getattr(a, field.name) != getattr(b, field.name)}


def drawn(method, steps=4):
    sampler = method.sampler(ranked(8, 12), 6, 0)
    return [sampler(step) for step in range(steps)]


# -- controls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTROLS)
def test_every_named_control_lacks_one_thing_of_the_method_that_it_is_derived_from(name):
    """The same kind of method, hence the same loss; one setting differs; batches differ where that setting says so."""
    origin, what = DERIVED[name]
    method, control = METHODS[origin], METHODS[name]
    assert control == (method.only_top() if what.startswith("all but") else method.without(what))
    assert type(control) is type(method)
    assert different(method, control) == {SETTING[what]}
    for a, b in zip(drawn(method), drawn(control), strict=True):
        if what == "all but the best scores":
            assert len(b.products)
            continue
        assert (a.queries == b.queries).all()
        assert (a.products == b.products).all()
        assert torch.equal(a.weights > 0, b.weights > 0)
        assert torch.equal(a.weights, b.weights) == (what != "scores")
        assert (a.excluded is None) == (b.excluded is None) or what == "false negatives"


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_has_the_loss_of_its_method_on_the_same_batch_and_weights(name):
    method, control = METHODS[DERIVED[name][0]], METHODS[name]
    batch, (left, right, _) = drawn(method)[0], pair_batch()
    rows, columns = (torch.arange(len(side)) for side in (batch.queries, batch.products))
    sides = left.detach()[rows % len(left)], right.detach()[columns % len(right)]
    values = [each.loss(*sides, batch, logit_scale=5.0) for each in (method, control)]
    assert torch.equal(*values)


def test_the_controls_and_what_they_are_called():
    assert METHODS["clip"] == GCL("constant")
    assert METHODS["clip-masked"] == GCL("constant", exclude_known=True)
    assert METHODS["clip-top"] == GCL("constant", exclude_known=True, top_only=True)
    assert METHODS["graded-noscores"] == Graded().without("scores") == Graded("constant")
    assert METHODS["matrix-top"] == Matrix("constant", top_only=True)
    assert meaning("graded-noscores").startswith("graded - scores: ")
    assert meaning("clip").endswith("flatters")
    assert {*IN_WORDS} == {DEFAULT, "matrix", *PAPER, *CONTROLS}
    assert in_words("graded-noscores").startswith("graded - scores: trained without scores")
    assert not [text for text in IN_WORDS.values() if re.search("matrix|step|softmax|weight 1|negatives", text)]
    assert in_words("siglip") == meaning("siglip")


@pytest.mark.parametrize(
    ("method", "what", "words"),
    [
        (
            Graded(),
            "false negatives",
            r"Graded\(.*\) has no control without 'false negatives'; it can be without: scores",
        ),
        (Graded("constant"), "scores", "it can be without: nothing"),
        (GCL(exclude_known=True), "false negatives", "it can be without: scores"),
        (GCL(), "order", "it can be without: scores, false negatives"),
        (METHODS["siglip"], "scores", "it can be without: nothing"),
    ],
)
def test_what_can_not_be_separated_is_an_error(method, what, words):
    with pytest.raises(UserError, match=words):
        method.without(what)


def test_the_best_scores_only_once():
    with pytest.raises(UserError, match="best scores only already"):
        Matrix().only_top().only_top()


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_name_is_read_and_written_and_explained(name):
    assert as_method(name) == METHODS[name]
    assert name_of(METHODS[name]) == name
    assert isinstance(METHODS[name], Method)
    assert METHODS[name].about in meaning(name)
    assert METHODS[name] == eval(repr(METHODS[name]), {type(m).__name__: type(m) for m in METHODS.values()})


def test_settings_follow_a_colon():
    assert as_method("graded:weighting=log,queries=12") == Graded("log", queries=12)
    assert name_of(Graded("log", queries=12)) == "graded:weighting=log,queries=12"
    assert as_method("kl:temperature=1") == KL(temperature=1.0)
    assert as_method("graded:recall=0") == Graded(recall=0.0)
    assert name_of(Graded(recall=0.5)) == "graded:recall=0.5"
    assert name_of(as_method("matrix:top_only=true")) == "matrix:top_only=true"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grated", "unknown method 'grated'; known: bixse, clip,"),
        (
            "graded:weight=log",
            "method graded has no option 'weight'; leave it out .known: queries, recall, top_only, weighting.$",
        ),
        ("graded:weighting=logg", "unknown weighting 'logg'; known: auto, constant"),
        ("graded:queries=many", "option queries of method graded is 'many'; int is expected"),
        ("graded:queries=0", "queries is 0; it must be an integer >= 1"),
        ("graded:queries", "unknown method 'graded:queries'"),
        ("graded:recall=1.5", "recall is 1.5; it must be a number from 0 to 1"),
        ("kl:temperature=-1", "temperature is -1; it must be a number > 0"),
    ],
)
def test_a_wrong_name_or_setting_is_an_error(text, words):
    with pytest.raises(UserError, match=words):
        as_method(text)


# -- one from outside --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairwise:
    """Not derived from any class of the package: only the five members of the protocol."""

    margin: float = 0.1

    about = "each pair above its neighbour by a margin"

    def sampler(self, data, size, seed):
        return GCL().sampler(data, size, seed)

    def loss(self, left, right, batch, *, logit_scale, half=False):
        own = (left * right).sum(1)
        return (self.margin + (left * right.roll(1, 0)).sum(1) - own).relu().mean() * logit_scale

    def without(self, what):
        raise UserError(f"nothing is without {what}")

    only_top = None


def test_a_method_from_outside_is_trained_studied_explained_and_drawn(monkeypatch, tmp_path):
    from test_study import world

    from gcl_toolkit.studies.study import StudyConfig, read_study, study
    from gcl_toolkit.studies.summary import summarise
    from gcl_toolkit.studies.worlds import World
    from gcl_toolkit.views import figures
    from gcl_toolkit.views.report import write_report

    monkeypatch.setitem(METHODS, "pairwise", Pairwise())
    assert "pairwise" in laboratory()
    assert as_method("pairwise:margin=0.2") == Pairwise(0.2)
    assert meaning("pairwise") == Pairwise.about
    assert groups(["clip", "pairwise"])[-1] == ("Others", ["pairwise"])
    looks = figures.styles([*METHODS])
    assert list(looks.values()).count(looks["pairwise"]) == 1
    model = GCLModel("small", dimension=16, image_size=16, width=8)
    assert len(list(train(model, ranked(6, 12), Pairwise(), steps=2, batch=4))) == 2
    config = StudyConfig(methods=("clip", "pairwise", "graded"), train=_short())
    for _ in study([world()], config, tmp_path):
        pass
    results = summarise(read_study(tmp_path))
    assert "pairwise" in results.averages["NDCG@10"]
    assert results.gains_of("pairwise", "clip", "NDCG@10")
    assert isinstance(world(), World)
    assert "each pair above its neighbour" in write_report(tmp_path).read_text()


def _short():
    from gcl_toolkit import TrainConfig

    return TrainConfig(steps=1, batch=4)


def test_a_method_without_a_tiled_form_is_computed_densely_at_any_size(monkeypatch):
    monkeypatch.setattr(fast, "DENSE_CELLS", 0)
    left, right, _ = pair_batch()
    for name in RIVALS:
        batch = drawn(METHODS[name])[0]
        rows, columns = (np.arange(len(side)) % len(left) for side in (batch.queries, batch.products))
        assert METHODS[name].forms.tiled is None
        assert METHODS[name].loss(left[rows], right[columns], batch, logit_scale=5.0).isfinite()


def test_the_studied_methods_are_known():
    assert {*STUDIED} <= {*METHODS, *BASELINES}
    assert DEFAULT in STUDIED


@pytest.mark.parametrize(("grades", "recall"), [(True, 0.15), (False, 0.0)])
def test_recall_is_for_grades_unless_it_is_set(grades, recall):
    data = ranked(6, 12)
    if grades:
        qrels = data.qrels.set_column(2, "score", pa.array([float(1 + row % 3) for row in range(data.qrels.num_rows)]))
        data = replace(data, qrels=qrels)
    batch = Graded().sampler(data, 8, 0)(0)
    rng = torch.Generator().manual_seed(0)
    left, right = (normalize(torch.randn(len(rows), 5, generator=rng)) for rows in (batch.queries, batch.products))
    found, expected, other = (
        method.loss(left, right, batch, logit_scale=5.0).item()
        for method in (Graded(), Graded(recall=recall), Graded(recall=0.5))
    )
    assert batch.grades == grades
    assert found == expected != other
