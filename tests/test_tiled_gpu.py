"""The Triton kernels of the tiled losses on a GPU, if one is there; without one: test_triton.py."""

import pytest
import torch
from test_tiled import unit
from torch.utils._python_dispatch import TorchDispatchMode

from gcl_toolkit.losses import gcl_loss, graded_loss, matrix_loss, same_id_cells
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss, tiled_graded_loss, tiled_matrix_loss


def half_precision_case(rows, columns, scale, device="cpu", dimension=72):
    """(by the kernels in bfloat16, dense in float64 on the same numbers): value and gradients of the losses."""
    left, right = (unit(count, seed, dimension, torch.bfloat16) for count, seed in ((rows, 0), (columns, 1)))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, rows // 3, (rows,), generator=generator)
    weights = torch.rand(rows, columns, generator=generator) * (torch.rand(rows, columns, generator=generator) < 0.5)
    weights = (weights * 4).ceil() / 4 * (torch.rand(rows, columns, generator=generator) < 0.1)
    weights[3], weights[:, 2] = 0, 0  # unknown to all
    weights[4] = 1  # known throughout: nothing is left of its row
    count = min(rows, columns)
    out = []
    for (pairs, *matrices), dtype in (
        ((tiled_gcl_loss, tiled_matrix_loss, tiled_graded_loss), torch.bfloat16),
        ((gcl_loss, matrix_loss, graded_loss), torch.double),
    ):
        a, b = (side.to(device, dtype).requires_grad_() for side in (left, right))
        s = torch.tensor(scale, dtype=torch.promote_types(dtype, torch.float32), device=device, requires_grad=True)
        own, cells = weights.diagonal()[:count].to(s) + 0.1, same_id_cells(ids[:count].to(device))
        values = [
            pairs(a[:count], b[:count], own, logit_scale=s),
            pairs(a[:count], b[:count], own, logit_scale=s, excluded=cells),
            pairs(a[:count], b[:count], logit_scale=s),
            pairs(a[:count], b[:count], own, logit_scale=s, normalise_weights=False),
            *(loss(a, b, weights.to(s), logit_scale=s) for loss in matrices),
            matrices[1](a, b, weights.to(s), logit_scale=s, recall=0.3, r=0.8),
        ]
        out.append([part.detach().double() for v in values for part in (v, *torch.autograd.grad(v, (a, b, s)))])
    return zip(*out, strict=True)


WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "index by mask"}
"""What makes the host wait for a GPU."""


NO_WORK = (
    "empty view transpose slice select split expand detach unsqueeze as_strided alias indices values is_coalesced t"
)


class Operations(TorchDispatchMode):
    """The operations of torch that aren't views, each a launch or more on a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        by_mask = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        if not {name, name.removeprefix("_").removeprefix("new_").split("_")[0]} & {*NO_WORK.split()}:
            self.found.append("index by mask" if by_mask else name)
        return function(*args, **(kwargs or {}))


def operations(known, count=40):
    """(those of both passes of the default loss with these weights, of `gcl_loss` with excluded cells)"""
    left, right = (unit(count, seed, 64, torch.bfloat16).requires_grad_() for seed in (0, 1))
    scale, cells = torch.tensor(100.0), same_id_cells(torch.arange(count) // 3)
    found = []
    for loss in (
        lambda: tiled_graded_loss(left, right, known, logit_scale=scale),
        lambda: tiled_gcl_loss(left, right, logit_scale=scale, excluded=cells),
    ):
        with Operations() as seen:
            torch.autograd.grad(loss(), (left, right))
        found.append(seen.found)
    return found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("rows", "columns", "scale"), [(1000, 700, 10.0), (700, 1000, 100.0), (3000, 3000, 100.0)])
def test_gpu_kernels(rows, columns, scale, monkeypatch):
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    for found, expected in half_precision_case(rows, columns, scale, "cuda", 512):
        assert (found - expected).norm() <= 1e-2 * expected.norm()
