"""gcl doctor: this machine, and what is missing on it."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from gcl_toolkit.cli.common import app, console
from gcl_toolkit.machine import PACKAGES, fast_bfloat16, machine, memory_gb, version
from gcl_toolkit.studies.recipes import RECIPES, Recipe

REFERENCE_STEP_SECONDS = 0.075
"""`step_seconds` of the machine on which the recipes' minutes were measured (docs/BENCHMARKS.md)."""
EXTRAS = {
    "text": ("transformers",),
    "app": ("gradio",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "notebooks": ("jupyterlab", "jupytext", "nbclient"),
}


@app.command(name="doctor")
def doctor() -> None:
    """Versions, device, free disk and memory, what is missing, and how long the demo will take."""
    facts, problems = examine()
    for fact in facts:
        console.print(f"  {fact}")
    console.print(f"  gcl demo: about {minutes_here(RECIPES['shop'])} minutes on this machine at present")
    for problem in problems:
        console.print(f"problem: {problem}", style="red")
    console.print(f"problems: {len(problems)}" if problems else "nothing is missing: gcl demo")
    sys.exit(1 if problems else 0)


def minutes_here(recipe: Recipe) -> int:
    """Minutes that a recipe will take, from a few training steps measured now."""
    return max(1, round(recipe.minutes * step_seconds() / REFERENCE_STEP_SECONDS))


def examine(folder: str | Path = ".") -> tuple[list[str], list[str]]:
    """(facts, problems), a line each: versions, device, free disk and memory; what is missing or short."""
    here, (total_gb, free_gb) = machine(), memory_gb()
    disk_gb = shutil.disk_usage(folder).free / 1e9
    facts = [
        f"Python {here['python']} on {here['processor']}, {here['cores']} cores; device {here['device']}",
        f"memory {free_gb:.1f} GB free of {total_gb:.1f} GB; disk {disk_gb:.1f} GB free",
        ", ".join(f"{name} {number}" for name, number in here["versions"].items() if number),
    ]
    problems = [f"{name} is not installed; run: make setup" for name in PACKAGES if version(name) is None]
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if version(name) is None]
        if missing:
            facts.append(f"extra {extra!r} is not installed ({', '.join(missing)}): pip install 'gcl-toolkit[{extra}]'")
    if free_gb < 2:
        problems.append(f"{free_gb:.1f} GB of memory is free; the demo needs 2 GB")
    if disk_gb < 1:
        problems.append(f"{disk_gb:.1f} GB of disk is free; the demo needs 1 GB")
    return facts, problems


def step_seconds(steps: int = 5) -> float:
    """CPU-seconds of one training step of the small model, now, on one thread: 192 pictures, forward and backward."""
    import torch

    from gcl_toolkit.models.encoders import SmallEncoder

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encoder, pixels = SmallEncoder(), torch.zeros(192, 3, 64, 64, dtype=torch.uint8)
    for step in range(steps + 2):
        if step == 2:
            started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            encoder.encode_images(pixels).square().mean().backward()
    torch.set_num_threads(threads)
    return (time.perf_counter() - started) / steps
