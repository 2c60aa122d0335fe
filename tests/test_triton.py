"""The Triton kernels without a GPU: in Triton's interpreter, and compiled for Hopper."""

import pytest
from forks import WITH_TORCH, forks

pytest.importorskip("triton", reason="Triton comes with torch for CUDA on Linux")


def run_alone(code, **environment):
    """Python code in a process of its own; Triton reads its environment when it is imported."""
    before = f"import os, sys\nassert 'triton' not in sys.modules\nos.environ.update({environment})\n"
    forks(*WITH_TORCH).run(before + code)


def test_kernels_of_the_losses_in_the_interpreter():
    """With small blocks, two strips, and more known cells in a row than a program takes at once."""
    code = """
import torch
from gcl_toolkit.losses.fast import kernels, log_sum_exps, rival_kernels, tiled
from test_tiled_gpu import half_precision_case
kernels.BLOCK, kernels.STRIP_BYTES, rival_kernels.CELLS = (16, 16), 2 * 16 * 20, 8
log_sum_exps.has_kernels = tiled.has_kernels = lambda embeddings: embeddings.dtype == torch.bfloat16
for *case, tma in ((20, 18, 10.0, True), (18, 20, 3000.0, False)):
    kernels.has_tma = lambda _, tma=tma: tma
    for found, expected in half_precision_case(*case):
        assert (found - expected).norm() <= 1e-2 * expected.norm(), (case, found, expected)
"""
    run_alone(code, TRITON_INTERPRET="1")


def test_the_host_never_waits_for_the_gpu():
    """Counted on a CPU. The cells of dense weights have to be searched for, which a GPU is waited for."""
    code = """
import torch
from gcl_toolkit.losses.fast import kernels, log_sum_exps, tiled
from test_tiled_gpu import waits
log_sum_exps.has_kernels = tiled.has_kernels = lambda embeddings: embeddings.dtype == torch.bfloat16
known = torch.eye(12) + torch.eye(12).roll(1, 0) / 2
assert waits(known.to_sparse().coalesce()) == []
assert waits(known) == ["nonzero"]
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
from gcl_toolkit.losses.fast import kernels, rival_kernels
cells = {"starts": "*i64", "cell_rows": "*i32", "cell_columns": "*i32"}
numbers = dict.fromkeys(("in_rows", "in_columns", "rows", "columns", "first", "stride"), "i32")
(R, C), D = kernels.BLOCK, kernels.BLOCK_D
sizes = {"left": (R, D), "right": (C, D), "gradient": (R, C)}
blocks = {name: f"tensordesc<bf16[{rows}, {columns}]>" for name, (rows, columns) in sizes.items()}
pointers = dict.fromkeys(blocks, "*bf16")
diagonal, listed = {"DIAGONAL": True, **dict.fromkeys(cells)}, {"DIAGONAL": False}
for tma, special, halves, warps, C in ((True, listed, blocks, 4, C), (False, diagonal, pointers, 8, C // 4)):
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


def test_kernels_of_search_compile_for_hopper(tmp_path):
    """Without a GPU: the product uses the matrix unit (wgmma) and loads of tiles, and no kernel spills registers."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gcl_toolkit.measure import search_gpu as gpu
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
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
blocks = dict(zip(("BLOCK_Q", "BLOCK_C", "BLOCK_D"), gpu.BLOCK, strict=True))
ptx = compiled(gpu._bits_kernel, {"width": 512, **blocks}, **gpu.LAUNCH)
assert "wgmma" in ptx and "cp.async.bulk.tensor" in ptx and ".local" not in ptx, ptx
for kernel, sizes in (
    (gpu._lists_kernel, {"WORDS": 8, "BLOCK": 1024}),
    (gpu._keys_kernel, {"width": 512, "BLOCK_L": 32, "BLOCK_D": 128}),
    (gpu._norms_kernel, {"width": 512, "BLOCK_C": 16, "BLOCK_D": 512}),
):
    assert ".local" not in compiled(kernel, sizes)
"""
    run_alone(code, TRITON_CACHE_DIR=str(tmp_path), TRITON_DEFAULT_FP_FUSION="1", TRITON_INTERPRET="0")
