"""What machine this is, for the record beside every measured number; and how its memory is used."""

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within, freed memory is used again instead of going back to the system after every layer and being asked for,
    and zeroed, before the next one; at the end all of it goes back. Only where the C library is glibc."""
    global _keepers
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    _keepers += 1
    _set(libc, {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1})
    try:
        yield
    finally:
        _keepers -= 1
        if not _keepers:
            _set(libc, {_MMAP_MAX: 1 << 16, _MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 26})  # glibc's highest
            release_memory()


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # in glibc's malloc.h
_keepers = 0


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:(.*)", info.read_text(), re.MULTILINE) if info.is_file() else None
    return model[1].strip() if model else platform.processor() or platform.machine()
