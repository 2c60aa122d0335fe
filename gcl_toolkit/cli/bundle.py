"""The app: gcl bundle, gcl app, gcl space."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tyro

from gcl_toolkit.cli.common import app, console, study_worlds
from gcl_toolkit.errors import UserError
from gcl_toolkit.files import writable_folder
from gcl_toolkit.machine import version

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
    """Put everything that the app needs of a study into one folder.

    Args:
        study: the folder of a study.
        out: the folder to write; by default `bundle` in the study.
        data: where the data of the study is now, if it was moved; by default as recorded in the study.
        complete: as in gcl compare; only with --data.
        weights: include the models, so that the app can search any text.
    """
    from gcl_toolkit.views.bundle.writing import write_bundle

    with console.status("reading the data") as status:
        (world,) = study_worlds(study, data, complete, most=1)
        path = write_bundle(study, world, out or study / "bundle", weights=weights, progress=status.update)
    console.print(f"next: gcl app --bundle {path}", soft_wrap=True)


@app.command(name="app")
def app_command(bundle: Path | None = None, port: int | None = None, open: bool = False, mcp: bool = False) -> None:
    """Explore a bundle in the browser, on 127.0.0.1; without one, a small shop is made first.

    Args:
        bundle: a folder made by gcl bundle; by default runs/app/bundle.
        port: by default the first free port from 7860.
        open: open the browser, too.
        mcp: serve MCP as well, so that language models can search and compare; needs the extra mcp.
    """
    if version("gradio") is None:
        raise UserError("gradio is not installed; pip install 'gcl-toolkit[app]'")
    folder = bundle or Path("runs/app/bundle")
    if bundle is None and not (folder / "manifest.json").is_file():
        _make_small_bundle(folder)
    options = [*(["--port", str(port)] if port else []), *(["--open"] * open), *(["--mcp"] * mcp)]
    command = [sys.executable, "-m", "gcl_toolkit.app.app", str(folder), *options]
    os.execv(sys.executable, command)  # a new process, which doesn't import torch


@space_app.command(name="build")
def build(
    out: tyro.conf.Positional[Path],
    bundle: Path = Path("runs/app/bundle"),
    title: str = "GCL Toolkit",
    full: bool = False,
    check: bool = True,
) -> None:
    """Write a folder that can be uploaded to Hugging Face Spaces, and start it in a clean environment.

    Args:
        out: the folder; an older Space there is replaced.
        bundle: a folder made by gcl bundle.
        title: title of the demo.
        full: with torch and the models, to search any text and picture; otherwise the stored queries only.
        check: start it, offline, with nothing but its requirements installed.
    """
    from gcl_toolkit.serving.hosting import check_space, write_space

    folder = write_space(bundle, out, title=title, full=full)
    if check:
        with console.status("starting the Space in a clean environment"):
            console.print(f"the Space answered after {check_space(folder):.0f} s")
    console.print(f"next: hf upload --repo-type space NAME {folder} .", soft_wrap=True)


def _make_small_bundle(folder: Path) -> None:
    from gcl_toolkit.cli.studies import train_study
    from gcl_toolkit.studies.study import StudyConfig
    from gcl_toolkit.studies.worlds import WorldSpec
    from gcl_toolkit.training.config import TrainConfig
    from gcl_toolkit.views.bundle.writing import write_bundle

    console.print("no bundle yet: generating a small shop and training three models takes one or two minutes")
    world = WorldSpec("shop", "shop:products=1500,queries=300,per_query=30,size=128").open()
    study = writable_folder(folder.parent) / "study"
    config = StudyConfig(("clip", "clip-top", "graded"), train=TrainConfig(steps=150), evaluate_every=25)
    train_study([world], config, study, jobs=0)
    with console.status("bundle") as status:
        write_bundle(study, world, folder, progress=status.update)
