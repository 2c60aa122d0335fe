"""The losses against loops, against open_clip, and against fourteen deliberate mistakes."""

import numpy as np
import pytest
import references
import torch
from torch.nn.functional import normalize

from gcl_toolkit.losses import gcl_loss, matrix_loss, same_id_cells
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss

N, D, SCALE = 7, 5, 3.0


def pair_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    left, right = (normalize(torch.randn(N, D, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2))
    weights = torch.rand(N, generator=generator, dtype=torch.float64) ** 2 + 0.01
    return left.requires_grad_(), right.requires_grad_(), weights


QUERY_IDS, PRODUCT_IDS = torch.tensor([0, 1, 0, 2, 3, 3, 3]), torch.tensor([0, 1, 2, 3, 1, 4, 5])
SAME_IDS = torch.cat([same_id_cells(QUERY_IDS), same_id_cells(PRODUCT_IDS)], 1)


def negative(i, j):
    return QUERY_IDS[i] != QUERY_IDS[j] and PRODUCT_IDS[i] != PRODUCT_IDS[j]


def value_and_gradients(loss, *inputs):
    value = loss(*inputs)
    return torch.cat([x.detach().reshape(-1) for x in (value, *torch.autograd.grad(value, inputs))])


def numeric(loss, *inputs, step=1e-6):
    """Value and central differences of a loop reference."""
    lists = [x.detach().tolist() for x in inputs]
    out = [loss(*lists)]
    for at, x in enumerate(inputs):
        for index in np.ndindex(*x.shape):
            sides = []
            for sign in (1, -1):
                moved = [y.detach().clone() for y in inputs]
                moved[at][index] += sign * step
                sides.append(loss(*(y.tolist() for y in moved)))
            out.append((sides[0] - sides[1]) / (2 * step))
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("masked", [False, True])
def test_gcl_loss_equals_its_loop_in_value_and_gradients_on_both_sides(masked):
    left, right, weights = pair_batch()
    excluded = SAME_IDS if masked else None
    loss = value_and_gradients(lambda a, b: gcl_loss(a, b, weights, logit_scale=SCALE, excluded=excluded), left, right)
    expected = numeric(
        lambda a, b: references.gcl_loss(a, b, weights.tolist(), SCALE, negative if masked else None), left, right
    )
    assert loss == pytest.approx(expected, abs=1e-8)
    assert loss[0].item() == pytest.approx(expected[0].item(), abs=1e-12)


def test_excluded_cells_leave_the_denominators_and_the_diagonal_stays():
    left, right, weights = pair_batch()
    assert {(i, j) for i, j in SAME_IDS.T.tolist()} == {
        (i, j) for i in range(N) for j in range(N) if i != j and not negative(i, j)
    }
    with_diagonal = torch.cat([SAME_IDS, torch.arange(N).expand(2, -1)], 1)
    values = [gcl_loss(left, right, weights, logit_scale=SCALE, excluded=x).item() for x in (SAME_IDS, with_diagonal)]
    assert values[0] == values[1] < gcl_loss(left, right, weights, logit_scale=SCALE).item()


def test_with_equal_weights_it_is_the_loss_of_open_clip():
    from open_clip.loss import ClipLoss

    left, right, _ = pair_batch()
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    ours = value_and_gradients(lambda a, b, s: gcl_loss(a, b, logit_scale=s), left, right, scale)
    theirs = value_and_gradients(lambda a, b, s: ClipLoss()(a, b, s), left, right, scale)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_gradient_in_the_similarities_is_the_one_of_the_design():
    left, right, weights = pair_batch()
    weights = weights / weights.mean()
    eye = torch.eye(N, dtype=torch.float64, requires_grad=True)
    logits = (SCALE * left @ right.T).detach().requires_grad_()
    gcl_loss(logits, eye.detach(), weights, logit_scale=1.0).backward()
    residual = logits.softmax(1) - eye, logits.softmax(0) - eye
    expected = (weights[:, None] * residual[0] + weights[None, :] * residual[1]) / (2 * N)
    assert logits.grad == pytest.approx(expected.detach(), abs=1e-12)


def test_all_zero_weights_give_zero_loss_and_zero_gradient():
    left, right, _ = pair_batch()
    found = value_and_gradients(lambda a, b: gcl_loss(a, b, torch.zeros(N), logit_scale=SCALE), left, right)
    assert found == pytest.approx(torch.zeros(1 + 2 * N * D), abs=0)


def test_matrix_loss_equals_its_loop_in_value_and_gradients_on_both_sides():
    queries, documents, weights = pair_batch()[0], pair_batch(1)[1][:4].detach().requires_grad_(), torch.rand(N, 4)
    weights = (weights * (torch.rand(N, 4) < 0.5)).double()
    weights[2] = 0
    found = value_and_gradients(lambda a, b: matrix_loss(a, b, weights, logit_scale=SCALE), queries, documents)
    expected = numeric(lambda a, b: references.matrix_loss(a, b, weights.tolist(), SCALE), queries, documents)
    assert found == pytest.approx(expected, abs=1e-8)


def test_a_diagonal_score_matrix_is_clip_since_one_pair_is_all_of_its_row_whatever_its_weight():
    left, right, weights = pair_batch()
    pair = value_and_gradients(lambda a, b: gcl_loss(a, b, torch.ones(N), logit_scale=SCALE), left, right)
    matrix = value_and_gradients(lambda a, b: matrix_loss(a, b, weights.diag(), logit_scale=SCALE, r=0.5), left, right)
    assert pair == pytest.approx(matrix, abs=1e-12)


def mistaken(left, right, weights, mistake):
    """gcl_loss with one deliberate mistake."""
    ids = [QUERY_IDS, PRODUCT_IDS]
    if mistake == "left detached":
        left = left.detach() + 0 * left
    if mistake == "right detached":
        right = right.detach() + 0 * right
    logits = SCALE * left @ right.T
    if mistake == "scale forgotten":
        logits = left @ right.T
    if mistake == "scale squared":
        logits = SCALE * logits
    for which, mask in enumerate(ids):
        off = ~torch.eye(N, dtype=torch.bool)
        if mistake == "mask takes the diagonal" and which == 0:
            logits = logits.masked_fill((mask[:, None] == mask), -1e4)
        elif mistake != f"mask {which} ignored":
            logits = logits.masked_fill((mask[:, None] == mask) & off, -torch.inf)
    row, column = logits.logsumexp(1) - logits.diagonal(), logits.logsumexp(0) - logits.diagonal()
    w = weights / weights.mean()
    if mistake == "unweighted":
        w = torch.ones(N)
    if mistake == "not normalised":
        w = weights
    if mistake == "weights normalised to sum":
        w = weights / weights.sum()
    if mistake == "weights of another row":
        w = w.roll(1)
    if mistake == "rows only":
        return (w * row).mean() / 2
    if mistake == "columns only":
        return (w * column).mean() / 2
    if mistake == "columns unweighted":
        return (w * row + column).mean() / 2
    if mistake == "half forgotten":
        return (w * (row + column)).mean()
    return (w * (row + column)).mean() / 2


MISTAKES = [
    "unweighted", "not normalised", "weights normalised to sum", "weights of another row", "rows only", "columns only",
    "columns unweighted", "half forgotten", "left detached", "right detached", "scale forgotten", "scale squared",
    "mask 0 ignored", "mask 1 ignored", "mask takes the diagonal",
]  # fmt: skip


@pytest.mark.parametrize("loss", [gcl_loss, tiled_gcl_loss])
@pytest.mark.parametrize("mistake", [None, *MISTAKES])
def test_each_deliberate_mistake_differs_from_the_loss(mistake, loss):
    left, right, weights = pair_batch()
    right_way = value_and_gradients(lambda a, b: loss(a, b, weights, logit_scale=SCALE, excluded=SAME_IDS), left, right)
    wrong_way = value_and_gradients(lambda a, b: mistaken(a, b, weights, mistake), left, right)
    assert torch.allclose(right_way, wrong_way, rtol=0, atol=1e-4) == (mistake is None)
