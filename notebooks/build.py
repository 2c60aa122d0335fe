"""Build each NN_name.py into NN_name.ipynb, executed and with static figures, and into student/NN_name.ipynb, without
solutions and outputs: `make notebooks`, or `python notebooks/build.py 01 02` for some of them. After a change of
REPOSITORY or of the version, `python notebooks/build.py --setup` renews the badges and set-up cells alone.

Figures are drawn by kaleido, which needs Chromium or Chrome (set BROWSER_PATH if it isn't found).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

import jupytext
import kaleido
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
REPOSITORY = "OWNER/gcl-toolkit"
"""Where it is on GitHub, for Colab and Binder: the one place to change."""
TINY = ("10",)
"""Shown in their small version, with a hub on this machine: the full one needs the real hub."""
VERSION = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]
FIGURE = "application/vnd.plotly.v1+json"
WIDTH, SCALE = 760, 1.5
COLAB = "https://colab.research.google.com"
BADGES = """\
[![Open in Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{repository}/blob/{tag}/{path})
[![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/{repository}/{tag}?urlpath=lab/tree/{path})
"""
SETUP = """\
# Colab lacks the library; this takes a minute and keeps Colab's PyTorch and Jupyter.
# Elsewhere nothing happens here.
import importlib.util

if not importlib.util.find_spec("gcl_toolkit"):
    %pip install -q "gcl-toolkit[lessons] @ git+https://github.com/{repository}@{tag}"
"""
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION", re.S | re.M)
BLANK = r"\1# YOUR CODE HERE\n\1raise NotImplementedError()"


def build(source: Path) -> None:
    notebook = jupytext.read(source)
    write(for_students(notebook), HERE / "student" / f"{source.stem}.ipynb")
    NotebookClient(
        notebook,
        timeout=1800,
        coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
    ).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if FIGURE in output.get("data", {}):
                output.data = {"image/png": picture(output.data[FIGURE])}
    write(notebook, source.with_suffix(".ipynb"))


def with_setup(notebook, path: Path):
    """The notebook with badges and a set-up cell, as they are now, after its first cell."""
    where = {"colab": COLAB, "repository": REPOSITORY, "tag": f"v{VERSION}"}
    where["path"] = path.relative_to(HERE.parent).as_posix()
    starts = tuple(text.split("{")[0] for text in (BADGES, SETUP))
    cells = [cell for cell in notebook.cells if not cell.source.startswith(starts)]
    cells[1:1] = [
        nbformat.v4.new_markdown_cell(BADGES.format(**where).strip()),
        nbformat.v4.new_code_cell(SETUP.format(**where).strip()),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def with_address(text: str) -> str:
    """A document whose links to Colab and Binder have the repository and version as they are now."""
    place = (
        r"(research\.google\.com/github/|mybinder\.org/v2/gh/)[\w.-]+/[\w.-]+(/blob)?/v[\w.]+"
    )
    return re.sub(place, rf"\g<1>{REPOSITORY}\g<2>/v{VERSION}", text)


def for_students(notebook):
    """The notebook without solutions. "Run all" goes on after an exercise that isn't solved."""
    student = nbformat.from_dict(notebook)
    for cell in student.cells:
        cell.source = SOLUTION.sub(BLANK, cell.source)
    return student


def exercise_cells(cells) -> dict[int, tuple[str, dict]]:
    """Place of each exercise and of its check, the next cell with code -> id and metadata, nbgrader's among it."""
    marked, code = {}, [place for place, cell in enumerate(cells) if cell.cell_type == "code"]
    places = [place for place in code if "# YOUR CODE HERE" in cells[place].source]
    for number, place in enumerate(places, 1):
        check = code[code.index(place) + 1]
        exercise = {"solution": True, "grade": False, "locked": False}
        graded = {"solution": False, "grade": True, "locked": True, "points": 1}
        for where, name, about in ((place, "exercise", exercise), (check, "check", graded)):
            about |= {
                "grade_id": f"{name}-{number}",
                "cell_type": "code",
                "schema_version": 3,
                "task": False,
            }
            marked[where] = (f"{name}-{number}", {"nbgrader": about})
        marked[check][1]["tags"] = ["raises-exception"]
    return marked


def cell_ids(cells) -> list[str]:
    """Ids that stay when other cells are added: a hash of the first line, numbered where several begin alike."""
    seen: Counter = Counter()
    ids = []
    for cell in cells:
        name = hashlib.sha256(cell.source.strip().split("\n")[0].encode()).hexdigest()[:8]
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return ids


def picture(figure: dict) -> str:
    size = {"width": WIDTH, "height": figure["layout"].get("height", 450), "scale": SCALE}
    png = kaleido.calc_fig_sync(
        {"data": figure["data"], "layout": figure["layout"]}, opts={"format": "png", **size}
    )
    small = io.BytesIO()
    Image.open(io.BytesIO(png)).quantize(256, method=Image.Quantize.FASTOCTREE).save(
        small, "PNG", optimize=True
    )
    return base64.b64encode(small.getvalue()).decode()


def write(notebook, path: Path) -> None:
    """Write with badges and set-up; ids and metadata don't change from run to run."""
    notebook = with_setup(notebook, path)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    marked = exercise_cells(notebook.cells)
    for place, (name, cell) in enumerate(
        zip(cell_ids(notebook.cells), notebook.cells, strict=True)
    ):
        cell.id, cell.metadata = marked.get(place, (name, {}))
        if cell.cell_type == "code":  # warnings and progress bars name this machine's folders
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = {}
    nbformat.validate(notebook)
    path.parent.mkdir(exist_ok=True)
    path.write_text(nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--setup"]:
        for path in (*HERE.glob("[0-9]*.ipynb"), *HERE.glob("student/*.ipynb")):
            write(nbformat.read(path, as_version=4), path)
        learn = HERE.parent / "docs/LEARN.md"
        learn.write_text(with_address(learn.read_text()))
        sys.exit()
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
    os.environ["PYTHONPATH"] = str(HERE.parent)  # this checkout's library, not an installed one
    from facts import local_hub

    prefixes = tuple(sys.argv[1:]) or ("",)
    kaleido.start_sync_server(n=1)
    for source in sorted(HERE.glob("[0-9][0-9]_*.py")):
        if source.name.startswith(prefixes):
            tiny = source.name.startswith(TINY)
            os.environ["GCL_MODE"] = "tiny" if tiny else "full"
            with local_hub() if tiny else contextlib.nullcontext():
                build(source)
            print(source.with_suffix(".ipynb").name)
    kaleido.stop_sync_server()
