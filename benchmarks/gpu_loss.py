"""The tiled loss on a GPU, bfloat16: against the bare matrix products and ClipLoss, up to 131,072 pairs of 512 numbers.

python benchmarks/gpu_loss.py [--small]    (torch with CUDA, Triton; open_clip's ClipLoss is written out below)
"""

from __future__ import annotations

import os
import time

import torch
from interleaved import arguments
from torch.nn.functional import cross_entropy, normalize

from gcl_toolkit.losses import gcl_loss, same_id_cells
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss

DIMENSION, FLOOR, FASTER = 512, 1.6, 2.0


def batch(count: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Pairs with cosine .3, rounded to bfloat16, and the logit scale 100; seed 0."""
    generator = torch.Generator("cuda").manual_seed(0)
    left, noise = (normalize(torch.randn(count, DIMENSION, device="cuda", generator=generator)) for _ in range(2))
    right = normalize(0.3 * left + (1 - 0.3**2) ** 0.5 * noise)
    scale = torch.tensor(100.0, device="cuda", dtype=torch.promote_types(dtype, torch.float32))
    return *(side.bfloat16().to(dtype).requires_grad_() for side in (left, right)), scale.requires_grad_()


def clip_loss(left, right, scale):
    """What open_clip's ClipLoss does on one GPU under autocast: two products, two cross entropies."""
    labels = torch.arange(len(left), device=left.device)
    with torch.autocast("cuda", torch.bfloat16):
        logits = scale * left @ right.T, scale * right @ left.T
        return (cross_entropy(logits[0], labels) + cross_entropy(logits[1], labels)) / 2


def gradients(loss, given: tuple) -> list[torch.Tensor]:
    value = loss(*given)
    return [value.detach(), *torch.autograd.grad(value, given)]


def tiled(*given):
    return tiled_gcl_loss(*given[:2], logit_scale=given[2])


def check(count: int) -> None:
    """In bfloat16 (Triton) and in float32 (strips of plain torch) against the dense loss in float64."""
    ids = torch.arange(count, device="cuda") // 3
    for options in ({}, {"weights": torch.rand(count, device="cuda"), "excluded": same_id_cells(ids)}):
        for dtype, tolerance in ((torch.bfloat16, 1e-2), (torch.float32, 1e-4)):
            forms = (gcl_loss, torch.float64), (tiled_gcl_loss, dtype)
            expected, found = (
                gradients(lambda a, b, s, form=form: form(a, b, logit_scale=s, **options), batch(count, kind))  # noqa: B023
                for form, kind in forms
            )
            off = [((x.double() - y).norm() / y.norm()).item() for x, y in zip(found, expected, strict=True)]
            print(f"N = {count:,}, {dtype}, {list(options)}: off by", ", ".join(f"{x:.1e}" for x in off))
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


def speed(count: int, rate: float, rounds: int) -> None:
    given = batch(count, torch.bfloat16)
    floor = 8 * count**2 * DIMENSION / rate
    forward = best_seconds(lambda: tiled(*(x.detach() for x in given)), rounds)
    ours = best_seconds(lambda: gradients(tiled, given), rounds)
    met = "met" if ours <= FLOOR * floor else "not met"
    print(
        f"\nN = {count:,}: {ours * 1000:.1f} ms (forward alone {forward * 1000:.1f}); floor {floor * 1000:.1f} ms",
        end="",
    )
    print(f", {ours / floor:.2f}x (<= {FLOOR}x: {met}); {peak_gb(lambda: gradients(tiled, given)):.1f} GB")
    try:
        theirs = best_seconds(lambda: gradients(clip_loss, given), rounds)
        met = "met" if theirs >= FASTER * ours else "not met"
        print(f"  ClipLoss, eager: {theirs * 1000:.1f} ms, {theirs / ours:.2f}x (>= {FASTER}x: {met})", end="")
        print(f"; {peak_gb(lambda: gradients(clip_loss, given)):.1f} GB")
    except torch.cuda.OutOfMemoryError:
        print("  ClipLoss, eager: out of memory")


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
    for count in (4096,) if options.small else (8192, 16384, 32768, 65536, 131072):
        speed(count, rate, options.rounds)


if __name__ == "__main__":
    main()
