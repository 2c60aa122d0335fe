"""The Triton kernels without a GPU: in Triton's interpreter, and compiled for Hopper."""

import pytest
from forks import WITH_TORCH, forks

pytest.importorskip("triton", reason="Triton comes with torch for CUDA on Linux")


def run_alone(code, **environment):
    """Python code in a process of its own; Triton reads its environment when it is imported."""
    before = f"import os, sys\nassert 'triton' not in sys.modules\nos.environ.update({environment})\n"
    forks(*WITH_TORCH).run(before + code)


def test_kernels_of_the_losses_in_the_interpreter():
    """With small blocks, two strips, more known cells in a row than a program takes at once; the last as on many
    ranks."""
    code = """
import torch
from gcl_toolkit.losses.fast import kernels, listed, log_sum_exps, loss_kernels, tiled
from gcl_toolkit.losses import gcl_loss, graded_loss
from test_tiled import unit
from test_tiled_gpu import half_precision_case
kernels.BLOCK = loss_kernels.BLOCK = 16, 16
kernels.STRIP_BYTES, listed.CHUNK, loss_kernels.CHUNK, loss_kernels.CELLS = 2 * 16 * 20, 16, 16, 8
log_sum_exps.has_kernels = tiled.has_kernels = lambda embeddings: embeddings.dtype == torch.bfloat16
whole = tiled.by_kernels
for *case, tma in ((20, 18, 10.0, True), (18, 20, 3000.0, False), (20, 18, 30.0, None)):
    kernels.has_tma = lambda _, tma=tma: tma
    tiled.by_kernels = whole if tma is not None else lambda *_: False  # as on many ranks: the log-sum-exps alone
    for found, expected in half_precision_case(*case):
        bar = 4e-3 if found.dim() else 1e-4  # gradients are rounded to bfloat16
        assert (found - expected).norm() <= bar * expected.norm(), (case, found, expected)
tiled.by_kernels, same = whole, unit(20, 0, 72, torch.bfloat16)
for scale in (8.0, 20.0):  # pairs far above their negatives
    for mine, dense, weights in (
        (tiled.tiled_gcl_loss, gcl_loss, torch.ones(20)), (tiled.tiled_graded_loss, graded_loss, torch.eye(20))
    ):
        expected = dense(same.double(), same.double(), weights, logit_scale=scale)
        found = mine(same, same, weights, logit_scale=scale)
        assert 0 < expected < 0.01 and abs(found / expected - 1) < 1e-4, (found, expected)
"""
    run_alone(code, TRITON_INTERPRET="1")


def test_the_host_never_waits_for_the_gpu_and_launches_little():
    """Counted on a CPU, 4 casts that a GPU doesn't need among them. The cells of dense weights have to be searched for,
    which a GPU is waited for."""
    code = """
import torch
from triton.runtime.interpreter import GridExecutor
from gcl_toolkit.losses.fast import log_sum_exps, tiled
from test_tiled_gpu import WAITS, operations
log_sum_exps.has_kernels = tiled.has_kernels = lambda embeddings: embeddings.dtype == torch.bfloat16
run, kernels = GridExecutor.__call__, []
def counted(self, *given, **options):
    kernels.append(self.fn.__name__)
    with torch.utils._python_dispatch._disable_current_modes():
        run(self, *given, **options)
GridExecutor.__call__ = counted
known = torch.eye(40) + torch.eye(40).roll(1, 0) / 2
found = operations(known.to_sparse())
assert not {*sum(found, [])} & WAITS, found
assert len(kernels) == 10 + 10, kernels
assert max(map(len, found)) + 10 - 4 <= 20, found
assert {*operations(known)[0]} & WAITS == {"nonzero"}
"""
    run_alone(code, TRITON_INTERPRET="1")


def test_kernels_of_search_in_the_interpreter():
    """Blocks that don't divide the sizes, several chunks, equal rows, scales beyond float16's range, no room."""
    code = """
import torch
from gcl_toolkit.measure import search_gpu as gpu
from test_search import vectors
from test_search_gpu import assert_proves_what_is_right
gpu.BLOCK, gpu.CHUNK, gpu.SAMPLE, gpu.GROUPS = (16, 64, 32), 512, 256, 64
for kind, query_scale, row_scale in ((torch.float16, 1e-12, 100), (torch.bfloat16, 1e9, 1e8)):
    queries = torch.from_numpy(vectors(0, 19, 72)) * query_scale
    corpus = (torch.from_numpy(vectors(1, 700, 72)) * row_scale).to(kind)
    corpus[650:] = corpus[:50]
    assert_proves_what_is_right(gpu.best_keys, queries, corpus, 3, 0.9)
near = torch.from_numpy(vectors(1, 300, 72, spread=1e-4))
assert_proves_what_is_right(gpu.best_keys, queries, near, 3, 0)  # float16 loses some of the best
near[77, 5] = torch.nan
assert gpu.best_keys(queries, near, 3)[1].isinf().all()
gpu._rank_and_room = lambda *_: (60, 64)  # too low a cut for this room
assert gpu.best_keys(queries, corpus[:300], 3)[1].isinf().all()
"""
    run_alone(code, TRITON_INTERPRET="1")


