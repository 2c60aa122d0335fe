"""A folder that Hugging Face Spaces takes as it is, and a check that it starts where nothing else is installed."""

from __future__ import annotations

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

from gcl_toolkit.bundle import Bundle, read_bundle
from gcl_toolkit.errors import UserError
from gcl_toolkit.runs import write_json

NEEDS = ("gradio", "numpy", "pandas", "pyarrow", "pillow", "plotly")
FULL = ("torch", "torchvision", "open_clip_torch", "safetensors", "tyro")
"""What searching any text and any picture needs besides."""
HOME = Path(__file__).parents[1]
VIEWS = ("gcl/point/0", "", "gcl/comparison.html", "gcl/queries.csv", "gcl/plotly.js")
"""What the check asks a started Space for; between them they import all that its pages do."""
START = '''"""The entry on Hugging Face Spaces."""

from app.app import launch, open_service

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

{about}
"""


def write_space(bundle: str | Path, out: str | Path, *, title: str = "GCL Toolkit", full: bool = False) -> Path:
    """Write README.md, requirements.txt, space.py, the app, the package and the bundle to a new or older such folder.

    full: with torch and the models themselves, so that any text can be searched; else the stored queries alone.
    Raises UserError when `out` holds something else, or the bundle has no models to be full with.
    """
    opened, out = read_bundle(bundle), Path(out)
    if not (HOME / "app" / "app.py").is_file():
        raise UserError("the app lies beside the package, not in it; clone the repository and run gcl there")
    if full and all(ranker.weights is None for ranker in opened.models.values()):
        raise UserError(f"{bundle} holds no models; make it with `gcl bundle`, or leave --full out")
    if out.exists() and any(out.iterdir()) and not (out / "space.py").is_file():
        raise UserError(f"{out} holds other files; choose another folder")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(bundle, out / "bundle")
    if not full:
        _leave_weights_out(out / "bundle")
    for package in ("app", "gcl_toolkit"):
        shutil.copytree(HOME / package, out / package, ignore=shutil.ignore_patterns("__pycache__"))
    names = [*NEEDS, *(FULL if full else ())]
    (out / "requirements.txt").write_text("".join(f"{name}=={metadata.version(name)}\n" for name in names))
    (out / "space.py").write_text(START)
    world, python = opened.manifest["world"], f"{sys.version_info.major}.{sys.version_info.minor}"
    about = f"What does training on ranking scores change? {len(opened.models)} models on {world}, product by product."
    header = {"title": json.dumps(title), "gradio": metadata.version("gradio"), "python": python, "about": about}
    (out / "README.md").write_text(HEADER.format(**header))
    return out


def _leave_weights_out(bundle: Path) -> None:
    for folder in bundle.glob("models/*/weights"):
        shutil.rmtree(folder)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for said in manifest["models"].values():
        said["weights"] = False
    manifest["files"] = {name: digest for name, digest in manifest["files"].items() if (bundle / name).is_file()}
    write_json(bundle / "manifest.json", manifest)


# -- the check ---------------------------------------------------------------------------------------------------------


def check_space(folder: str | Path, *, port: int = 7861, patience: float = 180) -> float:
    """Start a Space's folder in an environment that has its requirements and nothing else; seconds until it answers.

    A full one also has to search a text that isn't stored. Offline: the packages are linked from here. Raises UserError
    with the last lines of its output when it fails.
    """
    folder = Path(folder).resolve()
    views = (*VIEWS, *_typed(read_bundle(folder / "bundle")))
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile("w+") as output:
        python = _clean_python(Path(place), (folder / "requirements.txt").read_text().split())
        said = {"PATH": os.defpath, "HOME": place, "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        start = time.monotonic()
        process = subprocess.Popen([python, "space.py"], cwd=folder, env=said, stdout=output, stderr=output)
        try:
            while process.poll() is None and time.monotonic() < start + patience:
                if _answers(f"http://127.0.0.1:{port}/{VIEWS[0]}", 10):
                    seconds = time.monotonic() - start
                    silent = [view for view in views if not _answers(f"http://127.0.0.1:{port}/{view}", patience)]
                    if not silent:
                        return seconds
                    break
                time.sleep(0.3)
            else:
                silent = ["anything"]
        finally:
            process.terminate()
            process.wait(30)
        output.seek(0)
        told = "".join(output.readlines()[-12:])
        raise UserError(f"{folder} does not answer for {', '.join(silent)} with its requirements alone:\n{told}")


def _typed(bundle: Bundle) -> list[str]:
    """The comparison of a text that isn't stored, by the words of one that is; where a model can embed it."""
    fields = [bundle.manifest["models"][name]["query"] for name, ranker in bundle.models.items() if ranker.weights]
    if not fields or fields[0] is None:
        return []
    text = bundle.queries[fields[0]].iloc[0]
    return [f"gcl/comparison.html?query={urllib.parse.quote(f'{text} {text}', safe='')}"]


def _answers(url: str, patience: float) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=patience) as answer:
            return answer.status == 200
    except OSError:
        return False


def _clean_python(place: Path, requirements: list[str]) -> Path:
    """A new environment in which only the requirements, and what they require, can be imported."""
    venv.create(place / "clean", with_pip=False, symlinks=True)
    site = next((place / "clean").glob("lib/python*/site-packages"))
    for name in _closure([requirement.split("==")[0] for requirement in requirements]):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."} - {"__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    return place / "clean" / "bin" / "python"


def _closure(names: list[str]) -> set[str]:
    """The distributions and all that they require here, by normalised name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    waiting = [(canonicalize_name(name), frozenset[str]()) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        for line in metadata.distribution(name).requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in (extras or {""})):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return found
