"""Training: curves of the runs, their results on every split, and how their settings differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gcl_toolkit.app.draw import cells, figure, grid, number, safe, view
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State

if TYPE_CHECKING:
    import plotly.graph_objects as go

METRIC = "NDCG@10"


def draw(service: Service, state: State) -> str:
    from gcl_toolkit.views.figures import curves, reached

    trained = {name: system for name, system in service.bundle.systems.items() if system.history is not None}
    steps = {name: system.history for name, system in trained.items()}
    configs = {name: dict(_flat(system.config)) for name, system in trained.items()}
    return view(
        f"<h3>Loss and logit scale by step</h3>{figure(curves(steps))}"
        f'<p class="note">Losses of different methods are not comparable; compare their results.</p>'
        f"<h3>{METRIC} of the dev queries by step</h3>{_by_step(reached(steps, METRIC))}"
        f"<h3>Results</h3>{_results(service, [*trained])}<h3>Settings that differ</h3>{_differences(configs)}",
    )


def _by_step(chart: go.Figure | None) -> str:
    how = "These runs were not measured during training; gcl compare --evaluate-every 50 does that."
    return figure(chart) if chart else f'<p class="note">{how}</p>'


def _results(service: Service, names: list[str]) -> str:
    """Means over the test queries of each split; the largest is bold, the tooltip has 1.96 standard errors."""
    division = "test" if "test" in service.divisions else "all"
    metrics = [str(metric) for metric in service.bundle.metrics]
    rows: list[str] = []
    for split in service.bundle.splits:
        span = service.bundle.queries_of(split)
        asked = service.bundle.queries["division"].to_numpy()[span]
        kept = np.ones(len(asked), bool) if division == "all" else asked == division
        values = {name: service.metrics(name)[metrics][span][kept] for name in names}
        best = {metric: max(table[metric].mean() for table in values.values()) for metric in metrics}
        for name, table in values.items():
            rows.append(cells(safe(split), safe(name), *(_mean(table[metric], best[metric]) for metric in metrics)))
    heads = map(safe, ("Split", "System", *metrics))
    return f'<p class="note">At the last step, {safe(division)} queries.</p>{grid("Results", heads, rows, "reached")}'


def _mean(values: pd.Series, best: float) -> str:
    """A bootstrap of every cell would take 15 seconds; Verdict has the intervals of a comparison."""
    if values.empty:
        return "–"
    text, half = number(values.mean()), 1.96 * values.std() / np.sqrt(len(values))
    title = f"± {half:.3f} (1.96 standard errors over {len(values):,} queries)"
    return f'<span title="{title}">{f"<b>{text}</b>" if values.mean() >= best else text}</span>'


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the settings that differ between runs; the others below it."""
    names = list(dict.fromkeys(key for config in configs.values() for key in config))
    settings = {key: [str(config.get(key, "–")) for config in configs.values()] for key in names}
    rows = [cells(safe(key), *map(safe, values)) for key, values in settings.items() if len(set(values)) > 1]
    same = ", ".join(f"{key} {values[0]}" for key, values in settings.items() if len(set(values)) == 1)
    table = grid("Settings that differ", map(safe, ("Setting", *configs)), rows, "settings")
    return f'{table}<p class="note">Equal in all: {safe(same)}.</p>'


def _flat(config: Mapping[str, Any], before: str = ""):
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
