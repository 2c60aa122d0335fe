"""On 2 and 4 ranks: the ranks' losses and gradients sum to those of one process on the whole batch."""

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import nn
from torch.nn.functional import normalize

from gcl_toolkit.losses import gcl_loss, graded_loss, matrix_loss, same_id_cells
from gcl_toolkit.losses.fast.ranks import cached_backward, gather, own_share, sum_gradients, whole_batch
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss, tiled_graded_loss, tiled_matrix_loss

N, M, D = 11, 9, 5


class Towers(nn.Module):
    """Two linear towers with dropout and a logit scale, in float64."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(1)
        self.left, self.right = (nn.Linear(6, D, dtype=torch.float64) for _ in range(2))
        self.dropout, self.scale = nn.Dropout(dropout), nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def embed(self, side, rows):
        return normalize(self.dropout(getattr(self, side)(rows)), dim=-1)


def batch(right_rows=N):
    torch.manual_seed(0)
    left, right = torch.randn(N, 6, dtype=torch.float64), torch.randn(right_rows, 6, dtype=torch.float64)
    ids = torch.randint(0, 6, (2, N))
    weights = torch.rand(N, dtype=torch.float64) ** 2 * (torch.arange(N) != 3)
    known = (torch.rand(N, N) < 0.2).nonzero().T
    return left, right, weights, torch.cat([*map(same_id_cells, ids), known], 1)


def gcl(loss, masked):
    left, right, weights, cells = batch()
    excluded = cells if masked else None
    return left, right, lambda a, b, scale: loss(a, b, weights, logit_scale=scale, excluded=excluded)


def matrix(loss, _):
    left, right, _, _ = batch(M)
    torch.manual_seed(2)
    weights = torch.rand(N, M, dtype=torch.float64) * (torch.rand(N, M) < 0.4)
    return left, right, lambda a, b, scale: loss(a, b, weights, logit_scale=scale)


CASES = {
    "gcl": (gcl, gcl_loss, tiled_gcl_loss, False),
    "gcl masked": (gcl, gcl_loss, tiled_gcl_loss, True),
    "matrix": (matrix, matrix_loss, tiled_matrix_loss, False),
    "graded": (matrix, graded_loss, tiled_graded_loss, False),
    "the whole batch on each rank, gcl masked": (gcl, gcl_loss, whole_batch(gcl_loss), True),
    "the whole batch on each rank, matrix": (matrix, matrix_loss, whole_batch(matrix_loss), False),
}


def value_and_gradients(model, value):
    return [value.detach(), *(p.grad for p in model.parameters())]


def in_chunks(model, left, right, size):
    return [
        [lambda part=part, side=side: model.embed(side, part) for part in rows.split(size)]
        for side, rows in (("left", left), ("right", right))
    ]


def same(ours, expected, what=""):
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0, msg=lambda message: f"{what}: {message}")


def in_one_process(case):
    make, reference, _, masked = CASES[case]
    model = Towers()
    left, right, loss = make(reference, masked)
    value = loss(model.embed("left", left), model.embed("right", right), model.scale)
    value.backward()
    return value_and_gradients(model, value)


def here(case, cached):
    """The same from this rank's share; the values and gradients are summed over the ranks."""
    make, _, share, masked = CASES[case]
    model = Towers()
    left, right, loss = make(share, masked)
    left, right = left[own_share(len(left))], right[own_share(len(right))]
    if cached:
        value = cached_backward(lambda a, b: loss(a, b, model.scale), *in_chunks(model, left, right, 2))
    else:
        value = loss(model.embed("left", left), model.embed("right", right), model.scale)
        value.backward()
    sum_gradients(model.parameters())
    value = value.detach()
    if dist.is_initialized():
        dist.all_reduce(value)
    return value_and_gradients(model, value)


def all_cases():
    found = {(case, cached): [t.tolist() for t in here(case, cached)] for case in CASES for cached in (False, True)}
    gathered = gather(torch.arange(10)[own_share(10)])
    return found, gathered.tolist()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_ranks_together_are_one_process_on_the_whole_batch(count):
    results = on_ranks(count, all_cases) if count > 1 else [all_cases()]
    for found, gathered in results:
        assert gathered == list(range(10))
        for (case, cached), value in found.items():
            for ours, expected in zip(value, in_one_process(case), strict=True):
                same(torch.tensor(ours, dtype=torch.float64), expected, (case, cached))


def test_gradient_caching_repeats_the_dropout_of_the_first_pass():
    left, right, loss = gcl(gcl_loss, True)
    one, other = Towers(dropout=0.4), Towers(dropout=0.4)
    torch.manual_seed(7)
    cached = cached_backward(lambda a, b: loss(a, b, one.scale), *in_chunks(one, left, right, 3))
    torch.manual_seed(7)
    sides = [torch.cat([chunk() for chunk in side]) for side in in_chunks(other, left, right, 3)]
    plain = loss(*sides, other.scale)
    plain.backward()
    for ours, expected in zip(value_and_gradients(one, cached), value_and_gradients(other, plain), strict=True):
        same(ours, expected)


def test_gradient_caching_goes_without_a_locked_side():
    left, right, loss = gcl(gcl_loss, False)
    model = Towers()
    model.right.requires_grad_(False)
    cached_backward(
        lambda a, b: loss(a, b, model.scale),
        [lambda: model.embed("left", left)],
        [lambda: model.embed("right", right)],
    )
    assert model.left.weight.grad.abs().sum() > 0
    assert model.right.weight.grad is None


def too_few_rows():
    left, right, weights, _ = batch()
    with pytest.raises(ValueError, match=r"rank \d has 8 of 11 rows; those of own_share are expected"):
        tiled_gcl_loss(left[:8], right[:8], weights, logit_scale=1.0)


def test_rows_that_are_not_the_ranks_own_are_an_error():
    on_ranks(2, too_few_rows)
