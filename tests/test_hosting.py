"""The folder for Hugging Face Spaces: what it holds, and that it starts with its requirements alone."""

import importlib.util
import shutil
import socket
import subprocess
import sys

import big_bundle
import pytest
import small_bundle

from gcl_toolkit import UserError
from gcl_toolkit.bundle import read_bundle
from gcl_toolkit.cli import main
from gcl_toolkit.hosting import HOME, check_space, write_space

if importlib.util.find_spec("gradio") is None:
    pytest.skip("gradio is not installed; pip install -e '.[app]'", allow_module_level=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return big_bundle.make(tmp_path_factory.mktemp("hosting") / "bundle", 200)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_folder_has_a_header_pinned_requirements_and_starts_in_a_clean_environment(bundle, tmp_path):
    folder = write_space(bundle, tmp_path / "space", title='A "title": here')
    header = (folder / "README.md").read_text().split("---")[1]
    said = dict(line.split(": ", 1) for line in header.strip().splitlines())
    assert said["sdk"] == "gradio"
    assert (folder / said["app_file"]).is_file()
    assert said["python_version"] == f'"{sys.version_info.major}.{sys.version_info.minor}"'
    assert said["title"] == r'"A \"title\": here"'
    requirements = (folder / "requirements.txt").read_text().split()
    assert all("==" in line for line in requirements)
    assert f"gradio=={said['sdk_version']}" in requirements
    assert not [line for line in requirements if line.startswith("torch")]
    assert check_space(folder, port=free_port()) > 0


def test_the_check_sees_a_requirement_that_is_not_named(bundle, tmp_path):
    folder = write_space(bundle, tmp_path / "space")
    lines = (folder / "requirements.txt").read_text().splitlines(keepends=True)
    (folder / "requirements.txt").write_text("".join(line for line in lines if not line.startswith("plotly")))
    with pytest.raises(UserError, match=r"does not answer for gcl/plotly.js with its requirements alone"):
        check_space(folder, port=free_port())


def test_weights_are_left_out_unless_the_space_is_full_which_then_searches_any_text(tmp_path):
    bundle = small_bundle.make(tmp_path / "study")
    plain, full = write_space(bundle, tmp_path / "plain"), write_space(bundle, tmp_path / "full", full=True)
    assert not list(plain.rglob("*.safetensors"))
    assert all(ranker.weights is None for ranker in read_bundle(plain / "bundle").models.values())
    assert all(ranker.weights for ranker in read_bundle(full / "bundle").models.values())
    assert "torch==" in (full / "requirements.txt").read_text()
    assert check_space(full, port=free_port()) > 0
    shutil.copy(plain / "requirements.txt", full)
    with pytest.raises(UserError, match=r"does not answer for gcl/comparison.html\?query="):
        check_space(full, port=free_port())


def test_other_files_are_not_overwritten_and_a_full_space_needs_models(bundle, tmp_path, capsys):
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["space", "build", str(tmp_path), "--bundle", str(bundle), "--no-check"])
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "letters.txt").read_text() == "mine"
    with pytest.raises(UserError, match="holds no models"):
        write_space(bundle, tmp_path / "full", full=True)


def test_zero_gpu_marks_the_encoders_where_it_is_present(tmp_path):
    (tmp_path / "spaces.py").write_text(
        "marked = []\n\n\ndef GPU(function):\n    marked.append(function.__name__)\n    return function\n"
    )
    code = "import spaces, app.encode; print(spaces.marked)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=HOME, env={"PYTHONPATH": f"{tmp_path}:{HOME}"}, capture_output=True, text=True)
    assert done.stdout.strip() == "['_embed_text', '_embed_image']", done.stderr
