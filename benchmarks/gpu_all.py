"""Everything that needs a GPU in one call of at most 8 minutes: checks, benchmarks, the demo and the tests; one table.

python benchmarks/gpu_all.py [part ...]    (parts: loss, search, train, demo, tests; all by default)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from interleaved import gpu_row

HERE = Path(__file__).parent
TESTS = ["tests/test_tiled_gpu.py", "tests/test_search_gpu.py"]
PARTS = {
    "loss": (80, ["benchmarks/gpu_loss.py"]),
    "search": (70, ["benchmarks/gpu_search.py"]),
    "train": (140, ["benchmarks/gpu_train.py"]),
    "demo": (100, ["-m", "gcl_toolkit.cli", "demo", "--out", "DEMO"]),
    "tests": (90, ["-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]),
}
"""Name -> seconds at most, and what to run."""
DEMO_SECONDS = 60


def run(name: str, folder: str) -> list[str]:
    """Run a part, show what it prints, and return its rows."""
    limit, command = PARTS[name]
    command = [sys.executable, *(str(Path(folder) / "demo") if part == "DEMO" else part for part in command)]
    print(f"\n== {name}", flush=True)
    started, text = time.perf_counter(), ""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    try:
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, timeout=limit, cwd=HERE.parent, env=environment, **both)
        text, how = done.stdout, "right" if done.returncode == 0 else f"exit status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        text, how = (error.stdout or b"").decode(errors="replace"), f"stopped after {limit} s"
    seconds = time.perf_counter() - started
    print(text[-6000:], flush=True)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    bar = f"<= {DEMO_SECONDS} s" if name == "demo" else "right"
    met = how == "right" and (name != "demo" or seconds <= DEMO_SECONDS)
    return [*rows, f"| {name}, as a whole | {seconds:.0f} s, {how} | {bar} | {'yes' if met else 'no'} |"]


def main() -> None:
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured")
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or PARTS:
            rows += run(name, folder)
    card, cores = torch.cuda.get_device_name(), os.cpu_count()
    print(f"\n{time.strftime('%Y-%m-%d')}, {card}, {cores} cores, torch {torch.__version__}")
    gpu_row("what", "measured", "bar", None)
    print("|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()
