"""The tiled loss on a GPU, bfloat16: against the bare matrix products and ClipLoss, up to 131,072 pairs of 512 numbers.

python benchmarks/gpu_loss.py [--small]    (torch with CUDA, Triton; open_clip's ClipLoss is written out below)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import torch
from interleaved import arguments, gpu_row
from torch.nn.functional import cross_entropy, normalize

from gcl_toolkit.losses import gcl_loss, graded_loss, same_id_cells
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss, tiled_graded_loss

DIMENSION, KNOWN = 512, 10
FLOOR = {32_768: 1.45, 65_536: 1.45, 131_072: 1.4}
"""N -> at most so many times the time of 8 N^2 D operations."""
PEER = 65_536, 768, 48.8
"""N, D, milliseconds that a public sigmoid loss in Triton states for a Hopper card."""


def batch(count: int, dtype: torch.dtype, dimension: int = DIMENSION) -> tuple[torch.Tensor, ...]:
    """Pairs with cosine .3, rounded to bfloat16, and the logit scale 100; seed 0."""
    generator = torch.Generator("cuda").manual_seed(0)
    left, noise = (normalize(torch.randn(count, dimension, device="cuda", generator=generator)) for _ in range(2))
    right = normalize(0.3 * left + (1 - 0.3**2) ** 0.5 * noise)
    scale = torch.tensor(100.0, device="cuda", dtype=torch.promote_types(dtype, torch.float32))
    return *(side.bfloat16().to(dtype).requires_grad_() for side in (left, right)), scale.requires_grad_()


def known_pairs(count: int) -> torch.Tensor:
    """Of `count` queries and documents, each query knows its own and KNOWN - 1 others, with weights 1/100 to 1; COO."""
    generator = torch.Generator("cuda").manual_seed(1)
    row = torch.arange(count, device="cuda").repeat_interleave(KNOWN)
    column = (row + torch.randint(0, count, row.shape, device="cuda", generator=generator)) % count
    column[::KNOWN] = row[::KNOWN]
    grades = torch.randint(1, 101, row.shape, device="cuda", generator=generator) / 100
    cells, which = torch.stack([row, column]).unique(dim=1, return_inverse=True)
    values = torch.zeros(cells.shape[1], device="cuda").scatter_(0, which, grades)
    return torch.sparse_coo_tensor(cells, values, (count, count), check_invariants=True).coalesce()


def clip_loss(left, right, scale):
    """What open_clip's ClipLoss does on one GPU under autocast: two products, two cross entropies."""
    labels = torch.arange(len(left), device=left.device)
    with torch.autocast("cuda", torch.bfloat16):
        logits = scale * left @ right.T, scale * right @ left.T
        return (cross_entropy(logits[0], labels) + cross_entropy(logits[1], labels)) / 2


def gradients(loss, given: tuple) -> list[torch.Tensor]:
    value = loss(*given)
    return [value.detach(), *torch.autograd.grad(value, given)]


def ours(count: int) -> dict[str, Callable]:
    """Name -> loss of (left, right, scale)."""
    weights = torch.rand(count, device="cuda")
    cells = same_id_cells(torch.arange(count, device="cuda") // 3)
    known = known_pairs(count)
    return {
        "gcl": lambda a, b, s: tiled_gcl_loss(a, b, weights, logit_scale=s),
        "gcl, cells excluded": lambda a, b, s: tiled_gcl_loss(a, b, weights, logit_scale=s, excluded=cells),
        "graded": lambda a, b, s: tiled_graded_loss(a, b, known, logit_scale=s),
    }


def check(count: int) -> None:
    """In bfloat16 (Triton) and in float32 (strips of plain torch) against the dense loss in float64."""
    weights = torch.rand(count, device="cuda")
    cells = same_id_cells(torch.arange(count, device="cuda") // 3)
    known = known_pairs(count)
    for name, dense, tiled, given, options in (
        ("gcl", gcl_loss, tiled_gcl_loss, weights, {}),
        ("gcl, cells excluded", gcl_loss, tiled_gcl_loss, weights, {"excluded": cells}),
        ("graded", graded_loss, tiled_graded_loss, known, {}),
    ):
        for dtype, tolerance in ((torch.bfloat16, 1e-2), (torch.float32, 1e-4)):
            exact = given.to_dense().double() if given.is_sparse else given
            expected, found = (
                gradients(lambda a, b, s, f=form, w=w: f(a, b, w, logit_scale=s, **options), batch(count, kind))  # noqa: B023
                for form, kind, w in ((dense, torch.float64, exact), (tiled, dtype, given))
            )
            off = [((x.double() - y).norm() / y.norm()).item() for x, y in zip(found, expected, strict=True)]
            print(f"N = {count:,}, {name}, {dtype}: off by", ", ".join(f"{x:.1e}" for x in off))
            assert max(off) <= tolerance, f"more than {tolerance}"


def best_seconds(run, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds + 1):  # one to warm up
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def peak_gb(run) -> float:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def measured_rate() -> float:
    """Operations a second of a bfloat16 product of random numbers, 8192 x 8192 x 8192."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / best_seconds(lambda: [torch.mm(a, b) for _ in range(10)], 3) * 10


def launches(run: Callable) -> tuple[int, int]:
    """(kernels, waits of the host for the GPU) of one call."""
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run()
    events = profiled.key_averages()
    kernels = sum(e.count for e in events if e.device_type == torch.autograd.DeviceType.CUDA)
    waits = sum(e.count for e in events if e.key in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::item"))
    return kernels, waits


def speed(count: int, rate: float, rounds: int, dimension: int = DIMENSION) -> None:
    given, size = batch(count, torch.bfloat16, dimension), f"N = {count:,}, D = {dimension}"
    floor = 8 * count**2 * dimension / rate
    try:
        theirs = best_seconds(lambda: gradients(clip_loss, given), rounds)
        gpu_row(f"ClipLoss, {size}", f"{theirs * 1000:.2f} ms, {peak_gb(lambda: gradients(clip_loss, given)):.1f} GB")
    except torch.cuda.OutOfMemoryError:
        theirs = float("inf")
        gpu_row(f"ClipLoss, {size}", "out of memory")
    for name, loss in ours(count).items():
        run = partial(gradients, loss, given)
        seconds, (kernels, waits) = best_seconds(run, rounds), launches(run)
        bars = {"ClipLoss": seconds <= theirs}
        if count in FLOOR and dimension == DIMENSION:
            bars[f"{FLOOR[count]}x the floor"] = seconds <= FLOOR[count] * floor
        if (count, dimension) == PEER[:2]:
            bars[f"{PEER[2]} ms"] = seconds * 1000 <= PEER[2]
        gpu_row(
            f"{name}, {size}",
            f"{seconds * 1000:.2f} ms, {theirs / seconds:.2f}x as fast as ClipLoss, {seconds / floor:.2f}x the floor "
            f"({floor * 1000:.2f} ms), {peak_gb(run):.1f} GB, {kernels} kernels, {waits} waits",
            f"<= {', '.join(bars)}",
            all(bars.values()),
        )


def main() -> None:
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured")
        return
    options = arguments(__doc__.splitlines()[0])
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; times below are wall time")
    check(1000 if options.small else 3000)
    rate = measured_rate()
    print(f"bfloat16 products: {rate / 1e12:.0f} TFLOP/s")
    for count in (4096,) if options.small else (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072):
        speed(count, rate, options.rounds)
    if not options.small:
        speed(PEER[0], rate, options.rounds, PEER[1])


if __name__ == "__main__":
    main()
