"""What machine this is and what is missing on it: for `gcl doctor`, and beside every result."""

from __future__ import annotations

import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pandas", "pyarrow", "datasets", "bm25s", "resvg-py")
REFERENCE_STEP_SECONDS = 0.075
"""`step_seconds` of the machine on which the recipes' minutes were measured (docs/BENCHMARKS.md)."""
EXTRAS = {
    "text": ("transformers",),
    "app": ("gradio",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "notebooks": ("jupyterlab", "jupytext", "nbclient"),
}


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict:
    """Processor, cores, memory (GB), device and versions, as they stand beside a measured number."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(_memory_gb()[0], 1),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("gcl-toolkit", *PACKAGES)},
    }


def examine(folder: str | Path = ".") -> tuple[list[str], list[str]]:
    """(facts, problems), a line each: versions, device, free disk and memory; what is missing or short."""
    here = machine()
    total_gb, free_gb = _memory_gb()
    disk_gb = shutil.disk_usage(folder).free / 1e9
    facts = [
        f"Python {here['python']} on {here['processor']}, {here['cores']} cores; device {here['device']}",
        f"memory {free_gb:.1f} GB free of {total_gb:.1f} GB; disk {disk_gb:.1f} GB free",
        ", ".join(f"{name} {number}" for name, number in here["versions"].items() if number),
    ]
    problems = [f"{name} is not installed: make setup" for name in PACKAGES if version(name) is None]
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if version(name) is None]
        if missing:
            facts.append(f"extra {extra!r} is not installed ({', '.join(missing)}): pip install 'gcl-toolkit[{extra}]'")
    if free_gb < 2:
        problems.append(f"{free_gb:.1f} GB of memory is free; the demo wants 2 GB")
    if disk_gb < 1:
        problems.append(f"{disk_gb:.1f} GB of disk is free; the demo wants 1 GB")
    return facts, problems


def step_seconds(steps: int = 5) -> float:
    """CPU-seconds of one training step of the small model, now, on one thread: 192 pictures, forward and backward."""
    import torch

    from gcl_toolkit.encoders import SmallEncoder

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


def fast_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    import torch

    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> tuple[float, float]:
    """Total and available memory; NaN where the system does not say."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        return float("nan"), float("nan")
    kilobytes = {key: float(rest.split()[0]) for key, rest in (row.split(":") for row in info.read_text().splitlines())}
    return kilobytes["MemTotal"] / 1e6, kilobytes["MemAvailable"] / 1e6
