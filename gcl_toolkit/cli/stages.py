"""gcl stages: one stage or two."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated

import tyro

from gcl_toolkit.cli.common import app, command, console, print_table, progress, study_worlds
from gcl_toolkit.machine import machine
from gcl_toolkit.studies.markdown import stages_as_markdown, stages_table
from gcl_toolkit.studies.stages import StagesConfig, stages


@app.command(name="stages")
def stages_command(
    folder: tyro.conf.Positional[Path],
    data: str | None = None,
    complete: str | None = None,
    config: Annotated[StagesConfig, tyro.conf.arg(name="")] = StagesConfig(),  # noqa: B008 - frozen
) -> None:
    """One stage or two: the default method alone, or first stages with a re-ranker.

    Args:
        folder: a study (gcl demo, gcl compare); stages.json, stages.md and stages.html are written into it.
        data: the data of the study, if study.json doesn't name it; as in gcl compare.
        complete: as in gcl compare.
    """
    from gcl_toolkit.views.figures import CONFIG, quality_against_latency

    worlds = study_worlds(folder, data, complete)
    with progress() as bars:
        bar = bars.add_task("training the re-ranker", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(bar, description=f"training the re-ranker, {what}", completed=done, total=total)
            if done == total:  # redrawing would disturb the timing that follows
                bars.stop()
            elif done == 1:
                bars.start()

        result = stages(folder, worlds, config, show)
    result = replace(result, command=command(), date=date.today().isoformat(), machine=machine())
    result.write(folder / "stages.json")
    (folder / "stages.md").write_text(stages_as_markdown(result))
    quality_against_latency(result.systems, result.metric).write_html(folder / "stages.html", config=CONFIG)
    header, rows = stages_table(result)
    title = f"{result.metric} on {config.division} queries of {config.split}, 95% intervals"
    print_table(header, rows, title=title, numeric=True, bold=[row[0] for row in rows if "+" not in row[0]])
    console.print(result.finding)
    console.print(f"{folder / 'stages.json'}, {folder / 'stages.html'}")
