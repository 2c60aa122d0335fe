"""The Triton kernels of the tiled losses: in its interpreter, compiled for Hopper, and on a GPU if one is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_tiled import unit

from gcl_toolkit.losses import gcl_loss, matrix_loss, same_id_cells
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss, tiled_matrix_loss


def half_precision_case(rows, columns, scale, device="cpu", dimension=72):
    """(tiled in bfloat16, dense in float64 on the same numbers): value and gradients of both losses."""
    left, right = (unit(count, seed, dimension, torch.bfloat16) for count, seed in ((rows, 0), (columns, 1)))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, rows // 3, (rows,), generator=generator)
    weights = torch.rand(rows, columns, generator=generator) * (torch.rand(rows, columns, generator=generator) < 0.05)
    out = []
    for forms, dtype in (
        ((tiled_gcl_loss, tiled_matrix_loss), torch.bfloat16),
        ((gcl_loss, matrix_loss), torch.double),
    ):
        a, b = (side.to(device, dtype).requires_grad_() for side in (left, right))
        s = torch.tensor(scale, dtype=torch.promote_types(dtype, torch.float32), device=device, requires_grad=True)
        own = weights.diagonal().to(s) + 0.1
        count = min(rows, columns)
        values = (
            forms[0](a[:count], b[:count], own[:count], logit_scale=s, excluded=same_id_cells(ids[:count].to(device))),
            forms[1](a, b, weights.to(s), logit_scale=s),
        )
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
from gcl_toolkit.losses.fast import kernels, log_sum_exps
from test_tiled_gpu import half_precision_case
kernels.BLOCK, kernels.STRIP_BYTES = (32, 32), 2 * 64 * 100
log_sum_exps.tiles_of = kernels.TritonTiles
for case in ((100, 70, 10.0), (70, 100, 100.0), (70, 70, 300.0)):
    for found, expected in half_precision_case(*case):
        assert (found - expected).norm() <= 1e-2 * expected.norm(), (case, found, expected)
"""
    run_alone(code, TRITON_INTERPRET="1")


def test_triton_kernels_compile_for_hopper(tmp_path):
    """Without a GPU: both use the matrix unit (wgmma), neither spills registers."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gcl_toolkit.losses.fast import kernels as gpu
for kernel in (gpu._sums_kernel, gpu._gradient_kernel):
    sizes = dict(zip(("BLOCK_R", "BLOCK_C", "BLOCK_D"), (*gpu.BLOCK, gpu.BLOCK_D), strict=True))
    kinds = {"left": "*bf16", "right": "*bf16", "gradient": "*bf16", "starts": "*i64", "cell_rows": "*i32",
             "cell_columns": "*i32", "rows": "i32", "columns": "i32", "width": "i32", "scale2": "fp32",
             "shift2": "fp32"}
    names = kernel.arg_names
    kinds = {name: "constexpr" if name in sizes else kinds.get(name, "*fp32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if "*" in kinds[name] or name == "width"}
    source = ASTSource(kernel, kinds, {(names.index(name),): size for name, size in sizes.items()}, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=gpu.LAUNCH)
    assert "wgmma" in made.asm["ptx"] and ".local" not in made.asm["ptx"], made.asm["ptx"]
"""
    run_alone(code, TRITON_CACHE_DIR=str(tmp_path), TRITON_DEFAULT_FP_FUSION="1", TRITON_INTERPRET="0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("rows", "columns", "scale"), [(1000, 700, 10.0), (700, 1000, 100.0), (3000, 3000, 100.0)])
def test_gpu_kernels(rows, columns, scale, monkeypatch):
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    for found, expected in half_precision_case(rows, columns, scale, "cuda", 512):
        assert (found - expected).norm() <= 1e-2 * expected.norm()
