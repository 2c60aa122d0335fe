"""The app: gcl bundle, gcl app, gcl space."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gcl_toolkit.cli.common import Commands, app, console, print_notes, study_worlds
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.files import writable_folder
from gcl_toolkit.machine import version

FOLDER = Path("runs/app")
"""What the app shows by default."""
space_app = Commands()
app.command(space_app, name="space", help="The app as a hosted demo.")


@dataclass(frozen=True)
class Runs:
    """Rankings of any systems, in place of a study."""

    run: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A file with a system's rankings, or NAME=file: TREC, ranx, BEIR, or a table; once for each of 2 to 5 systems."""
    qrels: Path | None = None
    """The judgements: TREC, BEIR, Quepid, OpenSearch, or a table."""
    products: Path | None = None
    """A table with product_id, title, image (a path) and any attributes."""
    queries: Path | None = None
    """A table with query_id and query, the text."""
    baseline: str | None = None
    """The system that the others are compared with; by default the last one."""
    category: str | None = None
    """The products' column to slice the queries by; by default "category"."""

    def write(self, out: Path) -> Path:
        """Write the bundle; no torch is needed."""
        from gcl_toolkit.data.runs import read_systems
        from gcl_toolkit.views.bundle.parts import write_runs

        if self.qrels is None:
            raise UserError("rankings need judgements to be measured; give them with --qrels")
        with console.status("reading the rankings"):
            data, rankings = read_systems(self.run, self.qrels, self.products, self.queries)
        print_notes(data)
        control = self.baseline or list(rankings)[-1]
        if control not in rankings:
            raise unknown("baseline", control, rankings)
        with console.status("pictures and tables"):
            return write_runs(data, rankings, out, control=control, category=self.category)


RUNS = Annotated[Runs, tyro.conf.arg(name="")]


@app.command(name="bundle")
def bundle_command(
    study: tyro.conf.Positional[Path | None] = None,
    out: Path | None = None,
    data: str | None = None,
    complete: str | None = None,
    weights: bool = True,
    runs: RUNS = Runs(),
) -> None:
    """Put everything that the app needs of a study, or of some rankings (--run), into one folder.

    Args:
        study: the folder of a study.
        out: the folder to write; by default `bundle` in the study, runs/app/runs of rankings.
        data: where the data of the study is now, if it was moved; by default as recorded in the study.
        complete: as in gcl compare; only with --data.
        weights: include the models, so that the app can search any text.
    """
    if bool(study) == bool(runs.run):
        raise UserError("give the folder of a study, or rankings with --run")
    if study is None:
        path = runs.write(out or FOLDER / "runs")
    else:
        from gcl_toolkit.views.bundle.writing import write_bundle

        with console.status("reading the data") as status:
            (world,) = study_worlds(study, data, complete, most=1)
            path = write_bundle(study, world, out or study / "bundle", weights=weights, progress=status.update)
    console.print(f"next: gcl app --bundle {path}")


@app.command(name="app")
def app_command(
    bundle: Path | None = None,
    port: int | None = None,
    open: bool = False,
    mcp: bool = False,
    judgements: Path | None = None,
    runs: RUNS = Runs(),
) -> None:
    """Explore a bundle, or rankings (--run), in the browser; without either, a small shop is made.

    Args:
        bundle: a folder made by gcl bundle; by default runs/app/bundle.
        port: on 127.0.0.1; by default the first free port from 7860.
        open: open the browser, too.
        mcp: serve MCP as well, so that language models can search and compare; needs the extra mcp.
        judgements: the file of the grades that are given in the app; by default BUNDLE.judgements.jsonl.
    """
    if version("gradio") is None:
        raise UserError("gradio is not installed; pip install 'gcl-toolkit[app]'")
    folder = bundle or FOLDER / ("runs" if runs.run else "bundle")
    if runs.run:
        runs.write(folder)
    elif bundle is None and not (folder / "manifest.json").is_file():
        _make_small_bundle(folder)
    options = [*(["--port", str(port)] if port else []), *(["--open"] * open), *(["--mcp"] * mcp)]
    options += ["--judgements", str(judgements)] if judgements else []
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
    console.print(f"next: hf upload --repo-type space NAME {folder} .")


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
