"""What machine this is, for the record beside every measured number."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pandas", "pyarrow", "datasets", "bm25s", "resvg-py")


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict:
    """Processor, cores, memory (GB), device and versions."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory_gb()[0], 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("gcl-toolkit", *PACKAGES)},
    }


def memory_gb() -> tuple[float, float]:
    """Total and available memory; NaN where the system does not say."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        return float("nan"), float("nan")
    kilobytes = {key: float(rest.split()[0]) for key, rest in (row.split(":") for row in info.read_text().splitlines())}
    return kilobytes["MemTotal"] / 1e6, kilobytes["MemAvailable"] / 1e6


def fast_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    import torch

    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:(.*)", info.read_text(), re.MULTILINE) if info.is_file() else None
    return model[1].strip() if model else platform.processor() or platform.machine()
