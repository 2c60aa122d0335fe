"""A study folder, or the folder of one run -> one HTML file with what it found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from gcl_toolkit import figures
from gcl_toolkit.errors import UserError
from gcl_toolkit.glossary import (
    GROUPS,
    METHODS_MEAN,
    METRIC,
    METRICS_MEAN,
    OURS,
    PAPER,
    SPLIT_NAMES,
    SPLITS_MEAN,
)
from gcl_toolkit.report import page
from gcl_toolkit.report.cases import query_by_query
from gcl_toolkit.runs import read_steps, writable_folder
from gcl_toolkit.statistics import holm
from gcl_toolkit.study import CONTROLS, TRAINED, World, read_study
from gcl_toolkit.summary import MACRO, results, strongest_control


def write_report(
    folder: str | Path, worlds: Sequence[World] = (), *, title: str | None = None, path: str | Path | None = None
) -> Path:
    """Write the report of a study folder as one HTML file (`report.html` in it by default) and say where.

    results.json (what `summary.results` gives, and optionally command, date, machine, minutes, data: a card a world)
    is computed where it is missing. `worlds` lend texts and pictures to single queries.
    """
    folder = Path(folder)
    table = read_study(folder)
    summary = _json(folder / "results.json") or results(table)
    summary.setdefault("data", {world.name: next(iter(world.splits.values())).card for world in worlds})
    steps, seconds = _runs(folder, table)
    averages = summary["averages"][METRIC]
    grouped = {method: averages[method] for _, methods in _groups(averages) for method in methods}
    dots = "A dot is the mean over the queries, its bar the 95 % interval. A click in the legend hides a method."
    sections = [
        _headline(summary, table),
        _scores_table(summary),
        _gains_table(summary),
        page.section("scores", f"{METRIC} by split", dots, page.figure(figures.scores(grouped, METRIC, SPLIT_NAMES))),
        *(query_by_query(summary, table, worlds) if _gains(summary, OURS, summary["control"], METRIC) else []),
        _training(steps),
        _how(summary, _json(folder / "study.json"), seconds),
    ]
    under = " · ".join(filter(None, [summary.get("date"), page.count(len(summary["worlds"]), "world")]))
    title = title or f"GCL on {', '.join(summary['worlds'])}"
    return _write(path or folder / "report.html", title, under, sections)


def write_run_report(folder: str | Path, *, path: str | Path | None = None) -> Path:
    """The same for the folder of one run of `train`: its curves and its configuration."""
    folder = Path(folder)
    config, steps = _json(folder / "config.json"), folder / "steps.jsonl"
    table = pd.DataFrame(read_steps(folder) if steps.is_file() else [])
    if "train" not in config or table.empty:
        raise UserError(
            f"{folder} holds neither a study (study.json) nor a trained run (config.json, steps.jsonl with a step); "
            "give the folder of one"
        )
    settings, last = config["train"], table.iloc[-1]
    facts = {
        "done": f"{last['step']:.0f} of {settings['steps']} steps in {last['seconds']:.0f} s",
        "at the end": f"loss {last['loss']:.3f}, logit scale {last['logit_scale']:.1f}",
        "highest learning rate": f"{table['learning_rate'].max():.3g}",
        **{name: page.value(fact) for name, fact in config.items() if name != "train"},
        **{name: page.value(setting) for name, setting in settings.items() if setting is not None},
    }
    sections = [
        page.section("training", "Training", "", _curves({settings["loss"]: table})),
        page.section("how", "Configuration", "", page.definitions(facts)),
    ]
    return _write(path or folder / "report.html", "A training run", folder.resolve().name, sections)


def _write(path: str | Path, title: str, under: str, sections: Iterable[str]) -> Path:
    path = Path(path)
    writable_folder(path.parent)
    path.write_text(page.page(title, under, sections), encoding="utf-8")
    return path


# -- sections ----------------------------------------------------------------------------------------------------------


def _headline(summary: dict, table: pd.DataFrame) -> str:
    control, gains = summary["control"], _gains(summary, OURS, summary["control"], METRIC)
    if not gains:
        return f"<section class=lead><p>The study has no gain of {OURS} over {escape(control)} to tell.</p></section>"
    macro, seeds, worlds = gains[MACRO], summary["seeds"], summary["worlds"]
    controls = sum(name in set(table["method"]) for name in CONTROLS)
    which = f"the strongest of {controls} controls on the dev queries"
    which = which if control == strongest_control(table) else "the control chosen"
    verdict = ""
    if not _is_significant(macro):
        verdict = "<strong>This study does not show a difference:</strong> it can be chance."
        if macro["low"] <= 0 <= macro["high"]:
            verdict = "The interval includes zero: <strong>this study does not show a difference.</strong>"
    elif macro["difference"] < 0:
        verdict = f"<strong>{OURS} is worse than its control here.</strong>"
    told = " or ".join(f"{value}{f' ({spread})' if spread else ''}" for value, spread in _told(macro))
    tiles = "".join(_tile(split, cell) for split, cell in gains.items() if split != MACRO)
    one_seed = " With one seed the intervals say how far other queries may differ, not other training runs."
    return (
        f"<section class=lead><p><b>{OURS}</b> reaches an {METRIC} of <b>{macro['mean_a']:.3f}</b>, the mean of the "
        f"splits, against <b>{macro['mean_b']:.3f}</b> for <b>{escape(control)}</b>, {which}: {told}. {verdict}</p>"
        f"<div class=tiles>{tiles}</div><p class=note>Gains over {escape(control)}. {macro['queries']:,} "
        f"{escape(summary['division'])} queries, {page.count(seeds, 'seed')}, {page.count(len(worlds), 'world')} "
        f"({escape(', '.join(worlds))}). Intervals are 95 %."
        f"{one_seed if seeds == 1 else ''}</p></section>"
    )


def _tile(split: str, cell: dict) -> str:
    value, spread = _told(cell)[0]
    weak = "" if _is_significant(cell) else "<em>not significant</em>"
    return f"<div class=tile>{SPLIT_NAMES[split]}<b>{value}</b><small>{spread}</small>{weak}</div>"


def _scores_table(summary: dict) -> str:
    return page.section(
        "table",
        "All methods",
        "Bold: the best trained method of a column. Below each mean its 95 % interval.",
        _by_metric(summary, _score_rows),
    )


def _score_rows(summary: dict, metric: str, splits: Sequence[str]) -> list[str]:
    averages, rows = summary["averages"][metric], []
    trained = [method for method in averages if method in TRAINED]
    best = {split: max((averages[method][split][0] for method in trained), default=None) for split in splits}
    for group, methods in _groups(averages):
        rows.append(page.group_row(group, len(splits) + 1))
        for method in methods:
            cells = ""
            for split in splits:
                mean, *interval = averages[method][split]
                text = f"<b>{mean:.3f}</b>" if method in trained and mean == best[split] else f"{mean:.3f}"
                cells += f"<td>{text}<small>{page.ends(interval, '.3f')}</small></td>"
            meaning = METHODS_MEAN.get(method, "")
            rows.append(f"<tr><th scope=row>{escape(method)}<small>{meaning}</small></th>{cells}</tr>")
    return rows


def _gains_table(summary: dict) -> str:
    if not summary["gains"]:
        return ""
    return page.section(
        "gains",
        "Gains, each over a named control",
        "The gain in percent of the control's value, then the absolute difference, each with its 95 % interval, and "
        "the p-value of a paired randomisation test, Holm-corrected over the splits (that of the mean stands alone). "
        "<em>Not significant</em>: p is 0.05 or more, or the interval includes zero.",
        _by_metric(summary, _gain_rows),
    )


def _gain_rows(summary: dict, metric: str, splits: Sequence[str]) -> list[str]:
    told = dict.fromkeys((gain["method"], gain["control"]) for gain in summary["gains"])
    rows = [_gain_row(summary, *pair, cells) for pair in told if (cells := _gains(summary, *pair, metric))]
    if metric == METRIC:
        reported = "".join(f"<td>{PAPER.get(split, '')}</td>" for split in splits)
        label = "GCL over CLIP<small>as reported: paper, MarqoGS-10M, pre-trained models</small>"
        rows.append(f"<tr class=paper><th scope=row>{label}</th>{reported}</tr>")
    return rows


def _by_metric(summary: dict, rows: Callable[[dict, str, Sequence[str]], list[str]]) -> str:
    """A table each metric, one of them seen. rows: (summary, metric, splits) -> <tr> elements."""
    tables = {}
    for metric, averages in summary["averages"].items():
        splits = list(next(iter(averages.values())))
        tables[metric] = page.table((metric, *(SPLIT_NAMES[split] for split in splits)), rows(summary, metric, splits))
    return page.panes(tables, METRIC, "Metric")


def _gain_row(summary: dict, method: str, control: str, cells: Mapping[str, dict]) -> str:
    note = "<small>the control of the headline</small>" if control == summary["control"] else ""
    label = f"{escape(method)} <span class=over>over</span> {escape(control)}{note}"
    return f"<tr><th scope=row>{label}</th>{''.join(map(_gain_cell, cells.values()))}</tr>"


def _gain_cell(cell: dict) -> str:
    (value, spread), *absolute = _told(cell)
    second = "".join(f"<small>{value} ({spread})</small>" for value, spread in absolute)
    p_value = f"p = {cell['p_value']:.3f}" if cell["p_value"] >= 0.001 else "p &lt; 0.001"
    if _is_significant(cell):
        return f"<td><b>{value}</b><small>{spread}</small>{second}<small>{p_value}</small></td>"
    return (
        f"<td class=weak>{value}<small>{spread}</small>{second}<small><em>not significant</em>, {p_value}</small></td>"
    )


def _training(steps: Mapping[str, pd.DataFrame]) -> str:
    if not steps:
        return ""
    return page.section(
        "training",
        "Training",
        "Means over seeds and worlds. Losses of different methods are different sums: compare shapes, not heights.",
        _curves(steps),
    )


def _curves(steps: Mapping[str, pd.DataFrame]) -> str:
    reached = figures.reached(steps, METRIC)
    by_step = f"<h3>{METRIC} of the dev queries by step</h3>{page.figure(reached)}" if reached else ""
    return page.figure(figures.curves(steps)) + by_step


def _how(summary: dict, settings: dict, seconds: Mapping[str, float]) -> str:
    machine = dict(summary.get("machine") or {})
    versions = machine.pop("versions", {})
    facts = {
        "command": f"<code>{escape(summary['command'])}</code>" if "command" in summary else "",
        "date": escape(str(summary.get("date", ""))),
        "took": f"{summary['minutes']:.1f} CPU-minutes of training" if "minutes" in summary else "",
        "queries": ", ".join(f"{SPLIT_NAMES[split]} {count:,}" for split, count in summary["queries"].items()),
        "machine": page.pairs(machine),
        "versions": page.pairs({name: number for name, number in versions.items() if number}),
        **{name: (page.pairs if isinstance(fact, dict) else page.value)(fact) for name, fact in settings.items()},
        "processor seconds of training": page.pairs({method: f"{spent:.0f}" for method, spent in seconds.items()}),
    }
    cards = ""
    for world, card in summary["data"].items():
        found = page.definitions({name: page.value(fact) for name, fact in card.items()})
        cards += f"<details><summary>Data card: {escape(world)}</summary>{found}</details>" if card else ""
    splits = page.definitions({SPLIT_NAMES[split]: SPLITS_MEAN[split] for split in (*summary["queries"], MACRO)})
    metrics = page.definitions({metric: METRICS_MEAN.get(metric, "") for metric in summary["averages"]})
    return page.section(
        "how",
        "How it was made",
        "",
        f"{page.definitions(facts)}{cards}<h3>Splits</h3>{splits}<h3>Metrics</h3><p class=note>All lie in 0..1, larger "
        f"is better; a product that is not listed for a query counts as zero.</p>{metrics}",
    )


# -- what the sections are made from -----------------------------------------------------------------------------------


def _json(path: Path) -> dict:
    """Empty where there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else {}


