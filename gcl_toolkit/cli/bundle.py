"""The app: gcl bundle, gcl app, gcl space."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tyro

from gcl_toolkit import doctor as doctoring
from gcl_toolkit.cli.common import app, console, worlds_of
from gcl_toolkit.cli.studies import train_study
from gcl_toolkit.errors import UserError
from gcl_toolkit.runs import writable_folder
from gcl_toolkit.sources import load
from gcl_toolkit.study import StudyConfig, World
from gcl_toolkit.train import TrainConfig

space_app = tyro.extras.SubcommandApp()
app.command(space_app, name="space", help="The app as a hosted demo.")


@app.command(name="bundle")
def bundle_command(
    study: tyro.conf.Positional[Path],
    out: Path | None = None,
    data: str | None = None,
    complete: str | None = None,
    weights: bool = True,
) -> None:
    """Put all that the app needs of a study into one folder.

    Args:
        study: the folder of a study.
        out: the folder; bundle in the study by default.
        data: what the study was made of, "shop" or a file or folder; a recipe's is known.
        complete: as in gcl compare, where the study was made so.
        weights: put the models in too, so that the app searches any text.
    """
    from gcl_toolkit.bundle.writing import write_bundle

    world = worlds_of(study, data, complete)[0]
    with console.status("bundle") as status:
        path = write_bundle(study, world, out or study / "bundle", weights=weights, progress=status.update)
    console.print(f"next: gcl app --bundle {path}", highlight=False, soft_wrap=True)


@app.command(name="app")
def app_command(bundle: Path | None = None, port: int | None = None, open: bool = False, mcp: bool = False) -> None:
    """Look at a bundle in the browser, on 127.0.0.1; without one, a small shop is made and trained on first.

    Args:
        bundle: a folder made by gcl bundle; runs/app/bundle by default.
        port: the first free one from 7860 by default.
        open: also open the browser.
        mcp: also an MCP server, so that a language model's client searches and compares; needs the extra mcp.
    """
    home = Path(__file__).parents[2]
    if not (home / "app" / "app.py").is_file():
        raise UserError("the app lies beside the package, not in it; clone the repository and run: make app")
    if doctoring.version("gradio") is None:
        raise UserError("gradio is not installed; run: make app, or pip install 'gcl-toolkit[app]'")
    folder = bundle or Path("runs/app/bundle")
    if bundle is None and not (folder / "manifest.json").is_file():
        _make_small_bundle(folder)
    said = [str(folder.resolve()), *(["--port", str(port)] if port else []), *(["--open"] * open), *(["--mcp"] * mcp)]
    os.chdir(home)
    os.execv(sys.executable, [sys.executable, "-m", "app.app", *said])  # a new process, without torch


@space_app.command(name="build")
def build(
    out: tyro.conf.Positional[Path],
    bundle: Path = Path("runs/app/bundle"),
    title: str = "GCL Toolkit",
    full: bool = False,
    check: bool = True,
) -> None:
    """Assemble a folder that Hugging Face Spaces takes as it is, and start it in a clean environment.

    Args:
        out: the folder; an older one is replaced.
        bundle: a folder made by gcl bundle.
        title: of the demo.
        full: with torch and the models, so that any text and picture can be searched; else stored queries alone.
        check: start it, offline, where nothing but its requirements is installed.
    """
    from gcl_toolkit.hosting import check_space, write_space

    folder = write_space(bundle, out, title=title, full=full)
    if check:
        with console.status("starting it in a clean environment"):
            console.print(f"it answers {check_space(folder):.0f} s after its start", highlight=False)
    console.print(f"next: hf upload --repo-type space NAME {folder} .", highlight=False, soft_wrap=True)


def _make_small_bundle(folder: Path) -> None:
    from gcl_toolkit.bundle.writing import write_bundle

    console.print("no bundle yet: a small shop is generated and three models are trained on it, a minute or two")
    writable_folder(folder.parent)
    with console.status("generating the shop"):
        world = World("shop", load("shop", products=1_500, queries=300, per_query=30, size=128))
    config = StudyConfig(methods=("clip", "clip-top", "gcl-matrix"), train=TrainConfig(steps=150), evaluate_every=25)
    train_study([world], config, folder.parent / "study", jobs=0)
    with console.status("bundle") as status:
        write_bundle(folder.parent / "study", world, folder, progress=status.update)
