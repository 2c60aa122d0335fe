"""gcl teach grade: a class's notebooks, run for real."""

import csv
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from notebooks import build

NOTEBOOKS = Path(__file__).parents[1] / "notebooks/student"
SOURCE = """\
# %% [markdown]
# # 1. Doubling

# %%
import math
text = "not part of an exercise"

# %%
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %%
assert [double(x) for x in (0, 1, 5)] == [0, 2, 10], "exercise: twice the number"

# %%
def half(x):
    ### BEGIN SOLUTION
    return x / 2
    ### END SOLUTION

# %%
assert half(3) == 1.5, "exercise: half of the number"
"""


@pytest.fixture
def given(tmp_path, monkeypatch):
    """The copy that was given out, written as the real ones are."""
    monkeypatch.setattr(build, "HERE", tmp_path / "notebooks")
    path = build.HERE / "student" / "01_doubling.ipynb"
    path.parent.mkdir(parents=True)
    build.write(build.for_students(jupytext.reads(SOURCE, "py:percent")), path)
    return path


def hand_in(folder, student, given, change=lambda cells: None, **sources):
    notebook = json.loads(given.read_text())
    for cell in notebook["cells"]:
        cell["source"] = sources.get(cell["id"].replace("-", "_"), cell["source"])
    change(notebook["cells"])
    place = folder / student / f"{given.stem} (1).ipynb"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(notebook))


