"""Training on a GPU: open_clip's ViT-B-32 against open_clip's own step, from pictures and cache, and the small encoder.

python benchmarks/gpu_train.py [--small]    (needs a GPU, open_clip and simplejpeg; at most 130 s)
"""

from __future__ import annotations

import copy
import io
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import torch
from input import photographs
from interleaved import arguments, gpu_row
from PIL import Image
from torch import Tensor

from gcl_toolkit import Fields, GCLModel, MachineConfig, TrainConfig, train
from gcl_toolkit.data.ranked_data import IMAGE, RankedData
from gcl_toolkit.methods import GCL, Batch
from gcl_toolkit.training.batches import Batches, Rows
from gcl_toolkit.training.engine import Engine
from gcl_toolkit.training.train import _move

WORDS, VOCABULARY = 77, 49_000
FORWARD_FLOP = 2 * (4.37e9 + 2.96e9)
"""Of a pair: 4.37 G multiply-adds in ViT-B/32's picture tower, 2.96 G in its text tower; a step does thrice as much."""
PEAK_FLOPS = 989e12
"""Of an H100 or H200 (SXM) in bfloat16, dense."""


def texts(count: int, words: int) -> list[str]:
    rng = np.random.default_rng(0)
    known = ["".join(map(chr, rng.integers(97, 123, 6))) for _ in range(1_000)]
    return [" ".join(known[i] for i in row) for row in rng.integers(0, len(known), (count, words))]


def shop(queries: int, products: int, per_query: int, pictures: list[bytes]) -> RankedData:
    """Random pairs of texts and pictures; only their number matters here."""
    rng = np.random.default_rng(0)
    query = np.repeat(np.arange(queries), per_query)
    product = np.concatenate([rng.choice(products, per_query, replace=False) for _ in range(queries)])
    images = [{"bytes": pictures[i % len(pictures)], "path": None} for i in range(products)]
    return RankedData(
        pa.table({"query_id": [f"q{i}" for i in range(queries)], "query": texts(queries, 4)}),
        pa.table(
            {
                "product_id": [f"p{i}" for i in range(products)],
                "title": texts(products, 8),
                "image": pa.array(images, IMAGE),
            }
        ),
        pa.table(
            {
                "query_id": [f"q{i}" for i in query],
                "product_id": [f"p{i}" for i in product],
                "score": 1.0 + np.arange(len(query)) % per_query,
            }
        ),
    )


def clip() -> GCLModel:
    return GCLModel("ViT-B-32", left=Fields(query=1), right=Fields(image=1))


def rows(side: str, values: Tensor) -> Rows:
    return Rows(
        side, {"query" if side == "left" else "image": values}, {"query": _all(values), "image": _all(values)}, {}
    )


def _all(values: Tensor) -> Tensor:
    return torch.ones(len(values), dtype=torch.bool, device=values.device)


def at_hand(size: int) -> tuple[Batch, Rows, Rows]:
    """A batch on the device already: the ceiling."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (size, 3, 224, 224), dtype=torch.uint8, generator=generator).cuda()
    tokens = torch.randint(1, VOCABULARY, (size, WORDS), generator=generator).cuda()
    numbers = np.arange(size)
    weights = torch.rand(size, generator=generator).cuda()
    return Batch(numbers, numbers, weights), rows("left", tokens), rows("right", pixels)


def seconds_a_step(step: Callable[[], object], steps: int, warm: int = 2) -> float:
    """Wall time; each step ends with a look at the loss, as in a training."""
    for _ in range(warm):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def our_step(engine: Engine, parts: Iterator) -> Callable[[], object]:
    return lambda: engine.settle(_move(engine, GCL(), [next(parts)]))


def their_step(model: torch.nn.Module, pixels: Tensor, tokens: Tensor) -> Callable[[], object]:
    """open_clip's own: autocast, ClipLoss, fused AdamW, the scale clamped."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    mean, std = (
        torch.tensor(v, device="cuda").view(3, 1, 1) for v in (model.visual.image_mean, model.visual.image_std)
    )
    loss = open_clip.loss.ClipLoss()

    def step() -> float:
        images = (pixels.float() / 255 - mean) / std
        with torch.autocast("cuda", torch.bfloat16):
            value = loss(*model(images, tokens))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return value.item()

    return step


def check(model: GCLModel) -> None:
    """In bfloat16 our gradients, whole and in chunks, are as near to float32 as those of open_clip's own modules."""
    part, found = at_hand(64), {}
    ways = {
        "exact": ("float32", None),
        "plain": ("bfloat16", None),
        "ours": ("bfloat16", None),
        "in chunks": ("bfloat16", 16),
    }
    for name, (precision, chunk) in ways.items():
        engine = Engine(model, TrainConfig(), MachineConfig(precision=precision, chunk=chunk))
        engine.move = lambda loss: loss
        if name == "plain":
            for module in model.modules():
                vars(module).pop("attention", None), vars(module).pop("forward", None)
        _move(engine, GCL(), [part])
        found[name] = torch.cat([p.grad.flatten() for p in engine.trained.values() if p.grad is not None])
        model.zero_grad()
    off = {name: ((each - found["exact"]).norm() / found["exact"].norm()).item() for name, each in found.items()}
    assert max(off.values()) < 1.5 * off["plain"], f"gradients are further off than open_clip's own: {off}"
    print(f"checked: off the float32 gradients of 64 pairs by {', '.join(f'{n} {v:.1e}' for n, v in off.items())}")


