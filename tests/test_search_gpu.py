"""The kernels of search on a GPU: in Triton's interpreter, compiled for Hopper, and on a GPU if one is there."""

import pytest
import torch
from test_search import vectors
from test_tiled_gpu import run_alone

from gcl_toolkit import DataError
from gcl_toolkit.measure.search import _unpacked, top_k


def expected(queries, corpus, k):
    """(float64's scores rounded to float32, rows), ties in row order."""
    best = []
    for part in queries.split(500):
        scores_BxN = (part.double() @ corpus.double().T).float()
        best.append([x[:, :k] for x in scores_BxN.sort(dim=1, descending=True, stable=True)])
    return [torch.cat(parts) for parts in zip(*best, strict=True)]


def assert_proves_what_is_right(best_keys, queries, corpus, k, at_least):
    """At least this share is called complete, and is; the bound holds for all rows that aren't listed."""
    keys, bound_Q = best_keys(queries, corpus, k)
    scores, rows = _unpacked(keys)
    is_sure_Q, (right_scores, right_rows) = scores[:, -1] > bound_Q, expected(queries, corpus, k)
    assert is_sure_Q.float().mean() >= at_least
    assert (scores == right_scores)[is_sure_Q].all()
    assert (rows == right_rows)[is_sure_Q].all()


def test_kernels_in_the_interpreter():
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


def test_kernels_compile_for_hopper(tmp_path):
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


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; benchmarks/gpu_search.py checks one")


def on_card(seed, rows, kind=torch.float16):
    return torch.from_numpy(vectors(seed, rows, 64)).to("cuda", kind)


def assert_right(queries, corpus, k):
    for found, right in zip(top_k(queries, corpus, k), expected(queries, corpus, k), strict=True):
        assert (torch.from_numpy(found) == right.cpu()).all()


@on_gpu
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("queries", "k"), [(1, 1), (300, 100), (4100, 10)])
def test_a_gpu_finds_the_right_rows_in_the_right_order(kind, queries, k):
    corpus = on_card(1, 300_001, kind)
    corpus[-5000:] = corpus[:5000]
    queries = on_card(0, queries, torch.float32)
    assert_right(queries, corpus, k)
    from gcl_toolkit.measure.search_gpu import best_keys, fits

    if fits(corpus, k):
        assert_proves_what_is_right(best_keys, queries, corpus, k, 0.99)


@on_gpu
def test_what_is_not_proved_is_searched_the_other_way():
    """A query of zeros, one whose rows are all alike, and a row that isn't finite."""
    queries, corpus = on_card(0, 40, torch.float32), on_card(1, 300_000)
    queries[3], queries[5], queries[5, 0], corpus[:, 0] = 0, 0, 1, 0.25
    assert_right(queries, corpus, 20)
    corpus[123_456, 7] = torch.nan
    with pytest.raises(DataError, match="corpus row 123456"):
        top_k(queries, corpus, 20)
