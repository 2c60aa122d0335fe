"""A folder for Hugging Face Spaces, and a check that it starts where nothing but its requirements is installed."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import venv
from importlib import metadata
from pathlib import Path

from gcl_toolkit.errors import UserError
from gcl_toolkit.files import write_json
from gcl_toolkit.views.bundle import Bundle, read_bundle

NEEDS = ("gradio", "numpy", "pandas", "pyarrow", "pillow", "plotly")
FULL = ("torch", "torchvision", "open_clip_torch", "safetensors", "tyro")
"""Also required to search any text and any picture."""
VIEWS = ("gcl/point/0", "", *(f"gcl/view?tab={tab}" for tab in ("verdict", "compare", "training")), "gcl/plotly.js")
"""What the check requests from a started Space; together they import everything that its pages need."""
START = '''"""The entry on Hugging Face Spaces."""

from gcl_toolkit.app.app import launch, open_service

launch(open_service("bundle"), host="0.0.0.0")
'''
HEADER = """---
title: {title}
emoji: 🔎
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: space.py
license: apache-2.0
---

What does training on ranking scores change? {models} systems on {world}, product by product.
"""


def write_space(bundle: str | Path, out: str | Path, *, title: str = "GCL Toolkit", full: bool = False) -> Path:
    """Write README.md, requirements.txt, space.py, the package, the app and the bundle; an older Space is replaced.

    full: with torch and the models, so that any text can be searched; otherwise the stored queries only. Raises
    UserError if `out` holds other files, or if a full Space is requested of a bundle without models.
    """
    opened, out = read_bundle(bundle), Path(out)
    if full and not any(system.vectors and system.vectors.weights for system in opened.systems.values()):
        raise UserError(f"{bundle} holds no models; make it with `gcl bundle`, or leave out --full")
    if out.exists() and any(out.iterdir()) and not (out / "space.py").is_file():
        raise UserError(f"{out} holds other files; choose another folder")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(bundle, out / "bundle")
    if not full:
        _remove_weights(out / "bundle")
    for package in ("gcl_toolkit", "gcl_toolkit.app"):  # in a checkout, the app is not inside the package
        target, ignore = out / package.replace(".", "/"), shutil.ignore_patterns("__pycache__")
        shutil.copytree(package_folder(package), target, ignore=ignore, dirs_exist_ok=True)
    names = [*NEEDS, *(FULL if full else ())]
    (out / "requirements.txt").write_text("".join(f"{name}=={metadata.version(name)}\n" for name in names))
    (out / "space.py").write_text(START)
    header = HEADER.format(
        title=json.dumps(title),
        gradio=metadata.version("gradio"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        models=len(opened.systems),
        world=opened.manifest["world"],
    )
    (out / "README.md").write_text(header)
    return out


def package_folder(name: str) -> Path:
    """Where a package's files are, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        raise UserError(f"{name} is not installed; install the package again: pip install gcl-toolkit")
    return Path(spec.origin).parent


def _remove_weights(bundle: Path) -> None:
    for folder in bundle.glob("*/*/weights"):
        shutil.rmtree(folder)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for entry in (manifest.get("systems") or manifest["models"]).values():
        (entry.get("vectors") or entry)["weights"] = False
    manifest["files"] = {name: digest for name, digest in manifest["files"].items() if (bundle / name).is_file()}
    write_json(bundle / "manifest.json", manifest)


# -- the check ---------------------------------------------------------------------------------------------------------


def check_space(folder: str | Path, *, port: int = 7861, timeout: float = 180) -> float:
    """Start a Space's folder in an environment with its requirements and nothing else; seconds until it answers.

    A full Space must also search a text that isn't stored. Works offline: installed packages are linked. Raises
    UserError with the last lines of the output if the check fails.
    """
    folder = Path(folder).resolve()
    views = (*VIEWS, *_new_text(read_bundle(folder / "bundle")))
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile("w+") as output:
        python = _clean_python(Path(home), (folder / "requirements.txt").read_text().split())
        env = {"PATH": os.defpath, "HOME": home, "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        started = time.monotonic()
        process = subprocess.Popen([python, "space.py"], cwd=folder, env=env, stdout=output, stderr=output)
        try:
            url = f"http://127.0.0.1:{port}/"
            while process.poll() is None and time.monotonic() < started + timeout and not _answers(url + VIEWS[0], 10):
                time.sleep(0.3)
            seconds = time.monotonic() - started
            failed = [view for view in views if not _answers(url + view, timeout)]
        finally:
            process.terminate()
            process.wait(30)
        if failed:
            output.seek(0)
            end = "".join(output.readlines()[-12:])
            raise UserError(f"{folder} does not serve {', '.join(failed)} with only its requirements installed:\n{end}")
    return seconds


def _new_text(bundle: Bundle) -> list[str]:
    """The comparison for a text that isn't stored, made of the words of a stored one; [] if no model can embed it."""
    fields = [s.vectors.query for s in bundle.systems.values() if s.vectors and s.vectors.weights]
    if not fields or fields[0] is None:
        return []
    text = bundle.queries[fields[0]].iloc[0]
    return [f"gcl/comparison.html?tab=compare&query={urllib.parse.quote(f'{text} {text}', safe='')}"]


def _answers(url: str, timeout: float) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status == 200
    except OSError:
        return False


def _clean_python(folder: Path, requirements: list[str]) -> Path:
    """A new environment in which only the requirements and their dependencies can be imported."""
    venv.create(folder / "clean", with_pip=False, symlinks=True)
    site = next((folder / "clean").glob("lib/python*/site-packages"))
    needed: set[tuple[str, frozenset[str]]] = set()
    for requirement in requirements:
        _add_dependencies(requirement.split("==")[0], frozenset(), needed)
    for distribution in (metadata.distribution(name) for name, _ in needed):
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."} - {"__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(distribution.locate_file(top)))
    return folder / "clean" / "bin" / "python"


def _add_dependencies(name: str, extras: frozenset[str], needed: set[tuple[str, frozenset[str]]]) -> None:
    """Add an installed distribution (with extras) and everything that it requires to `needed`."""
    from packaging.requirements import Requirement

    if (name, extras) in needed:
        return
    needed.add((name, extras))
    for line in metadata.distribution(name).requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            _add_dependencies(requirement.name, frozenset(requirement.extras), needed)
