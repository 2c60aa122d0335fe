"""Pretrained towers on a CPU: embedding products and fine-tuning with `lite`, with and without memory that is kept and
texts that are encoded by their length; CPU seconds (user + system) and the peak of memory.

    OMP_NUM_THREADS=1 python benchmarks/towers.py [--small] [--data FOLDER]    (the extra `lite` has the weights)

Each measurement is a process of its own, since kept memory changes the settings of glibc for good.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from unittest.mock import patch

import pyarrow as pa
import torch
from interleaved import arguments

from gcl_toolkit import GCLModel, load, train
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.models.texts import by_length
from gcl_toolkit.training.config import TrainConfig, Tuning

WAYS = {"neither": (False, False), "kept memory": (True, False), "texts by length": (False, True), "both": (True, True)}
"""Whether memory is kept, and texts are encoded by their length."""
PRODUCTS, BATCH, STEPS = 256, 32, 3


@contextmanager
def way(kept: bool, lengths: bool):
    """Without kept memory, or with all texts padded to the full length, if so wanted."""
    places = [] if kept else [f"gcl_toolkit.{place}.kept_memory" for place in ("models.model", "training.train")]
    patches = [patch(place, nullcontext) for place in places]
    patches += (
        [] if lengths else [patch("gcl_toolkit.models.encoders.by_length", lambda encode, tokens, *_: encode(tokens))]
    )
    for each in patches:
        each.start()
    yield
    for each in patches:
        each.stop()


def data_of(folder: str) -> RankedData:
    return load(folder or "shop")["in_domain"]


def check(corpus: pa.Table) -> None:
    """The same vectors with and without either, for more products than a block; texts by quarters, as in training."""
    model, vectors = GCLModel("lite"), []
    for chosen in WAYS.values():
        with way(*chosen):
            vectors.append(torch.from_numpy(model.embed(corpus, "right")))
    tokens = model.encoder.tokens([text or "" for text in corpus["title"].to_pylist()] * 4)
    encode, padding = model.eval().encoder.model.encode_text, model.encoder.model.text.config.pad_token_id
    with torch.inference_mode():
        whole, quarters = encode(tokens), by_length(encode, tokens, padding, training=True)
    assert all((a - b).abs().max() < 1e-5 for a, b in pairwise(vectors))
    assert (whole - quarters).abs().max() < 1e-4 * whole.abs().max()
    print(f"equal vectors of {corpus.num_rows} products and of {len(tokens)} titles by quarters")


def used() -> tuple[float, float, float]:
    """(user seconds, system seconds, GB at the peak) of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1e6


def measure(name: str, folder: str, products: int, batch: int) -> None:
    """What one way costs, as a line of JSON: embedding, and the cheapest of some steps."""
    data, model = data_of(folder), GCLModel("lite")
    model.embed(data.corpus.slice(0, 8), "right")
    with way(*WAYS[name]):
        before = used()
        model.embed(data.corpus.slice(0, products), "right")
        user, system, peak = (after - b for after, b in zip(used(), (*before[:2], 0), strict=True))
        config = TrainConfig(steps=STEPS, batch=batch, tuning=Tuning(lock="both", unlock=1))
        marks = [time.process_time() for _ in train(model, data, "graded", config)]
    step = min(b - a for a, b in pairwise(marks))
    print(json.dumps({"user": user, "system": system, "peak": peak, "step": step, "peak of both": used()[2]}))


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:4], *map(int, sys.argv[4:]))
        return
    options = arguments(__doc__.splitlines()[0], data="")
    products, batch = (32, 8) if options.small else (PRODUCTS, BATCH)
    check(data_of(options.data).corpus.slice(0, 40))
    found: dict[str, list[dict]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, rows in found.items():
            command = [sys.executable, __file__, "--measure", name, options.data, str(products), str(batch)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(
        f"\n{products} products, picture and title; steps of {batch} products, the last layer of each tower unlocked\n"
    )
    print("| | embed: user + system | a step | peak of embedding | of both |\n|---|---|---|---|---|")
    for name, rows in found.items():
        peaks = [max(row[key] for row in rows) for key in ("peak", "peak of both")]
        best = min(rows, key=lambda row: row["user"] + row["system"])
        seconds = f"{best['user']:.1f} + {best['system']:.1f} | {min(row['step'] for row in rows):.2f}"
        print(f"| {name} | {seconds} | {peaks[0]:.2f} GB | {peaks[1]:.2f} GB |")


if __name__ == "__main__":
    main()