def _runs(folder: Path, table: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """By trained method: step records, means over the runs; processor seconds of training, the same."""
    steps, seconds = {}, {}
    for method in (name for name in TRAINED if name in set(table["method"])):
        runs = sorted(folder.glob(f"runs/*/{method}/seed_*"))
        records = [read_steps(run) for run in runs if (run / "steps.jsonl").is_file()]
        if any(records):
            steps[method] = pd.concat(map(pd.DataFrame, filter(None, records))).groupby("step", as_index=False).mean()
        done = [_json(run / "done.json") for run in runs]
        spent = [run["train_cpu_seconds"] for run in done if "train_cpu_seconds" in run]
        if spent:
            seconds[method] = float(np.mean(spent))
    return steps, seconds


def _gains(summary: dict, method: str, control: str, metric: str) -> dict[str, dict]:
    """split -> gain, p-values Holm-corrected over the splits (not that of their mean)."""
    wanted = (method, control, metric)
    cells = {
        gain["split"]: dict(gain)
        for gain in summary["gains"]
        if (gain["method"], gain["control"], gain["metric"]) == wanted
    }
    splits = [split for split in cells if split != MACRO]
    for split, p_value in zip(splits, holm([cells[split]["p_value"] for split in splits]), strict=True):
        cells[split]["p_value"] = float(p_value)
    return cells


def _is_significant(cell: dict) -> bool:
    return cell["p_value"] < 0.05 and (cell["low"] > 0 or cell["high"] < 0)


def _groups(methods: Iterable[str]) -> list[tuple[str, list[str]]]:
    there = list(methods)
    known = [(group, [name for name in names if name in there]) for group, names in GROUPS]
    others = [name for name in there if not any(name in names for _, names in known)]
    return [(group, names) for group, names in (*known, ("Others", others)) if names]


def _told(gain: Mapping) -> list[tuple[str, str]]:
    """The gain in percent, where the control's value allows one, and in the metric itself, each with its interval."""
    percent = [100 * gain[name] for name in ("relative", "relative_low", "relative_high")]
    points = [gain[name] for name in ("difference", "low", "high")]
    absolute = (page.number(points[0], "+.3f"), page.ends(points[1:], ".3f"))
    if math.isnan(percent[0]):
        return [absolute]
    return [(f"{page.number(percent[0], '+.1f')} %", page.ends(percent[1:], ".1f", " %")), absolute]
