"""gcl stages: one stage or two."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from gcl_toolkit import doctor as doctoring
from gcl_toolkit.cli.common import app, command, console, progress, worlds_of
from gcl_toolkit.results import stages_as_markdown, stages_table
from gcl_toolkit.runs import write_json
from gcl_toolkit.stages import StagesConfig, stages

DEFAULT_STAGES = StagesConfig()


@app.command(name="stages")
def stages_command(
    folder: tyro.conf.Positional[Path],
    data: str | None = None,
    complete: str | None = None,
    config: Annotated[StagesConfig, tyro.conf.arg(name="")] = DEFAULT_STAGES,
) -> None:
    """One stage or two: GCL alone against first stages with a re-ranker, by quality, latency and memory.

    Args:
        folder: of a study (gcl demo, gcl compare); stages.json, stages.md and stages.html are written into it.
        data: what the study was made of: a recipe's name, or as in gcl compare; by default the recipe that
            results.json names.
        complete: as in gcl compare.
    """
    from gcl_toolkit import figures

    with console.status("reading the data"):
        worlds = worlds_of(folder, data, complete)
    with progress() as bars:
        bar = bars.add_task("training the re-ranker", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(bar, description=f"training the re-ranker, {what}", completed=done, total=total)
            if done == total:  # timing follows, which redrawing would disturb
                bars.stop()
            elif done == 1:
                bars.start()

        told = stages(folder, worlds, config, show)
    about = {"command": command(), "date": date.today().isoformat(), "machine": doctoring.machine()}
    told = {**about, **told}
    write_json(folder / "stages.json", told)
    (folder / "stages.md").write_text(stages_as_markdown(told))
    figure = figures.quality_against_latency(told["systems"], told["metric"])
    figure.write_html(folder / "stages.html", config=figures.CONFIG)
    _print_stages(told)
    console.print(f"{folder / 'stages.json'}, {folder / 'stages.html'}")


def _print_stages(told: dict) -> None:
    config, (header, rows) = told["config"], stages_table(told)
    shown = Table(title=f"{told['metric']} on {config['division']} queries of {config['split']}, 95% intervals")
    for column in header:
        shown.add_column(column, justify="left" if column == "system" else "right", no_wrap=column == "system")
    for row in rows:
        shown.add_row(*row, style="" if "+" in row[0] else "bold")
    console.print(shown)
    console.print(told["finding"], highlight=False, markup=False)
