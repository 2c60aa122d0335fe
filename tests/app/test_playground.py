"""The playground's numpy against torch's own gradient of the paper's loss; the training tab against the bundle."""

import json
import re
from html import unescape

import numpy as np
import pytest
import torch

from gcl_toolkit.app import playground
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.tabs import playground as playground_tab
from gcl_toolkit.app.tabs import training
from gcl_toolkit.data.weighting import WEIGHTINGS, to_weights
from gcl_toolkit.losses.gcl import gcl_loss
from gcl_toolkit.views.bundle import read_bundle


@pytest.fixture(scope="module")
def service(small_study):
    return Service(read_bundle(small_study / "bundle"))


@pytest.mark.parametrize(("weighting", "temperature"), [("linear", 0.07), ("reciprocal", 0.02), ("grades", 0.4)])
def test_losses_and_gradients_are_torchs(service, weighting, temperature):
    state = service.state({"weighting": weighting, "temperature": temperature, "score": 90})
    made = playground.batch(service, state)
    eye = torch.eye(len(made.items), dtype=torch.float64)
    for weights, gradient, losses in (
        (None, made.clip, made.clip_losses),
        (torch.tensor(made.weights), made.gcl, made.gcl_losses),
    ):
        logits = torch.tensor(made.cosines / temperature, dtype=torch.float64, requires_grad=True)
        loss = gcl_loss(logits, eye, weights, logit_scale=1.0)
        loss.backward()
        assert losses.sum() == pytest.approx(loss.item(), abs=1e-9)
        np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=1e-9)


def test_the_batch_holds_real_pairs_and_the_sliders_score(service):
    state = service.state({"score": 42, "split": "in_domain"})
    made = playground.batch(service, state)
    assert made.queries[0] == state.query
    assert made.scores[0] == 42
    for query, item, score in list(zip(made.queries, made.items, made.scores, strict=True))[1:]:
        items, scores = service.bundle.judged(service.labels["in_domain"][query])
        assert dict(zip(items.tolist(), scores.tolist(), strict=True))[item] == score
    weights = to_weights(made.scores, state.weighting)
    np.testing.assert_allclose(made.weights, weights / weights.mean())
    for row, (query, item) in enumerate(zip(made.queries, made.items, strict=True)):
        ranks = service.search("in_domain", query, state.a, k=12).products
        cosine = next(product.cosine for product in ranks if product.item == item)
        assert made.cosines[row, row] == pytest.approx(cosine, abs=1e-3)
    assert set(service.vectors(state.a).fields) == {"image", "title"}
    assert made.model == state.a


def test_a_system_without_vectors_is_replaced_and_named(service):
    made = playground.batch(service, service.state({"a": "bm25", "b": "clip"}))
    assert made.model == service.searchable[0]
    assert f"bm25 has no vectors; these are the cosines of {made.model}." in unescape(
        playground_tab.draw(service, service.state({"a": "bm25", "b": "clip"}))
    )


def test_the_gap_is_tau_log_of_the_weights_ratio(service):
    assert playground.gap(1, 0.1, 0.01) == pytest.approx(0.02303, abs=1e-5)
    state = service.state({"score": 100, "temperature": 0.1, "weighting": "linear"})
    made = playground.batch(service, state)
    html = playground_tab.draw(service, state)
    gap = 0.1 * np.log(made.weights[0] / made.weights[1])
    assert f"<b>{gap:.4f}</b>".replace("-", "−") in html


def test_the_curves_are_the_functions_own(service):
    figure = json.loads(unescape(re.search(r'data-figure="([^"]*)"', playground_tab.draw(service, service.state()))[1]))
    drawn = {trace["name"]: trace["y"] for trace in figure["data"] if trace.get("showlegend")}
    assert set(drawn) == set(WEIGHTINGS) - set(playground.BY_GRADES)
    for name, values in drawn.items():
        np.testing.assert_allclose(values, to_weights(101.0 - np.array(playground.POSITIONS), name))


def test_training_shows_means_of_the_test_queries_and_the_settings_that_differ(service):
    html = training.draw(service, service.state())
    for split in service.bundle.splits:
        rows = service.bundle.queries_of(split)
        kept = service.bundle.queries["division"].to_numpy()[rows] == "test"
        for name in service.searchable:
            line = re.search(rf"<th scope=\"row\">{split}</th><td>{name}</td>(.*?)</tr>", html)[1]
            shown = re.findall(r">(?:<b>)?([0-9.–]+)<", line)
            means = [service.metrics(name)[str(metric)][rows][kept].mean() for metric in service.bundle.metrics]
            assert shown == ["–" if np.isnan(mean) else f"{mean:.3f}" for mean in means]
    assert '<th scope="row">method</th><td>clip</td><td>graded</td>' in html
    assert "train.steps</th>" not in html
    assert "bm25" not in html
    assert "train.steps 3" in html
