"""gcl teach grade: points for the exercises of a class's notebooks."""

import csv
import hashlib
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

from gcl_toolkit.cli.common import Commands, app, console, progress
from gcl_toolkit.errors import UserError

teach_app = Commands()
app.command(teach_app, name="teach", help="Grade the exercises of the notebooks.")

COLUMNS = ("file", "notebook", "exercise", "points", "of", "problem")
OTHERS = (".py", ".html", ".pdf", ".zip", ".txt", ".md")
"""What students hand in by mistake."""
MISSING = "raise LookupError('the cell of this exercise is missing from the copy')"
Cells = dict[str, dict[str, Any]]
RUN = """
import fcntl, json, resource, signal, socket, struct, sys
from IPython.core.interactiveshell import InteractiveShell
cells, out, seconds = json.load(open(sys.argv[1])), open(sys.argv[2], "w"), int(sys.argv[3])
if sys.argv[4] == "alone":  # in a network of its own: only the loopback interface, which starts down
    fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sH14x", b"lo", 1))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
shell, limit, failed = InteractiveShell(), max(1, seconds // 10), None
def stop(*_):
    raise TimeoutError(f"stopped after {limit} s")
signal.signal(signal.SIGALRM, stop)
for cell in cells:
    signal.alarm(limit * cell["limited"])
    error = (result := shell.run_cell(cell["source"], store_history=False)).error_in_exec or result.error_before_exec
    signal.alarm(0)
    problem = error and f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if cell["id"].startswith("exercise"):
        failed = problem
    elif cell["id"].startswith("check"):
        print(json.dumps([cell["id"], problem and (failed or problem)]), file=out, flush=True)
"""


@teach_app.command(name="grade")
def grade(
    folder: tyro.conf.Positional[Path],
    notebooks: Path = Path("notebooks/student"),
    out: Path = Path("points.csv"),
    seconds: int = 600,
) -> None:
    """Run the notebooks that students handed in, and write a table of points, a row an exercise.

    The cells of the exercises and those that the student added are taken from a student's copy; all others, the checks
    among them, are the original's. Each of a student's cells is stopped after a tenth of the limit, and the next one
    runs. Each copy runs in a process of its own in tiny mode, in an empty folder, with limits on time and file
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
    if others := [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.suffix in OTHERS]:
        console.print(f"note: not notebooks, not graded: {', '.join(others)}")
    alone = _network_of_its_own()
    if not alone:
        console.print("note: the network can't be cut off here; students' code can use it")
    rows: list[tuple] = []
    with progress() as bar:
        for path in bar.track(handed_in, description="notebooks"):
            rows += [(path.relative_to(folder), *row) for row in _points(path, originals, seconds, alone)]
    with out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    points, of = (sum(row[place] for row in rows) for place in (3, 4))
    console.print(f"{len(handed_in)} notebooks, {points} of {of} points: {out}")


def _cells(path: Path) -> Cells:
    """Id -> cell. Raises UserError for a file that isn't a notebook.

    Programs that don't keep ids keep metadata: an exercise is known by the name that nbgrader gave it, any other cell
    by its first line, as `notebooks/build.py` makes ids. The parts of a cell that was split are joined.
    """
    cells: Cells = {}
    try:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            id = cell.get("id") or hashlib.sha256(source.strip().split("\n")[0].encode()).hexdigest()[:8]
            id = cell.get("metadata", {}).get("nbgrader", {}).get("grade_id", id)
            before = cells[id]["source"] + "\n" if id in cells else ""
            cells[id] = {**cell, "id": id, "source": before + source}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path.name} is not a notebook with cells ({type(error).__name__}: {error})") from None
    return cells


def _code(original: Cells, cells: Cells) -> list[dict[str, Any]]:
    """The original's code, with the exercises and the added cells of a student's copy."""
    added: list[dict[str, Any]] = []
    before: dict[str, list[dict[str, Any]]] = {}
    for id, cell in cells.items():
        if id in original:
            before[id], added = added, []
        elif cell["cell_type"] == "code":
            added.append({"id": "added", "source": cell["source"], "limited": True})
    code = []
    for id, cell in original.items():
        exercise = id.startswith("exercise")
        source = cells.get(id, {"source": MISSING})["source"] if exercise else cell["source"]
        code += before.get(id, [])
        if cell["cell_type"] == "code" and "%pip" not in source:
            code.append({"id": id, "source": source, "limited": exercise or id.startswith("check")})
    return code


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
    problems = _run(_code(original, cells), seconds, alone)
    for id, cell in original.items():
        if id.startswith("check"):
            problem = problems.get(id, f"not reached: the time limit of {seconds} s, or the process ended")
            of = cell["metadata"]["nbgrader"]["points"]
            yield name, id.replace("check", "exercise"), 0 if problem else of, of, problem or ""


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
            cwd=home, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
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
