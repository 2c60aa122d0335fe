"""Exact search on a GPU: 2,000 queries against 5,000,000 x 512 float16; and how many pictures ViT-B-32 encodes.

python benchmarks/gpu_search.py [--small]    (torch with CUDA; the pictures also want open_clip)
"""

from __future__ import annotations

import time
from importlib.util import find_spec

import torch
from interleaved import arguments
from torch.nn.functional import normalize

from gcl_toolkit.measure.search import top_k

DIMENSION, TARGET_MS = 512, 60


def embeddings(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    made = torch.empty(rows, DIMENSION, dtype=torch.float16, device="cuda")
    for part in made.split(500_000):
        part.copy_(normalize(torch.randn(part.shape, generator=generator, device="cuda")))
    return made


def check(queries_QxD, corpus_NxD, k: int) -> None:
    """Against brute force in float64, with and without bfloat16."""
    exact = (queries_QxD.double() @ corpus_NxD.double().T).cpu()
    for bfloat16 in (False, True):
        scores, rows = (torch.from_numpy(x) for x in top_k(queries_QxD, corpus_NxD, k, chunk=20_000, bfloat16=bfloat16))
        assert (scores - exact.topk(k).values).abs().max() <= 1e-6, f"wrong scores, bfloat16={bfloat16}"
        assert (scores - exact.gather(1, rows)).abs().max() <= 1e-6, f"wrong rows, bfloat16={bfloat16}"
    print(f"checked against brute force: {len(queries_QxD)} x {len(corpus_NxD):,}, k = {k}")


def best_ms(run, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds + 1):  # one to warm up
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best * 1000


def encoding(batch: int) -> None:
    from gcl_toolkit import GCLModel

    model = GCLModel("ViT-B-32").cuda().eval()
    pixels = torch.zeros(batch, 3, 224, 224, dtype=torch.uint8, device="cuda")
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        ms = best_ms(lambda: model.encoder.encode_images(pixels), 5)
    print(f"ViT-B-32, untrained, bfloat16, pixels on the GPU: {batch / ms * 1000:,.0f} pictures a second")


def main() -> None:
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured")
        return
    options = arguments(__doc__.splitlines()[0])
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; times below are wall time")
    check(embeddings(300, 1), embeddings(100_000, 2), 1000)
    rows = 200_000 if options.small else 5_000_000
    queries_QxD, corpus_NxD = embeddings(2000, 3), embeddings(rows, 4)
    for k in (100, 1000):
        ms = best_ms(lambda k=k: top_k(queries_QxD, corpus_NxD, k), options.rounds)
        plain = best_ms(lambda k=k: top_k(queries_QxD, corpus_NxD, k, bfloat16=False), 1)
        met = "met" if ms <= TARGET_MS else "not met"
        print(
            f"2,000 x {rows:,} x {DIMENSION}, k = {k}: {ms:.1f} ms (at most {TARGET_MS}: {met}); float32 {plain:.1f} ms"
        )
    print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    if find_spec("open_clip"):
        encoding(256)


if __name__ == "__main__":
    main()
