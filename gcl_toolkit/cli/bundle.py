"""The app: gcl bundle, gcl app, gcl space."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import tyro

from gcl_toolkit.cli.common import app, console
from gcl_toolkit.cli.studies import train_study
from gcl_toolkit.errors import UserError
from gcl_toolkit.files import writable_folder
from gcl_toolkit.machine import version
from gcl_toolkit.studies.study import StudyConfig, open_study, read_study
from gcl_toolkit.studies.worlds import World, WorldSpec, specs_of
from gcl_toolkit.training.config import TrainConfig

SMALL_SHOP = WorldSpec("shop", "shop:products=1500,queries=300,per_query=30,size=128")
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
        world = _first_world(study, data, complete)
        path = write_bundle(study, world, out or study / "bundle", weights=weights, progress=status.update)
    console.print(f"next: gcl app --bundle {path}", soft_wrap=True)


@app.command(name="app")
def app_command(bundle: Path | None = None, port: int | None = None, open: bool = False, mcp: bool = False) -> None:
    """Explore a bundle in the browser, on 127.0.0.1; without a bundle, a small shop is generated and trained on first.

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


def _first_world(study: Path, data: str | None, complete: str | None) -> World:
    specs = (
        specs_of(data, complete=(complete or "").split(",") if complete else ()) if data else open_study(study).worlds
    )
    if not specs:
        raise UserError(f"{study} doesn't record where its data is; give it with --data")
    return replace(specs[0], name=str(read_study(study)["world"].iloc[0])).open()


def _make_small_bundle(folder: Path) -> None:
    from gcl_toolkit.views.bundle.writing import write_bundle

    console.print("no bundle yet: generating a small shop and training three models takes one or two minutes")
    world, study = SMALL_SHOP.open(), writable_folder(folder.parent) / "study"
    config = StudyConfig(("clip", "clip-top", "graded"), train=TrainConfig(steps=150), evaluate_every=25)
    train_study([world], config, study, jobs=0)
    with console.status("bundle") as status:
        write_bundle(study, world, folder, progress=status.update)
