"""Training: curves of the runs, their results on every split, and how their settings differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gcl_toolkit.app.draw import figure, number, safe, view
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.measure.statistics import interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

METRIC = "NDCG@10"


def draw(service: Service, state: State) -> str:
    from gcl_toolkit.views.figures import curves, reached

    models = service.bundle.models
    steps = {name: ranker.history for name, ranker in models.items()}
    configs = {name: dict(_flat(ranker.config)) for name, ranker in models.items()}
    return view(
        state,
        f"<h3>Loss and logit scale by step</h3>{figure(curves(steps))}"
        f'<p class="note">Losses of different methods are not comparable; compare their results.</p>'
        f"<h3>{METRIC} of the dev queries by step</h3>{_by_step(reached(steps, METRIC))}"
        f"<h3>Results</h3>{_reached(service)}<h3>Settings that differ</h3>{_differences(configs)}",
    )


def _by_step(chart: go.Figure | None) -> str:
    how = "These runs were not measured during training; gcl compare --evaluate-every 50 does that."
    return figure(chart) if chart else f'<p class="note">{how}</p>'


def _reached(service: Service) -> str:
    """Means over the test queries of each split; the largest is bold, the interval is in the tooltip."""
    division = "test" if "test" in service.divisions else "all"
    metrics = [str(metric) for metric in service.bundle.metrics]
    body = ""
    for split in service.bundle.splits:
        rows = service.bundle.queries_of(split)
        asked = service.bundle.queries["division"].to_numpy()[rows]
        kept = np.ones(len(asked), bool) if division == "all" else asked == division
        values = {name: ranker.metrics[metrics][rows][kept] for name, ranker in service.bundle.models.items()}
        best = {metric: max(table[metric].mean() for table in values.values()) for metric in metrics}
        for name, table in values.items():
            cells = "".join(_mean(table[metric], best[metric]) for metric in metrics)
            body += f"<tr><td>{safe(split)}</td><td>{safe(name)}</td>{cells}</tr>"
    head = "".join(f"<th>{safe(name)}</th>" for name in ("Split", "Model", *metrics))
    return (
        f'<p class="note">At the last step, {safe(division)} queries.</p>'
        f'<div class="wide"><table class="queries reached"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _mean(values, best: float) -> str:
    if values.empty:
        return "<td>–</td>"
    mean, low, high = interval(values)
    text = number(mean)
    title = f"95 % interval over {len(values)} queries: {low:.3f} to {high:.3f}"
    return f'<td title="{title}">{f"<b>{text}</b>" if mean >= best else text}</td>'


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the settings that differ between runs; the others below it."""
    names = list(dict.fromkeys(key for config in configs.values() for key in config))
    settings = {key: [str(config.get(key, "–")) for config in configs.values()] for key in names}
    rows = "".join(
        f"<tr><td>{safe(key)}</td>" + "".join(f"<td>{safe(value)}</td>" for value in values) + "</tr>"
        for key, values in settings.items()
        if len(set(values)) > 1
    )
    head = "".join(f"<th>{safe(name)}</th>" for name in ("Setting", *configs))
    same = ", ".join(f"{key} {values[0]}" for key, values in settings.items() if len(set(values)) == 1)
    table = f'<table class="queries settings"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="wide">{table}</div><p class="note">Equal in all: {safe(same)}.</p>'


def _flat(config: Mapping[str, Any], before: str = ""):
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