def test_kernels_of_the_losses_compile_for_hopper(tmp_path):
    """Without a GPU: with the matrix unit (wgmma), and with the copy engine where that is asked for. Without it, with
    fewer columns, which compile faster."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gcl_toolkit.losses.fast import kernels
from hopper import stack
cells = {"place": "*i32", "order": "*i64", "starts": "*i32"}
numbers = "in_rows in_columns rows columns first stride behind listed owned".split()
numbers = dict.fromkeys(numbers, "i32")
(R, C), D = kernels.BLOCK, kernels.BLOCK_D
sizes = {"left": (R, D), "right": (C, D), "gradient": (R, C)}
blocks = {name: f"tensordesc<bf16[{rows}, {columns}]>" for name, (rows, columns) in sizes.items()}
pointers = dict.fromkeys(blocks, "*bf16")
diagonal, some = {"DIAGONAL": True, **dict.fromkeys(cells)}, {"DIAGONAL": False}
for tma, special, halves, warps, C in ((True, some, blocks, 4, C), (False, diagonal, pointers, 8, C // 4)):
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
        assert stack(made) == 0 or kernel is kernels._gradient_kernel, stack(made)
"""
    run_alone(code, TRITON_CACHE_DIR=str(tmp_path), TRITON_DEFAULT_FP_FUSION="1", TRITON_INTERPRET="0")


def test_small_kernels_of_the_losses_compile_as_they_are_launched(tmp_path):
    """With one of everything, which Triton makes a constant, and with more; no kernel spills registers."""
    code = """
import torch
from hopper import only_compile, stack
from gcl_toolkit.losses.fast import kernels, log_sum_exps, tiled
from test_tiled import unit
class Skipped:
    def __getitem__(self, grid):
        return lambda *_, **__: None
made, kernels._sums_kernel, kernels._gradient_kernel = only_compile(), Skipped(), Skipped()
log_sum_exps.has_kernels = tiled.has_kernels = lambda embeddings: embeddings.dtype == torch.bfloat16
scale = torch.tensor(100.0)
for count, known in ((1, 1), (20, 1), (20, 20)):
    left, right = (unit(count, seed, 64, torch.bfloat16).requires_grad_() for seed in (0, 1))
    weights = torch.diag(torch.arange(count) < known).float().to_sparse()
    for loss in (
        tiled.tiled_gcl_loss(left, right, logit_scale=scale),
        tiled.tiled_gcl_loss(left, right, torch.ones(count), logit_scale=scale, excluded=weights.indices()),
        tiled.tiled_matrix_loss(left, right, weights, logit_scale=scale),
        tiled.tiled_graded_loss(left, right, weights, logit_scale=scale),
    ):
        loss += 1
        torch.autograd.grad(loss, (left, right))
assert len({name for _, name in made}) == 10, {name for _, name in made}
assert not [name for kernel, name in {id(kernel): (kernel, name) for kernel, name in made}.values() if stack(kernel)]
"""
    run_alone(code, TRITON_CACHE_DIR=str(tmp_path), TRITON_DEFAULT_FP_FUSION="1", TRITON_INTERPRET="0")


def test_kernels_of_search_compile_for_hopper(tmp_path):
    """Without a GPU: the product uses the matrix unit (wgmma) and loads of tiles, and no kernel spills registers."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gcl_toolkit.measure import search_gpu as gpu
from hopper import stack
def compiled(kernel, sizes, **options):
    kinds = {"queries": "*fp32", "corpus": "*fp16", "cut": "*fp32", "keys": "*i64"}
    kinds |= dict.fromkeys(("bits", "counts", "lists", "largest"), "*i32")
    if kernel is gpu._bits_kernel:
        block_q, block_c, block_d = gpu.BLOCK
        for name, block in (("queries", block_q), ("corpus", block_c)):
            kinds[name] = f"tensordesc<fp16[{block},{block_d}]>"
    elif kernel is gpu._lists_kernel:
        kinds["queries"] = "i32"
    names = kernel.arg_names
    kinds = {name: "constexpr" if name in sizes else kinds.get(name, "i32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if "*" in kinds[name]}
    source = ASTSource(kernel, kinds, {(names.index(name),): size for name, size in sizes.items()}, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
blocks = dict(zip(("BLOCK_Q", "BLOCK_C", "BLOCK_D"), gpu.BLOCK, strict=True))
made = compiled(gpu._bits_kernel, {"width": 512, **blocks}, **gpu.LAUNCH)
ptx = made.asm["ptx"]
assert "wgmma" in ptx and "cp.async.bulk.tensor" in ptx and stack(made) == 0, ptx
for kernel, sizes in (
    (gpu._lists_kernel, {"WORDS": 8, "BLOCK": 1024}),
    (gpu._keys_kernel, {"width": 512, "BLOCK_L": 32, "BLOCK_D": 128}),
    (gpu._norms_kernel, {"width": 512, "BLOCK_C": 16, "BLOCK_D": 512}),
):
    assert stack(compiled(kernel, sizes)) == 0
"""
    run_alone(code, TRITON_CACHE_DIR=str(tmp_path), TRITON_DEFAULT_FP_FUSION="1", TRITON_INTERPRET="0")
