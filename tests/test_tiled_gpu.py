"""The Triton kernels of the tiled losses: in its interpreter, compiled for Hopper, and on a GPU if one is there."""

import os
import subprocess
import sys
from pathlib import Path

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
            *(loss(a, b, weights.to(s), logit_scale=s) for loss in matrices),
        ]
        out.append([part.detach().double() for v in values for part in (v, *torch.autograd.grad(v, (a, b, s)))])
    return zip(*out, strict=True)


def run_alone(code, **environment):
    """Python code in a process of its own; Triton reads its environment when it is imported."""
    pytest.importorskip("triton", reason="Triton comes with torch for CUDA on Linux")
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here.parent}", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_triton_kernels_in_the_interpreter():
    """With small blocks, and strips of 64 rows."""
    code = """
import torch
from gcl_toolkit.losses.fast import kernels, log_sum_exps, rival_kernels, tiled
from test_tiled_gpu import half_precision_case
kernels.BLOCK, kernels.STRIP_BYTES, rival_kernels.CELLS = (32, 32), 2 * 32 * 40, 8
log_sum_exps.has_kernels = tiled.has_kernels = lambda embeddings: embeddings.dtype == torch.bfloat16
for *case, tma in ((50, 40, 10.0, True), (40, 50, 100.0, False), (40, 40, 3000.0, True)):
    kernels.has_tma = lambda _, tma=tma: tma
    for found, expected in half_precision_case(*case):
        assert (found - expected).norm() <= 1e-2 * expected.norm(), (case, found, expected)
"""
    run_alone(code, TRITON_INTERPRET="1")


WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2"}


class Waits(TorchDispatchMode):
    """What would make the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        by_mask = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        self.found += [name] if name in WAITS or by_mask else []
        return function(*args, **(kwargs or {}))


def waits(known):
    """What waits in both passes of the default loss with these weights, and of `gcl_loss` with excluded cells."""
    left, right = (unit(40, seed, 64, torch.bfloat16).requires_grad_() for seed in (0, 1))
    ids, scale = torch.arange(40) // 3, torch.tensor(100.0)
    cells = same_id_cells(ids)
    with Waits() as seen:
        loss = tiled_graded_loss(left, right, known, logit_scale=scale)
        (loss + tiled_gcl_loss(left, right, logit_scale=scale, excluded=cells)).backward()
    return seen.found


def test_the_host_never_waits_for_the_gpu():
    """Counted on a CPU. The cells of dense weights have to be searched for, which a GPU is waited for."""
    code = """
import torch
from gcl_toolkit.losses.fast import kernels, log_sum_exps, tiled
from test_tiled_gpu import waits
log_sum_exps.has_kernels = tiled.has_kernels = lambda embeddings: embeddings.dtype == torch.bfloat16
known = torch.eye(40) + torch.eye(40).roll(1, 0) / 2
assert waits(known.to_sparse().coalesce()) == []
assert waits(known) == ["nonzero"]
"""
    run_alone(code, TRITON_INTERPRET="1")


def test_triton_kernels_compile_for_hopper(tmp_path):
    """Without a GPU: with the matrix unit (wgmma), and with the copy engine where that is asked for."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gcl_toolkit.losses.fast import kernels, rival_kernels
cells = {"starts": "*i64", "cell_rows": "*i32", "cell_columns": "*i32"}
numbers = dict.fromkeys(("in_rows", "in_columns", "rows", "columns", "first", "stride"), "i32")
(R, C), D = kernels.BLOCK, kernels.BLOCK_D
sizes = {"left": (R, D), "right": (C, D), "gradient": (R, C)}
blocks = {name: f"tensordesc<bf16[{rows}, {columns}]>" for name, (rows, columns) in sizes.items()}
diagonal, listed = {"DIAGONAL": True, **dict.fromkeys(cells)}, {"DIAGONAL": False}
for tma, special, halves, warps in ((True, listed, blocks, 4), (False, diagonal, dict.fromkeys(blocks, "*bf16"), 8)):
    for kernel in (kernels._sums_kernel, kernels._gradient_kernel):
        names = kernel.arg_names
        constants = {"R": R, "C": C, "BLOCK_D": D, "WIDTH": 512, "TMA": tma, **special}
        kinds = {name: {**cells, **numbers, **halves}.get(name, "*fp32") for name in names}
        kinds |= {name: "constexpr" for name in names if name in constants}
        values = {(names.index(name),): value for name, value in constants.items() if name in names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if "*" in kinds[name]}
        source, options = ASTSource(kernel, kinds, values, aligned), {"num_warps": warps, "num_stages": 3}
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert "wgmma" in made.asm["ptx"], made.asm["ptx"]
        assert ("cp.async.bulk.tensor" in made.asm["ptx"]) == tma, made.asm["ptx"]
for kernel in (rival_kernels._rivals_kernel, rival_kernels._rivals_gradient_kernel):
    for graded in (False, True):
        names, constants = kernel.arg_names, {"GRADED": graded, "SIZE": rival_kernels.CELLS}
        constants |= {} if graded else {"grades": None}
        kinds = {name: "*i64" if name in ("order", "starts") else "*fp32" for name in names}
        kinds |= {name: "constexpr" for name in constants}
        source = ASTSource(kernel, kinds, {(names.index(name),): value for name, value in constants.items()})
        triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
"""
    run_alone(code, TRITON_CACHE_DIR=str(tmp_path), TRITON_DEFAULT_FP_FUSION="1", TRITON_INTERPRET="0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("rows", "columns", "scale"), [(1000, 700, 10.0), (700, 1000, 100.0), (3000, 3000, 100.0)])
def test_gpu_kernels(rows, columns, scale, monkeypatch):
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    for found, expected in half_precision_case(rows, columns, scale, "cuda", 512):
        assert (found - expected).norm() <= 1e-2 * expected.norm()
