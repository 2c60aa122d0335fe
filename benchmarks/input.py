"""Input: decoding and resizing against open_clip's transform, the cache on disk, and CLIP's tokens.

python benchmarks/input.py [--small]
"""

from __future__ import annotations

import io
import tempfile

import numpy as np
import open_clip
import torch
from interleaved import arguments, cpu_seconds
from PIL import Image

from gcl_toolkit.data.pictures import PixelCache, fit, read
from gcl_toolkit.models.encoders import OpenClipEncoder
from gcl_toolkit.models.texts import fast_tokenizer

SIZE = 224


def photographs(count: int, width: int, height: int) -> list[bytes]:
    """JPEGs of smooth noise, about as large as product photographs of these sizes."""
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (height // 16, width // 16, 3), np.uint8))
        out = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        made.append(out.getvalue())
    return made


def titles(count: int) -> list[str]:
    """Product titles: words of a skewed vocabulary, one in fifty with a letter that isn't ASCII."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(3, 10)))) for _ in range(5_000)]
    picked = (rng.pareto(1.2, (count, 10)) * 20).astype(int) % len(words)
    return [
        " ".join(words[i] for i in row).title() + (" caf\u00e9" if n % 50 == 0 else "") for n, row in enumerate(picked)
    ]


def report(what: str, ours: float, peer: float, bar: float) -> None:
    met = "met" if peer / ours >= bar else "not met"
    print(f"{what}: ours {ours * 1e3:.3f} ms, open_clip {peer * 1e3:.3f} ms, {peer / ours:.1f}x (bar {bar:g}x: {met})")


def pictures(count: int, rounds: int, width: int, height: int) -> None:
    transform = open_clip.image_transform(SIZE, is_train=False)
    data = photographs(count, width, height)
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))

    def ours(values=data):
        return [fit(read({"bytes": value}), SIZE, (SIZE, SIZE), "bicubic") for value in values]

    def theirs(values=data):
        return [transform(Image.open(io.BytesIO(value))) for value in values]

    expected = (torch.stack(theirs()) * std + mean) * 255
    off = (torch.from_numpy(np.stack(ours()).astype(np.float32)) - expected).abs()
    share = float((off > 1.001).float().mean())
    assert off.max() <= 2.001, "more than two grey levels off"
    assert share <= 1e-5, "more than one value in 100,000 more than one grey level off"
    with tempfile.TemporaryDirectory() as folder:
        cache, rows = PixelCache(folder, "benchmark", count, (SIZE, SIZE)), np.arange(count)
        cache.put(rows, np.stack(ours()))
        into = np.zeros((count, 3, SIZE, SIZE), np.uint8)
        assert cache.get(rows, into).all()
        assert (into == np.stack(ours())).all()
        opened, arrays = [Image.open(io.BytesIO(d)).convert("RGB") for d in data], [read({"bytes": d}) for d in data]
        seconds = cpu_seconds(
            {
                "ours": ours,
                "theirs": theirs,
                "ours, decoded": lambda: [fit(array, SIZE, (SIZE, SIZE), "bicubic") for array in arrays],
                "theirs, decoded": lambda: [transform(image) for image in opened],
                "cache": lambda: [cache.get(rows, into) for _ in range(20)],
            },
            rounds,
        )
    each = {name: value / count for name, value in seconds.items()}
    print(f"checked: {count} JPEGs of {width} x {height}, at most one grey level from open_clip's but for {share:.1e}")
    report("JPEG to 224 x 224", each["ours"], each["theirs"], 2.5)
    report("the transform alone, decoded before", each["ours, decoded"], each["theirs, decoded"], 2.5)
    report("from the cache", each["cache"] / 20, each["theirs"], 50)


def tokens(count: int, rounds: int) -> None:
    texts, peer = titles(count), open_clip.get_tokenizer("ViT-B-32")
    assert torch.equal(fast_tokenizer(peer)(texts), peer(texts)), "other ids"
    seconds = cpu_seconds({"ours": lambda: fast_tokenizer(peer)(texts), "theirs": lambda: peer(texts)}, rounds)
    print(f"checked: the ids of {count:,} titles are open_clip's")
    report("tokens of a title, the memo empty at first", seconds["ours"] / count, seconds["theirs"] / count, 2.5)


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    assert OpenClipEncoder("ViT-S-32-alt")._fit == (SIZE, (SIZE, SIZE), "bicubic"), "the encoder goes another way"
    count = 4 if options.small else 40
    for width, height in ((320, 240), (800, 800)):
        pictures(count, options.rounds, width, height)
    tokens(200 if options.small else 5_000, options.rounds)


if __name__ == "__main__":
    main()
