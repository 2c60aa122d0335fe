"""gcl teach grade: points for the exercises of a class's notebooks."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from gcl_toolkit.cli.common import app, console, progress
from gcl_toolkit.errors import UserError

teach_app = tyro.extras.SubcommandApp()
app.command(teach_app, name="teach", help="Grade the exercises of the notebooks.")

COLUMNS = ("file", "notebook", "exercise", "points", "of", "problem")
Cells = dict[str, dict[str, Any]]
RUN = """
import fcntl, json, resource, socket, struct, sys
from IPython.core.interactiveshell import InteractiveShell
cells, out, seconds = json.load(open(sys.argv[1])), open(sys.argv[2], "w"), int(sys.argv[3])
if sys.argv[4] == "alone":  # in a network of its own: only the loopback interface, which starts down
    fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sH14x", b"lo", 1))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
shell = InteractiveShell()
for cell in cells:
    error = (result := shell.run_cell(cell["source"], store_history=False)).error_in_exec or result.error_before_exec
    if cell["id"].startswith("check"):
        problem = error and f"{type(error).__name__}: {error}".strip().splitlines()[0]
        print(json.dumps([cell["id"], problem]), file=out, flush=True)
"""


@teach_app.command(name="grade")
def grade(
    folder: tyro.conf.Positional[Path],
    notebooks: Path = Path("notebooks/student"),
    out: Path = Path("points.csv"),
    seconds: int = 600,
) -> None:
    """Run the notebooks that students handed in, and write a table of points, a row an exercise.

    Only the cells of the exercises are taken from a student's copy; all others, the checks among them, are the
    original's. Each copy runs in a process of its own in tiny mode, in an empty folder, with limits on time and file
    sizes and, on Linux, without a network. This stops accidents, not attacks: grade strangers' code in a container.

    Args:
        folder: with the notebooks of the class, in any arrangement of folders.
        notebooks: the copies that were given out.
        out: the table to write: file, notebook, exercise, points, of, problem.
        seconds: limit for a notebook.
    """
    originals = {path.stem: _cells(path) for path in sorted(notebooks.glob("*.ipynb"))}
    if not originals:
        raise UserError(f"{notebooks} has no notebooks; name the folder of the copies that were given out")
    handed_in = [path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    if not handed_in:
        raise UserError(f"{folder} has no .ipynb file")
    alone = _network_of_its_own()
    if not alone:
        console.print("note: the network can't be cut off here; students' code can use it")
    rows: list[tuple] = []
    with progress() as bar:
        for path in bar.track(handed_in, description="notebooks"):
            rows += [(path.relative_to(folder), *row) for row in _points(path, originals, seconds, alone)]
    with out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    console.print(f"{len(handed_in)} notebooks, {sum(row[3] for row in rows)} of {len(rows)} points: {out}")


def _cells(path: Path) -> Cells:
    """Id -> cell. Raises UserError for a file that isn't a notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return {cell["id"]: {**cell, "source": "".join(cell["source"])} for cell in cells}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a notebook with cell ids ({type(error).__name__}: {error})") from None


def _points(path: Path, originals: dict[str, Cells], seconds: int, alone: bool) -> Iterator[tuple]:
    """(notebook, exercise, points, of, problem) of each exercise in a student's notebook."""
    try:
        cells = _cells(path)
    except UserError as error:
        yield "", "", 0, 0, str(error)
        return
    shared = {name: sum(id in cells for id in original if len(id) == 8) for name, original in originals.items()}
    name = max(shared, key=lambda name: shared[name])
    original = originals[name]
    if 2 * shared[name] < sum(len(id) == 8 for id in original):
        yield "", "", 0, 0, "not a copy of one of the notebooks: fewer than half of its cells are there"
        return
    code = [cell for cell in original.values() if cell["cell_type"] == "code" and "%pip" not in cell["source"]]
    for place, cell in enumerate(code):
        if cell["id"].startswith("exercise"):
            code[place] = cell | {"source": cells.get(cell["id"], cell)["source"]}
    problems = _run(code, seconds, alone)
    for cell in code:
        if cell["id"].startswith("check"):
            problem = problems.get(cell["id"], f"not reached: the time limit of {seconds} s, or the process ended")
            of = cell["metadata"]["nbgrader"]["points"]
            yield name, cell["id"].replace("check", "exercise"), 0 if problem else of, of, problem or ""


def _run(cells: list[dict], seconds: int, alone: bool) -> dict[str, str | None]:
    """Run the cells in a process of its own; id of each check that was reached -> what went wrong, or None."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "cells.json").write_text(json.dumps(cells))
        command = [sys.executable, "-c", RUN, "cells.json", "checks.jsonl", str(seconds), "alone" if alone else ""]
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "PYTHONPATH", "OMP_NUM_THREADS") if key in os.environ}
        environment = {**kept, "HOME": name, "GCL_MODE": "tiny", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            [*(["unshare", "-rn"] * alone), *command],
            cwd=home, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
        checks = home / "checks.jsonl"
        return dict(json.loads(line) for line in checks.read_text().splitlines()) if checks.exists() else {}


def _network_of_its_own() -> bool:
    """Whether this user may start a process that has no network."""
    return (
        bool(shutil.which("unshare")) and not subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode
    )
