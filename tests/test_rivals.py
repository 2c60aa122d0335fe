"""The losses of the laboratory against loops, known special cases, and deliberate mistakes."""

import pytest
import references
import torch
from test_losses import numeric, pair_batch, value_and_gradients

from gcl_toolkit import losses
from gcl_toolkit.losses import graded_loss, kl_loss, matrix_loss, siglip_loss

SCALE = 3.0
GRADES = torch.tensor([
    [1.0, 0.3, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0], [0.1, 1.0, 0.0, 0.3], [0.0, 0.0, 0.3, 0.0], [1.0, 0.0, 1.0, 0.1],
    [0.0, 0.1, 0.0, 0.0], [0.3, 0.0, 0.0, 1.0],
], dtype=torch.float64)  # fmt: skip
LOSSES = {name: getattr(losses, f"{name}_loss") for name in ("graded", "kl", "rankclip", "siglip", "bixse", "cosent")}


def batch():
    return pair_batch()[0], pair_batch(1)[1][:4].detach().requires_grad_()


def found(loss, weights=GRADES, **options):
    return value_and_gradients(lambda q, d: loss(q, d, weights, **{"logit_scale": SCALE, **options}), *batch())


def twin(name, weights=GRADES):
    loop = getattr(references, f"{name}_loss")
    return numeric(lambda q, d: loop(q, d, weights.tolist(), SCALE), *batch())


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_equals_its_loop_in_value_and_gradients_on_both_sides(name):
    assert found(LOSSES[name]) == pytest.approx(twin(name), abs=1e-7)


@pytest.mark.parametrize("recall", [0.15, 1.0])
def test_graded_with_recall_equals_its_loop(recall):
    expected = numeric(lambda q, d: references.graded_loss(q, d, GRADES.tolist(), SCALE, recall), *batch())
    assert found(graded_loss, recall=recall) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_no_known_pair_no_infinity(name):
    assert found(LOSSES[name], torch.zeros(7, 4).double()).isfinite().all()


def test_on_the_diagonal_siglip_is_open_clips():
    from open_clip.loss import SigLipLoss

    left, right, _ = pair_batch()
    eye = torch.eye(len(left), dtype=torch.float64)
    theirs = value_and_gradients(lambda a, b: SigLipLoss()(a, b, SCALE, -2.0), left, right)
    ours = value_and_gradients(lambda a, b: siglip_loss(a, b, eye, logit_scale=SCALE, logit_bias=-2.0), left, right)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_with_one_grade_a_pair_graded_is_matrix_loss_and_several_equal_ones_do_not_compete():
    one = torch.eye(7, 4, dtype=torch.float64)
    assert found(graded_loss, one) == pytest.approx(found(matrix_loss, one), abs=1e-12)
    query, documents = torch.eye(2, dtype=torch.float64)[:1], torch.eye(2, dtype=torch.float64)
    equal = torch.ones(1, 2, dtype=torch.float64)
    assert graded_loss(query, documents, equal, logit_scale=SCALE).item() == 0
    assert matrix_loss(query, documents, equal, logit_scale=SCALE).item() > 0.5


def test_kl_is_zero_where_the_model_gives_the_targets():
    targets = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    same = torch.ones(2, 1, dtype=torch.float64)
    assert kl_loss(same, same, targets, logit_scale=SCALE).item() == pytest.approx(0, abs=1e-12)


def mistaken(name, weights, mistake):
    """The loss `name` with one deliberate mistake; None where it makes none of this loss."""
    loss, options = LOSSES[name], {}
    if mistake == "left detached":
        return found(lambda q, d, *a, **k: loss(q.detach() + 0 * q, d, *a, **k), weights)
    if mistake == "right detached":
        return found(lambda q, d, *a, **k: loss(q, d.detach() + 0 * d, *a, **k), weights)
    if mistake == "weights of another row":
        return found(lambda q, d, w, **k: loss(q, d, w.flip(0), **k), weights)
    if mistake == "scale forgotten":
        options = {"logit_scale": 1.0}
    if mistake == "scale squared":
        options = {"logit_scale": SCALE**2}
    if mistake == "order reversed":
        weights = torch.where(weights > 0, 1.3 - weights, 0)
    if mistake == "unknown pairs are the best":
        weights = 1 - weights
    if mistake == "grades ignored":
        weights = (weights > 0).double()
    if mistake == "best grade only":
        weights = (weights == 1).double()
    return found(loss, weights, **options)


MISTAKES = [
    "left detached", "right detached", "weights of another row", "scale forgotten", "scale squared", "order reversed",
    "unknown pairs are the best", "grades ignored", "best grade only",
]  # fmt: skip
BLIND = {("siglip", "order reversed"), ("siglip", "grades ignored")}


@pytest.mark.parametrize("mistake", [None, *MISTAKES])
@pytest.mark.parametrize("name", LOSSES)
def test_each_deliberate_mistake_differs_from_the_loop(name, mistake):
    same = torch.allclose(twin(name), mistaken(name, GRADES, mistake), rtol=0, atol=1e-4)
    assert same == (mistake is None or (name, mistake) in BLIND)
