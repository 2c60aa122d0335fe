"""A study folder, or the folder of one run -> one HTML file with its results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.statistics import FEW, Difference, holm
from gcl_toolkit.methods import CONTROLS, DEFAULT
from gcl_toolkit.studies import glossary
from gcl_toolkit.studies.candidates import best
from gcl_toolkit.studies.glossary import METRIC, SPLIT_NAMES
from gcl_toolkit.studies.results import MACRO, Results, read_results
from gcl_toolkit.studies.study import BASELINES, read_study, run_folder, training_seconds
from gcl_toolkit.studies.summary import summarise
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.training.runs import read_config, read_steps
from gcl_toolkit.views import figures
from gcl_toolkit.views.page import write_page
from gcl_toolkit.views.report.cases import query_by_query


def write_report(
    folder: str | Path, worlds: Sequence[World] = (), *, title: str | None = None, path: str | Path | None = None
) -> Path:
    """Write the report of a study folder as one HTML file, by default its report.html; returns the path.

    Results are computed if results.json is missing. `worlds` provide the texts and pictures of single queries.
    """
    folder = Path(folder)
    table, stored = read_study(folder), folder / "results.json"
    results = read_results(stored) if stored.is_file() else summarise(table)
    if not results.data:
        results = replace(results, data={world.name: world.splits["in_domain"].card for world in worlds})
    averages = results.averages[METRIC]
    groups = glossary.groups(averages)
    pairs = dict.fromkeys((gain.method, gain.control) for gain in results.gains)
    headline = _gains(results, DEFAULT, results.control, METRIC)
    return write_page(
        path or folder / "report.html",
        "study.html",
        _shared(),
        title=title or f"GCL on {', '.join(results.worlds)}",
        results=results,
        groups=groups,
        headline=headline,
        chosen=best,
        few=[SPLIT_NAMES[split] for split, count in results.queries.items() if count < FEW],
        controls=sum(name in averages for name in CONTROLS),
        baselines=BASELINES,
        best={metric: _best(results, metric) for metric in results.averages},
        gains={metric: {pair: _gains(results, *pair, metric) for pair in pairs} for metric in results.averages},
        dots=figures.scores({name: averages[name] for _, names in groups for name in names}, METRIC, SPLIT_NAMES),
        front=_front(results),
        single=query_by_query(results, table, worlds) if headline else None,
        facts=_facts(results, folder, table),
        **_training(_steps(folder, table)),
    )


def write_run_report(folder: str | Path, *, path: str | Path | None = None) -> Path:
    """The same for the folder of one run of `train`: its curves and its configuration."""
    folder = Path(folder)
    table = pd.DataFrame(read_steps(folder))
    if not (folder / "config.json").is_file() or table.empty:
        raise UserError(
            f"{folder} holds neither a study (study.json) nor a trained run (config.json, steps.jsonl with at least "
            "one step); give the folder of one"
        )
    config = read_config(folder)
    settings, last = config.pop("train"), table.iloc[-1]
    facts = {
        "done": f"{last['step']:.0f} of {settings['steps']} steps in {last['seconds']:.0f} s",
        "at the end": f"loss {last['loss']:.3f}, logit scale {last['logit_scale']:.1f}",
        "highest learning rate": f"{table['learning_rate'].max():.3g}",
        **{name: fact for name, fact in (config | settings).items() if fact is not None},
    }
    values = {"title": "A training run", "folder": folder.resolve().name, "facts": facts}
    return write_page(
        path or folder / "report.html", "run.html", _shared(), **values, **_training({config["method"]: table})
    )


def _shared() -> dict[str, Any]:
    """What every template uses."""
    names = {"glossary": glossary, "metric": METRIC, "default": DEFAULT, "macro": MACRO}
    return {**names, "config": figures.CONFIG, "plotly_js": figures.plotly_js()}


def _front(results: Results) -> figures.go.Figure | None:
    """Order against recall of the trained methods, the means of the splits; None for fewer than two."""
    order, recall = (
        {name: cells[MACRO] for name, cells in results.averages.get(metric, {}).items() if name not in BASELINES}
        for metric in (METRIC, "AP")
    )
    return figures.order_against_recall(order, recall) if order.keys() == recall.keys() and len(order) > 1 else None


def _best(results: Results, metric: str) -> dict[str, float | None]:
    """Split -> the best mean of the trained methods."""
    trained = [cells for method, cells in results.averages[metric].items() if method not in BASELINES]
    return {split: max((cells[split].mean for cells in trained), default=None) for split in results.splits}


def _gains(results: Results, method: str, control: str, metric: str) -> dict[str, Difference]:
    """Split -> gain; p-values are Holm-corrected over the splits (not that of their mean)."""
    cells = results.gains_of(method, control, metric)
    splits = [split for split in cells if split != MACRO]
    for split, p_value in zip(splits, holm([cells[split].p_value for split in splits]), strict=True):
        cells[split] = replace(cells[split], p_value=float(p_value))
    return cells


def _steps(folder: Path, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By trained method: step records, means over the runs."""
    records: dict[str, list[pd.DataFrame]] = {}
    for world, method, seed in table[["world", "method", "seed"]].drop_duplicates().itertuples(index=False):
        if rows := read_steps(run_folder(folder, world, method, seed)):
            records.setdefault(method, []).append(pd.DataFrame(rows))
    return {name: pd.concat(runs).groupby("step", as_index=False).mean() for name, runs in records.items()}


def _training(steps: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """The figures of the section about training. steps: method -> step records."""
    return {"curves": figures.curves(steps), "by_step": figures.reached(steps, METRIC)} if steps else {"curves": None}


def _chosen(settings: Any) -> Any:
    """Without what was left open: None and empty lists, at every depth."""
    if not isinstance(settings, dict):
        return settings
    return {name: _chosen(value) for name, value in settings.items() if value not in (None, [], {})}


def _facts(results: Results, folder: Path, table: pd.DataFrame) -> dict[str, Any]:
    """How the study was made; a dict is shown as its parts."""
    settings, seconds = folder / "study.json", training_seconds(folder, table)
    return {
        "command": results.command,
        "date": results.date,
        "duration": f"{results.minutes:.1f} CPU-minutes of training" if results.minutes is not None else "",
        "queries": ", ".join(f"{SPLIT_NAMES[split]} {count:,}" for split, count in results.queries.items()),
        "machine": {name: fact for name, fact in results.machine.items() if name != "versions"},
        "versions": {name: number for name, number in results.machine.get("versions", {}).items() if number},
        **(_chosen(json.loads(settings.read_text())) if settings.is_file() else {}),
        "processor seconds of training": {
            name: f"{mean:.{mean < 10:d}f}" for name, runs in seconds.items() for mean in [np.mean(runs)]
        },
    }
