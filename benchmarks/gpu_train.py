"""ViT-B/32 training on a GPU: pairs a second, memory, and how long the GPU waits for pictures from 16 cores.

python benchmarks/gpu_train.py [--small]    (torch with CUDA; without open_clip, a transformer of its shape is used)
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import torch
from input import photographs
from interleaved import arguments
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl_toolkit.data.pictures import PixelCache, fit, read
from gcl_toolkit.losses import gcl_loss
from gcl_toolkit.losses.fast.ranks import cached_backward
from gcl_toolkit.training.batches import ahead

SIZE, WORDS, WIDTH, LAYERS = 224, 77, (768, 512), 12


class Towers(nn.Module):
    """ViT-B/32's two towers: 12 pre-norm layers of 768 over 50 patches, 12 of 512 over 77 words; 512 dimensions."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH[0], 32, stride=32)
        self.words = nn.Embedding(49_408, WIDTH[1])
        self.places = nn.ParameterList([torch.zeros(49, WIDTH[0]), torch.zeros(WORDS, WIDTH[1])])
        self.towers = nn.ModuleList(map(self.tower, WIDTH))
        self.heads = nn.ModuleList(nn.Linear(w, 512, bias=False) for w in WIDTH)

    @staticmethod
    def tower(width: int) -> nn.Module:
        heads, hidden = width // 64, 4 * width
        layer = nn.TransformerEncoderLayer(width, heads, hidden, 0, "gelu", batch_first=True, norm_first=True)
        return nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def images(self, pixels: Tensor) -> Tensor:
        patches = self.patches(pixels.float() / 127.5 - 1).flatten(2).transpose(1, 2)
        return normalize(self.heads[0](self.towers[0](patches + self.places[0]).mean(1)).float(), dim=-1)

    def texts(self, tokens: Tensor) -> Tensor:
        return normalize(self.heads[1](self.towers[1](self.words(tokens) + self.places[1]).mean(1)).float(), dim=-1)


class OpenClip(nn.Module):
    def __init__(self):
        super().__init__()
        from gcl_toolkit.models.encoders import OpenClipEncoder

        self.encoder = OpenClipEncoder("ViT-B-32")

    def images(self, pixels: Tensor) -> Tensor:
        return normalize(self.encoder.encode_images(pixels).float(), dim=-1)

    def texts(self, tokens: Tensor) -> Tensor:
        return normalize(self.encoder.encode_texts(tokens).float(), dim=-1)


def train(model: nn.Module, batches, steps: int, chunk: int) -> tuple[float, float]:
    """(seconds a step, seconds a step of waiting for the batch), the first two steps left out."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    waited, started = 0.0, 0.0
    for step in range(steps + 2):
        if step == 2:
            torch.cuda.synchronize()
            started, waited = time.perf_counter(), 0.0
        asked = time.perf_counter()
        pixels, tokens = next(batches)
        waited += time.perf_counter() - asked
        pixels, tokens = pixels.cuda(non_blocking=True), tokens.cuda(non_blocking=True)

        def embed(side, rows):
            with torch.autocast("cuda", torch.bfloat16):
                return side(rows)

        sides = [
            [lambda rows=rows, side=side: embed(side, rows) for rows in whole.split(chunk)]
            for side, whole in ((model.texts, tokens), (model.images, pixels))
        ]
        weights = torch.rand(len(pixels), device="cuda")
        cached_backward(lambda left, right, w=weights: gcl_loss(left, right, w, logit_scale=100.0), *sides)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps, waited / steps


def same_batch(size: int):
    """A batch that is there already: the ceiling."""
    pixels = torch.randint(0, 255, (size, 3, SIZE, SIZE), dtype=torch.uint8).pin_memory()
    tokens = torch.randint(1, 49_000, (size, WORDS)).pin_memory()
    while True:
        yield pixels, tokens


def read_batches(size: int, steps: int, jpegs: list[bytes], cache: PixelCache | None, pool: ThreadPoolExecutor):
    """Batches decoded by the pool, two ahead, or from the cache."""
    tokens = torch.randint(1, 49_000, (size, WORDS)).pin_memory()

    def make(step: int) -> tuple[Tensor, Tensor]:
        pixels = torch.zeros(size, 3, SIZE, SIZE, dtype=torch.uint8)
        rows = torch.arange(size).numpy()
        if cache is None or not cache.get(rows, pixels.numpy()).all():

            def one(i: int) -> None:
                pixels[i] = torch.from_numpy(
                    fit(read({"bytes": jpegs[(i + step) % len(jpegs)]}), SIZE, (SIZE, SIZE), "bicubic")
                )

            list(pool.map(one, range(size)))
            if cache:
                cache.put(rows, pixels.numpy())
        return pixels.pin_memory(), tokens

    return ahead(make, range(steps + 2), 2)


def check(model: nn.Module) -> None:
    """In chunks the gradient is that of the whole batch."""
    pixels, tokens = (part[:64].cuda() for part in next(same_batch(64)))
    found = []
    for chunk in (64, 16):
        model.zero_grad()
        sides = [
            [lambda rows=rows, side=side: side(rows) for rows in whole.split(chunk)]
            for side, whole in ((model.texts, tokens), (model.images, pixels))
        ]
        cached_backward(lambda left, right: gcl_loss(left, right, logit_scale=10.0), *sides)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    off = ((found[0] - found[1]).norm() / found[0].norm()).item()
    assert off < 1e-2, f"gradients in chunks are {off:.1e} off"
    print(f"checked: gradients of 64 pairs in chunks of 16 are {off:.1e} from those of the whole")


def main() -> None:
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured")
        return
    options = arguments(__doc__.splitlines()[0])
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; times below are wall time")
    torch.set_num_threads(1)
    model = (OpenClip() if find_spec("open_clip") else Towers()).cuda()
    print("open_clip's ViT-B-32" if find_spec("open_clip") else "a transformer of ViT-B/32's shape (no open_clip here)")
    check(model)
    size, chunk, steps = (512, 256, 2) if options.small else (8_192, 1_024, 10)
    jpegs = photographs(64, 640, 640)
    with ThreadPoolExecutor(16) as pool, tempfile.TemporaryDirectory() as folder:
        ways = {
            "batch at hand": same_batch(size),
            "JPEGs of 640 x 640, 16 threads": read_batches(size, steps, jpegs, None, pool),
            "cache on disk": read_batches(size, steps, jpegs, PixelCache(folder, "train", size, (SIZE, SIZE)), pool),
        }
        for name, batches in ways.items():
            torch.cuda.reset_peak_memory_stats()
            seconds, waited = train(model, batches, steps, chunk)
            peak = torch.cuda.max_memory_allocated() / 1e9
            print(
                f"{name}: {size / seconds:,.0f} pairs a second, waiting {waited / seconds:.0%} of the time, "
                f"{seconds:.2f} s a step of {size:,} in chunks of {chunk:,}, peak {peak:.1f} GB"
            )


if __name__ == "__main__":
    main()
