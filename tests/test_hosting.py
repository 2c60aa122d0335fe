"""The folder for Hugging Face Spaces: what it contains, and that it starts with only its requirements installed."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import big_bundle
import pytest

from gcl_toolkit import UserError
from gcl_toolkit.cli import main
from gcl_toolkit.serving.hosting import check_space, package_folder, write_space
from gcl_toolkit.views.bundle import read_bundle

if importlib.util.find_spec("gradio") is None:
    pytest.skip("gradio is not installed; pip install -e '.[app]'", allow_module_level=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return big_bundle.make(tmp_path_factory.mktemp("hosting") / "bundle", 200)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package as a wheel installs it, away from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "tests", "notebooks", "docs", "data")
    root = package_folder("gcl_toolkit").parent
    sources = lambda path, names: ignore(path, names) if path == str(root) else ()  # noqa: E731
    shutil.copytree(root, folder / "source", ignore=sources)
    pip = f"-m pip wheel -q --no-deps --no-build-isolation -w {folder} ./source"
    subprocess.run([sys.executable, *pip.split()], cwd=folder, check=True)
    shutil.unpack_archive(next(folder.glob("*.whl")), folder / "site", "zip")
    return folder / "site"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_folder_has_a_header_pinned_requirements_and_starts_in_a_clean_environment(bundle, tmp_path):
    folder = write_space(bundle, tmp_path / "space", title='A "title": here')
    header = (folder / "README.md").read_text().split("---")[1]
    options = dict(line.split(": ", 1) for line in header.strip().splitlines())
    assert options["sdk"] == "gradio"
    assert (folder / options["app_file"]).is_file()
    assert options["python_version"] == f'"{sys.version_info.major}.{sys.version_info.minor}"'
    assert options["title"] == r'"A \"title\": here"'
    requirements = (folder / "requirements.txt").read_text().split()
    assert all("==" in line for line in requirements)
    assert f"gradio=={options['sdk_version']}" in requirements
    assert not [line for line in requirements if line.startswith("torch")]
    assert check_space(folder, port=free_port()) > 0


@pytest.mark.slow
def test_the_check_finds_a_missing_requirement(bundle, tmp_path):
    folder = write_space(bundle, tmp_path / "space")
    lines = (folder / "requirements.txt").read_text().splitlines(keepends=True)
    (folder / "requirements.txt").write_text("".join(line for line in lines if not line.startswith("plotly")))
    with pytest.raises(UserError, match=r"does not serve gcl/plotly.js with only its requirements installed"):
        check_space(folder, port=free_port())


def test_weights_are_left_out_of_a_plain_space(small_study, tmp_path):
    plain = write_space(small_study / "bundle", tmp_path / "plain")
    assert not list(plain.rglob("*.safetensors"))
    assert not any(s.vectors.weights for s in read_bundle(plain / "bundle").systems.values() if s.vectors)


@pytest.mark.slow
def test_a_full_space_searches_any_text(small_study, tmp_path):
    bundle = small_study / "bundle"
    plain, full = write_space(bundle, tmp_path / "plain"), write_space(bundle, tmp_path / "full", full=True)
    assert all(s.vectors.weights for s in read_bundle(full / "bundle").systems.values() if s.vectors)
    assert "torch==" in (full / "requirements.txt").read_text()
    assert check_space(full, port=free_port()) > 0
    shutil.copy(plain / "requirements.txt", full)
    with pytest.raises(UserError, match=r"does not serve gcl/comparison.html\?tab=compare&query="):
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
    code = "import spaces, gcl_toolkit.app.encode; print(spaces.marked)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout.strip() == "['_embed_text', '_embed_image']", done.stderr


@pytest.mark.slow
def test_a_wheel_holds_every_file_and_its_app_starts_away_from_the_checkout(installed, bundle, tmp_path):
    for package in ("gcl_toolkit", "gcl_toolkit.app"):
        source, target = package_folder(package), installed / package.replace(".", "/")
        files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert [path for path in files if not (target / path.relative_to(source)).is_file()] == []
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))  # without its .pth files
    port, env = free_port(), {"PYTHONPATH": f"{installed}:{dependencies}", "HOME": str(tmp_path), "PATH": os.defpath}
    command = [sys.executable, "-S", "-m", "gcl_toolkit.cli", "app", "--bundle", str(bundle), "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, env=env)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/gcl/point/0") as answer:
                assert answer.status == 200
                break
            assert server.poll() is None, "the app ended before it answered"
            time.sleep(0.3)
        assert str(installed) in Path(f"/proc/{server.pid}/environ").read_text()
        assert "libtorch" not in Path(f"/proc/{server.pid}/maps").read_text()
    finally:
        server.terminate()
        server.wait(30)