def graded(folder, given, *options):
    table = folder.parent / "points.csv"
    command = [sys.executable, "-m", "gcl_toolkit.cli", "teach", "grade", str(folder), "--out", str(table)]
    done = subprocess.run([*command, "--notebooks", str(given.parent), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(" ".join(done.stdout.split()))
    with table.open() as file:
        return {(row["file"].split("/")[0], row["exercise"]): row for row in csv.DictReader(file)}


DOUBLE, HALF = "def double(x):\n    return 2 * x", "def half(x):\n    return x / 2"


def test_a_class_gets_points_and_reasons(tmp_path, given):
    folder = tmp_path / "class"
    hand_in(folder, "ada", given, exercise_1=DOUBLE, exercise_2=HALF)
    hand_in(folder, "bob", given, exercise_1=DOUBLE.replace("2", "3"), check_1="pass", exercise_2=HALF)
    hand_in(folder, "cleo", given)
    hand_in(folder, "dan", given, exercise_1="def double(x) return", exercise_2="exit()")
    (folder / "eve.ipynb").write_text("{}")
    rows = graded(folder, given)
    points = {key: row["points"] + row["of"] for key, row in rows.items() if key[1]}
    assert [points[who, f"exercise-{n}"] for who in ("ada", "bob", "cleo", "dan") for n in (1, 2)] == [
        "11", "11", "01", "11", "01", "01", "01", "01",
    ]  # fmt: skip
    assert rows["bob", "exercise-1"]["problem"] == "AssertionError: exercise: twice the number"
    assert rows["cleo", "exercise-2"]["problem"].startswith("NotImplementedError")
    assert rows["dan", "exercise-1"]["problem"].startswith("SyntaxError: ")  # not what the check meets later
    assert "not a notebook" in rows["eve.ipynb", ""]["problem"]
    assert {row["notebook"] for row in rows.values()} == {"01_doubling", ""}


def test_a_foreign_notebook_is_named(tmp_path, given):
    foreign = tmp_path / "class" / "x.ipynb"
    foreign.parent.mkdir()
    shutil.copy(NOTEBOOKS / "02_the_loss.ipynb", foreign)
    assert "not a copy of" in graded(foreign.parent, given)["x.ipynb", ""]["problem"]


def test_a_loop_that_never_ends_costs_only_its_exercise(tmp_path, given):
    folder = tmp_path / "class"
    hand_in(folder, "eve", given, exercise_1="while True: pass", exercise_2=HALF)
    hand_in(folder, "fay", given, exercise_1=DOUBLE.replace("2 * x", "input()"), exercise_2="import os; os.kill(0, 9)")
    rows = graded(folder, given, "--seconds", "50")
    assert rows["eve", "exercise-1"]["problem"] == "TimeoutError: stopped after 5 s"
    assert rows["eve", "exercise-2"]["points"] == "1"
    assert "EOFError" in rows["fay", "exercise-1"]["problem"] or "input" in rows["fay", "exercise-1"]["problem"]
    assert rows["fay", "exercise-2"]["problem"].startswith("not reached: the time limit of 50 s")


def test_cells_that_students_delete_split_and_add_and_copies_without_ids(tmp_path, given, capsys):
    folder, places = (
        tmp_path / "class",
        {cell["id"]: n for n, cell in enumerate(json.loads(given.read_text())["cells"])},
    )

    def without_ids(cells):
        for cell in cells:
            cell["metadata"]["id"] = cell.pop("id") + "x"

    def with_helper(cells):
        cells.insert(
            2, {"cell_type": "code", "id": "0a1b2c3d-new", "metadata": {}, "source": ["def twice(x): return 2 * x"]}
        )

    def split(cells):
        first = cells[places["exercise-1"]]
        cells.insert(places["exercise-1"], first | {"id": "12345678-new", "source": "def twice(x): return 2 * x"})

    uses_helper = "def double(x):\n    return twice(x)"
    hand_in(folder, "ada", given, without_ids, exercise_1=DOUBLE, exercise_2=HALF)
    hand_in(folder, "bob", given, with_helper, exercise_1=uses_helper)
    hand_in(folder, "cleo", given, split, exercise_1=uses_helper)
    hand_in(folder, "dan", given, lambda cells: cells.pop(places["exercise-1"]), exercise_2=HALF)
    (folder / "dan" / "notebook.html").write_text("")
    rows = graded(folder, given)
    points = "".join(rows[who, f"exercise-{n}"]["points"] for who in ("ada", "bob", "cleo", "dan") for n in (1, 2))
    assert points == "11101001"
    printed = capsys.readouterr().out
    assert "not graded: dan/notebook.html" in printed
    assert "5 of 8 points" in printed
    assert rows["dan", "exercise-1"]["problem"] == "LookupError: the cell of this exercise is missing from the copy"


@pytest.mark.skipif(subprocess.run(["unshare", "-rn", "true"]).returncode != 0, reason="needs user namespaces")
def test_students_code_has_no_network_and_no_secrets(tmp_path, given, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    folder = tmp_path / "class"
    with socket.create_server(("127.0.0.1", 0)) as server:
        reach = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)\n{DOUBLE}"
        hand_in(
            folder,
            "eve",
            given,
            exercise_1=reach,
            exercise_2=f"import os\n{HALF}\nif os.environ.get('HF_TOKEN'): half = str",
        )
        rows = graded(folder, given)
    assert "ConnectionRefusedError" in rows["eve", "exercise-1"]["problem"]
    assert rows["eve", "exercise-2"]["points"] == "1"


def test_every_students_copy_has_exercises_with_checks_after_which_run_all_goes_on():
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = {cell["id"]: cell for cell in json.loads(path.read_text())["cells"]}
        checks = [cell for id, cell in cells.items() if id.startswith("check")]
        assert checks
        assert all(cell["metadata"]["tags"] == ["raises-exception"] for cell in checks)
        assert len(checks) == sum(id.startswith("exercise") for id in cells)
        assert len({cell["metadata"]["nbgrader"]["grade_id"] for cell in checks}) == len(checks)


@pytest.mark.slow
def test_a_real_notebook_is_graded(tmp_path):
    given, folder = NOTEBOOKS / "01_why_binary_loses.ipynb", tmp_path / "class"
    right = (
        "def even_weights(position_M, logit_scale):\n    return torch.exp(-0.05 * logit_scale * position_M.double())"
    )
    hand_in(folder, "ada", given, exercise_1=right)
    hand_in(folder, "bob", given, exercise_1=right.replace("0.05", "0.06"))
    rows = graded(folder, given)
    assert rows["ada", "exercise-1"]["points"] == "1"
    assert "neighbours are 0.05 apart" in rows["bob", "exercise-1"]["problem"]


@pytest.mark.parametrize("given", ["nowhere", "empty"])
def test_a_folder_without_notebooks_is_an_error(tmp_path, given):
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "gcl_toolkit.cli", "teach", "grade", str(tmp_path / given)]
    done = subprocess.run([*command, "--notebooks", str(NOTEBOOKS)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "has no .ipynb file" in done.stderr
