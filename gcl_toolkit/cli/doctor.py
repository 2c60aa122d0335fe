"""gcl doctor: this machine, and what is missing on it."""

import math
import os
import shutil
import sys
import time
from pathlib import Path

from gcl_toolkit.cli.common import app, console
from gcl_toolkit.data.sources.shop import ShopConfig
from gcl_toolkit.machine import PACKAGES, machine, memory_gb, version
from gcl_toolkit.methods import DEFAULT
from gcl_toolkit.studies.recipes import RECIPES, Recipe
from gcl_toolkit.studies.study import BASELINES

START, EVALUATION = 100, 20
"""What a study costs beside its trainings (imports, summary, report), and a training beside its steps; in steps."""
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
    console.print(f"  gcl demo: about {minutes_here(RECIPES['shop']):.1f} minutes on this machine at present")
    for problem in problems:
        console.print(f"problem: {problem}", style="red")
    console.print(f"problems: {len(problems)}" if problems else "nothing is missing: gcl demo")
    sys.exit(1 if problems else 0)


def minutes_here(recipe: Recipe) -> float:
    """Minutes that a recipe will take, from pictures drawn and steps of the default method taken now, on one core."""
    config, worlds, cores = recipe.study, len(recipe.worlds), os.cpu_count() or 1
    jobs = 1 if machine()["device"] != "cpu" else cores
    picture, step = seconds_here()
    trainings = worlds * config.seeds * sum(method not in BASELINES for method in config.methods)
    steps = START + math.ceil(trainings / jobs) * (config.train.steps + EVALUATION)
    return (steps * step + worlds * ShopConfig().products * picture / cores) / 60


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


def seconds_here(seconds: float = 1.0) -> tuple[float, float]:
    """Seconds for a picture of the shop and for a training step of the small model, both in one thread and now."""
    import torch

    from gcl_toolkit.data.sources.shop import draw, load
    from gcl_toolkit.models.model import GCLModel
    from gcl_toolkit.training.train import train

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.perf_counter()
    draw.to_pngs([draw.Look("mug", "red", "striped")] * 100, ShopConfig().size)
    picture = (time.perf_counter() - started) / 100
    steps = train(GCLModel("small"), load(products=480, size=8)["in_domain"], DEFAULT)
    for _ in range(3):  # to warm up
        next(steps)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        next(steps)
        done += 1
    torch.set_num_threads(threads)
    return picture, (time.perf_counter() - started) / done