def row(what: str, size: int, seconds: float, bar: str = "", met: bool | None = None) -> None:
    rate, peak = size / seconds, torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    mfu = 3 * FORWARD_FLOP * rate / PEAK_FLOPS
    gpu_row(f"training, {what}", f"{rate:,.0f} pairs/s, {seconds * 1e3:.0f} ms, MFU {mfu:.0%}, {peak:.0f} GB", bar, met)


def plain(small: bool) -> None:
    """The plain step and the gradient cache against open_clip's own step."""
    size, large, steps = (64, 256, 2) if small else (1_024, 8_192, 8)
    batch, model = at_hand(size), clip().cuda()
    theirs = their_step(copy.deepcopy(model.encoder.model), batch[2].values["image"], batch[1].values["query"])
    peer = seconds_a_step(theirs, steps)
    row(f"open_clip's own step, {size:,}", size, peer)
    del theirs
    check(model)
    torch.cuda.reset_peak_memory_stats()
    ours = seconds_a_step(our_step(Engine(model, TrainConfig(), MachineConfig()), itertools.repeat(batch)), steps)
    faster = size / ours / 4_216
    row(f"ours, {size:,}: {peer / ours:.2f}x open_clip's, {faster:.2f}x 4,216", size, ours, ">= 1.3x", faster >= 1.3)
    whole = at_hand(large)
    for chunk in (size, 2 * size):
        engine = Engine(model, TrainConfig(), MachineConfig(chunk=chunk))
        cached = seconds_a_step(our_step(engine, itertools.repeat(whole)), 3, 1)
        cost = cached / large / (ours / size)
        name = f"gradient cache, {large:,} in {chunk:,}: {cost:.2f}x the plain step's cost"
        row(name, large, cached, "<= 1.35x", cost <= 1.35)


def pictures(small: bool) -> None:
    """The gradient cache on JPEGs of 640 x 640 and on their crops in the cache, against the same batch at hand."""
    size, chunk, steps = (256, 64, 1) if small else (8_192, 1_024, 4)
    cores = len(os.sched_getaffinity(0))
    config, model = TrainConfig(batch=size, augment=False), clip().cuda()
    engine = Engine(model, config, MachineConfig(chunk=chunk))
    data = shop(size, 2 * size, 2, photographs(64, 640, 640))
    batch, *sides = at_hand(size)
    pinned = [side.map(lambda part: part.cpu().pin_memory()) for side in sides]
    hand = seconds_a_step(our_step(engine, itertools.repeat((batch, *pinned))), 2, 1)
    row(f"batch at hand, {size:,} in {chunk:,}", size, hand)
    with tempfile.TemporaryDirectory() as folder:
        for name, cache in ((f"JPEGs of 640 x 640, {cores} processes", None), ("cache on disk", Path(folder))):
            machine = MachineConfig(chunk=chunk, workers=cores, cache=cache)
            batches = Batches(model, data, GCL().sampler(data, size, 0), config, machine)
            started = time.perf_counter()
            for start in range(0, 2 * size if cache else size, size):
                batches.right.rows(np.arange(start, start + size))
            decoding = (start + size) / (time.perf_counter() - started)
            print(f"decoding alone: {decoding:,.0f} pictures a second", flush=True)
            prepared = batches.prepared(range(steps + 2))
            seconds = seconds_a_step(our_step(engine, prepared), steps)
            row(f"{name}: {hand / seconds:.0%} of the batch at hand", size, seconds, ">= 95%", hand / seconds >= 0.95)
            prepared.close()


def small_encoder(small: bool) -> None:
    """The built-in encoder on a shop of the demo's size."""
    steps, warm, pictures = 30 if small else 320, 20, []
    rng = np.random.default_rng(0)
    for _ in range(64):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(out, "PNG")
        pictures.append(out.getvalue())
    data = shop(1_185, 3_000, 20, pictures)
    for method in ("graded", "clip-top"):
        for record in train(GCLModel("small"), data, method, steps=steps):
            if record["step"] == warm:
                started = time.perf_counter()
        rate = (steps - warm) / (time.perf_counter() - started)
        name = f"training, small encoder, {method}, batch 192"
        gpu_row(name, f"{rate:.0f} steps/s", ">= 200 steps/s", rate >= 200)


PARTS = {"small_encoder": (small_encoder, 30), "plain": (plain, 55), "pictures": (pictures, 60)}
"""Name -> (what is measured, seconds it may take), each in a process of its own."""


def main() -> None:
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured")
        return
    part, started = os.environ.get("PART"), time.perf_counter()
    if part:
        PARTS[part][0]("--small" in sys.argv)
        return
    arguments(__doc__.splitlines()[0])
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; times below are wall time", flush=True)
    for name, (_, limit) in PARTS.items():
        left = min(limit, 128 - (time.perf_counter() - started))
        try:
            subprocess.run([sys.executable, *sys.argv], env=os.environ | {"PART": name}, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            print(f"{name}: stopped after {left:.0f} s", flush=True)


if __name__ == "__main__":
    main()
