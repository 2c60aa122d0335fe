"""The tiled loss against open_clip's ClipLoss and the bare matrix products: time, memory, error; d = 512, float32.

OMP_NUM_THREADS=1 python benchmarks/loss.py [--small]
"""

from __future__ import annotations

import subprocess
import sys
import time

import torch
from interleaved import arguments, cpu_seconds, faster, header, slower
from memory import Watch, resident
from open_clip.loss import ClipLoss
from torch.nn.functional import normalize

from gcl_toolkit.losses import gcl_loss, same_id_cells
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss

DIMENSION = 512
LOSSES = {"ours": lambda a, b, s: tiled_gcl_loss(a, b, logit_scale=s), "ClipLoss": ClipLoss()}


def batch(count: int, cosine: float = 0.35, dtype=torch.float32) -> tuple:
    """Pairs with that cosine and the logit scale 100, as at the end of a training; seed 0."""
    generator = torch.Generator().manual_seed(0)
    left, noise = (normalize(torch.randn(count, DIMENSION, generator=generator)) for _ in range(2))
    right = normalize(cosine * left + (1 - cosine**2) ** 0.5 * noise)
    return *(side.to(dtype).requires_grad_() for side in (left, right)), torch.tensor(
        100.0, dtype=dtype
    ).requires_grad_()


def gradients(loss, given: tuple) -> list[torch.Tensor]:
    value = loss(*given)
    return [value.detach(), *torch.autograd.grad(value, given)]


def error(found: list, expected: list) -> float:
    """Of the gradients of both sides: the norm of the difference over the norm."""
    return max(((x.double() - y).norm() / y.norm()).item() for x, y in zip(found[1:3], expected[1:3], strict=True))


def check(count: int) -> None:
    """Equal to the dense loss in float64, with uneven weights and masks; float32 where the softmax is saturated."""
    given, weights, ids = batch(count, dtype=torch.float64), torch.rand(count), torch.randint(0, count // 3, (count,))

    def close(**options) -> bool:
        dense = gradients(lambda a, b, s: gcl_loss(a, b, logit_scale=s, **options), given)
        tiled = [
            gradients(lambda a, b, s, keep=keep: tiled_gcl_loss(a, b, logit_scale=s, keep_bytes=keep, **options), given)
            for keep in (0, 1 << 30)
        ]
        return all((x - y).abs().max() <= 1e-10 for found in tiled for x, y in zip(found, dense, strict=True))

    assert close()
    assert close(weights=weights, excluded=torch.cat([same_id_cells(ids), same_id_cells(ids.roll(1))], 1))
    print(f"equal to the dense loss within 1e-10 in float64, value and gradients, N = {count:,}")
    print("\nfloat32 gradients against dense float64, logit scale 100:\n")
    print("| cosine of the pairs | ours | bar | met | ClipLoss |\n|---|---|---|---|---|")
    for cosine in (0.3, 0.35, 0.4):
        expected = gradients(lambda a, b, s: gcl_loss(a, b, logit_scale=s), batch(count, cosine, torch.float64))
        off = {name: error(gradients(loss, batch(count, cosine)), expected) for name, loss in LOSSES.items()}
        met = "yes" if off["ours"] <= 1e-5 else "no"
        print(f"| {cosine} | {off['ours']:.1e} | <= 1e-5 | {met} | {off['ClipLoss']:.1e} |")


def bare(count: int, size: int):
    """The four products of a forward and backward pass, 8 N^2 d operations, in tiles and into memory in use."""
    left, right = (side.detach() for side in batch(count)[:2])
    by_left, by_right, tile_RxC = torch.zeros_like(left), torch.zeros_like(right), torch.empty(size, size)

    def run():
        for backward in (False, True):
            for i in range(0, count, size):
                for j in range(0, count, size):
                    torch.mm(left[i : i + size], right[j : j + size].T, out=tile_RxC)
                    if backward:
                        by_left[i : i + size].addmm_(tile_RxC, right[j : j + size])
                        by_right[j : j + size].addmm_(tile_RxC.T, left[i : i + size])

    return run


def speed(count: int, rounds: int) -> None:
    given = batch(count)
    runs = {name: lambda loss=loss: gradients(loss, given) for name, loss in LOSSES.items()}
    runs["nothing kept"] = lambda: gradients(lambda a, b, s: tiled_gcl_loss(a, b, logit_scale=s, keep_bytes=0), given)
    runs |= {f"products in tiles of {size:,}": bare(count, size) for size in (1024, count)}
    seconds = cpu_seconds(runs, rounds)
    ours, unkept, clip = (seconds.pop(name) for name in ("ours", "nothing kept", "ClipLoss"))
    floor = min(seconds, key=seconds.get)
    header(f"N = {count:,}, d = {DIMENSION}, float32, forward and backward")
    faster("as it comes (100 MB of tiles kept)", ours, "ClipLoss", clip, 1.6)
    slower("as it comes", ours, floor, seconds[floor], 1.2)
    faster("no tile kept", unkept, "ClipLoss", clip, 1.6)
    slower("no tile kept", unkept, floor, seconds[floor], 1.2)


def peak(name: str, count: int) -> tuple[float, ...]:
    """(GB that one forward and backward adds at its peak, with the inputs, CPU seconds), in a process of its own."""
    done = subprocess.run([sys.executable, __file__, name, str(count)], capture_output=True, text=True, check=True)
    return tuple(float(word) for word in done.stdout.split())


def measure(name: str, count: int) -> None:
    gradients(LOSSES[name], batch(256))
    empty, _ = resident()
    given = batch(count)
    before, watch = resident()[0], Watch()
    watch.start()
    started = time.process_time()
    kept_until_the_end = gradients(LOSSES[name], given)
    seconds = time.process_time() - started
    watch.over.set()
    watch.join()
    assert len(kept_until_the_end) == 4
    own = max(own for own, _ in watch.samples)
    print(own - before, own - empty, seconds)


def memory(count: int, large: int) -> None:
    ours, clip = peak("ours", count), peak("ClipLoss", count)
    print("\n| N | what | ours | ClipLoss | ratio | bar | met |\n|---|---|---|---|---|---|---|")
    met = "yes" if clip[0] >= 20 * ours[0] else "no"
    print(f"| {count:,} | memory | {ours[0]:.3f} GB | {clip[0]:.3f} GB | {clip[0] / ours[0]:.1f}x | >= 20x | {met} |")
    added, whole, seconds = peak("ours", large)
    met = "yes" if whole < 0.5 else "no"
    print(f"| {large:,} | memory, the inputs too | {whole:.3f} GB ({added:.3f} without) | | | < 0.5 GB | {met} |")
    print(f"| {large:,} | CPU, once | {seconds:.1f} s | | | | |")


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) == 3 and sys.argv[1] in LOSSES:
        measure(sys.argv[1], int(sys.argv[2]))
        return
    options = arguments(__doc__.splitlines()[0])
    torch.manual_seed(0)
    check(300 if options.small else 1500)
    speed(1024 if options.small else 4096, options.rounds)
    if not options.small:
        speed(8192, options.rounds)
        speed(16384, 1)
    memory(*(1024, 2048) if options.small else (16384, 32768))


if __name__ == "__main__":
    main()
