"""A study folder -> one HTML file that needs nothing else: no host, no folder beside it."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from PIL import Image

from gcl_toolkit import figures
from gcl_toolkit.batches import open_image
from gcl_toolkit.ranked_data import RankedData, is_image
from gcl_toolkit.runs import read_steps
from gcl_toolkit.statistics import holm
from gcl_toolkit.study import BASELINES, CONTROLS, TRAINED, World, read_study
from gcl_toolkit.summary import MACRO, results, strongest_control

METRIC = "NDCG@10"
OURS = "gcl-matrix"
SPLIT_NAMES = {
    "in_domain": "in-domain",
    "novel_query": "novel query",
    "novel_document": "novel document",
    "zero_shot": "zero-shot",
    MACRO: "mean of splits",
}
SPLITS_MEAN = {
    "in_domain": "Training queries on training products: the very pairs that were trained on.",
    "novel_query": "Queries never seen in training, on training products.",
    "novel_document": "Training queries, on products never seen in training.",
    "zero_shot": "Queries and products both never seen in training.",
    MACRO: "The plain mean of the splits above.",
}
METRICS_MEAN = {
    "NDCG@10": "The scores of the first ten products, discounted by the logarithm of the rank, over the best possible.",
    "ERR": "Expected reciprocal rank on the raw scores, as GCL's own evaluation has it: with scores up to 100 it asks "
    "little more than how soon the single best product comes.",
    "ERR(4)": "Expected reciprocal rank with each query's scores rescaled to 0..4, the usual range.",
    "RBP(0.9)": "Rank-biased precision: the expected score per product for a reader who goes on with chance 0.9.",
    "AP": "Average precision: the share of listed products at the rank of each listed product, averaged.",
    "RR": "Reciprocal rank: one over the rank of the first listed product.",
}
METHODS_MEAN = {
    "random": "products in random order: the floor",
    "bm25": "words that query and text have in common (BM25), no training",
    "oracle": "the listed products in the order of their scores: the ceiling",
    "clip": "all pairs, w = 1; takes known positives for negatives, so a gain over it alone flatters",
    "clip-masked": "all pairs, w = 1; known positives are no negatives",
    "clip-top": "only the pairs with the best scores, w = 1; known positives are no negatives",
    "binary-matrix": "score matrix with w = 1 for every known pair: all that gcl-matrix has but the scores",
    "top-matrix": "score matrix with w = 1 for the pairs with the best scores, the others left out",
    "gcl-linear": "one weighted pair a row; the weight is linear in the score",
    "gcl-reciprocal": "one weighted pair a row; the weight falls as 1 / position",
    "gcl-matrix": "score matrix: every known pair of the step pulls, with a weight that rises sharply with its score",
}
GROUPS = (
    ("Baselines: the ends of the scale", BASELINES),
    ("Controls: same encoder, steps and batch, without the scores as weights", CONTROLS),
    ("GCL as published", ("gcl-linear", "gcl-reciprocal")),
    ("Ours", (OURS,)),
)
PAPER = {
    "in_domain": "+29.3 %",
    "novel_query": "+6 to +10 %",
    "novel_document": "+6 to +10 %",
    "zero_shot": "+6 to +10 %",
}
"""NDCG@10 of GCL over CLIP, as its paper reports it."""
SHOWN = 8
"""Products a row of the three queries."""


def write_report(
    folder: str | Path, worlds: Sequence[World], *, title: str, command: str, path: str | Path | None = None
) -> Path:
    """Write the report of a study folder as one HTML file (`report.html` in it by default) and say where.

    results.json (what `summary.results` gives, and optionally command, date, machine, minutes, data: a card a world)
    is computed where it is missing. `worlds` lend titles and pictures to the three queries; may be empty.
    """
    folder = Path(folder)
    table = read_study(folder)
    found = folder / "results.json"
    summary = json.loads(found.read_text()) if found.is_file() else results(table)
    settings = folder / "study.json"
    about = {
        "settings": json.loads(settings.read_text()) if settings.is_file() else {},
        "data": summary.get("data") or {world.name: next(iter(world.splits.values())).card for world in worlds},
        "command": command,
    }
    steps, seconds = _runs(folder, table)
    sections = [
        _headline(summary, table),
        _scores_table(summary),
        _gains_table(summary),
        _figure_section(
            "scores",
            f"{METRIC} by split",
            "A dot is the mean over the queries, its bar the 95 % interval. A click in the legend hides a method.",
            figures.scores(_by_group(summary["averages"][METRIC]), METRIC, SPLIT_NAMES),
        ),
        _wins(summary, table),
        _queries(summary, table, worlds),
        _training(steps),
        _how(summary, about, seconds),
    ]
    path = Path(path or folder / "report.html")
    path.write_text(_page(title, summary, [section for section in sections if section]), encoding="utf-8")
    return path


# -- sections ----------------------------------------------------------------------------------------------------------


def _headline(summary: dict, table: pd.DataFrame) -> str:
    control, gains = summary["control"], _gains(summary, OURS, summary["control"], METRIC)
    if not gains:
        return f"<section class=lead><p>The study has no {OURS}, so there is no gain to tell.</p></section>"
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
        f"{escape(summary['division'])} queries, {_count(seeds, 'seed')}, {_count(len(worlds), 'world')} "
        f"({escape(', '.join(worlds))}). Intervals are 95 %."
        f"{one_seed if seeds == 1 else ''}</p></section>"
    )


def _tile(split: str, cell: dict) -> str:
    value, spread = _told(cell)[0]
    weak = "" if _is_significant(cell) else "<em>not significant</em>"
    return f"<div class=tile>{SPLIT_NAMES[split]}<b>{value}</b><small>{spread}</small>{weak}</div>"


def _scores_table(summary: dict) -> str:
    panes = {}
    for metric, averages in summary["averages"].items():
        splits = list(next(iter(averages.values())))
        trained = [method for method in averages if method in TRAINED]
        best = {split: max((averages[m][split][0] for m in trained), default=None) for split in splits}
        rows = []
        for group, methods in _groups(averages):
            rows.append(f"<tr class=group><th colspan={len(splits) + 1} scope=rowgroup><span>{group}</span></th></tr>")
            for method in methods:
                cells = ""
                for split in splits:
                    mean, low, high = averages[method][split]
                    text = f"<b>{mean:.3f}</b>" if method in trained and mean == best[split] else f"{mean:.3f}"
                    cells += f"<td>{text}<small>{_range((low, high), '.3f')}</small></td>"
                meaning = METHODS_MEAN.get(method, "")
                rows.append(f"<tr><th scope=row>{escape(method)}<small>{meaning}</small></th>{cells}</tr>")
        panes[metric] = _table(metric, splits, rows)
    return _section(
        "table",
        "All methods",
        "Bold: the best trained method of a column. Below each mean its 95 % interval.",
        _panes(panes),
    )


def _gains_table(summary: dict) -> str:
    told = list(dict.fromkeys((gain["method"], gain["control"]) for gain in summary["gains"]))
    if not told:
        return ""
    panes = {}
    for metric, averages in summary["averages"].items():
        splits = list(next(iter(averages.values())))
        rows = [_gain_row(summary, *pair, cells) for pair in told if (cells := _gains(summary, *pair, metric))]
        if metric == METRIC:
            reported = "".join(f"<td>{PAPER.get(split, '')}</td>" for split in splits)
            label = "GCL over CLIP<small>as reported: paper, MarqoGS-10M, pre-trained models</small>"
            rows.append(f"<tr class=paper><th scope=row>{label}</th>{reported}</tr>")
        panes[metric] = _table(metric, splits, rows)
    return _section(
        "gains",
        "Gains, each over a named control",
        "The gain in percent of the control's value, then the absolute difference, each with its 95 % interval, and "
        "the p-value of a paired randomisation test, Holm-corrected over the splits (that of the mean stands alone). "
        "<em>Not significant</em>: p is 0.05 or more, or the interval includes zero.",
        _panes(panes),
    )


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


def _wins(summary: dict, table: pd.DataFrame) -> str:
    control = summary["control"]
    if not _gains(summary, OURS, control, METRIC):
        return ""
    difference = _per_query(table, summary["division"], control)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return _figure_section(
        "wins",
        "Query by query",
        f"{METRIC} of {OURS} minus that of {escape(control)}, a query in a split each, the mean of its seeds: "
        f"{wins:,} wins, {losses:,} losses, {len(difference) - wins - losses:,} ties.",
        figures.differences(difference.to_numpy(), METRIC),
    )


def _training(steps: Mapping[str, pd.DataFrame]) -> str:
    if not steps:
        return ""
    return _figure_section(
        "training",
        "Training",
        "Means over seeds and worlds. Losses of different methods are different sums: compare shapes, not heights.",
        figures.curves(steps),
    )


def _queries(summary: dict, table: pd.DataFrame, worlds: Sequence[World]) -> str:
    control, name = summary["control"], summary["worlds"][0]
    world = next((world for world in worlds if world.name == name), None)
    if world is None or "top" not in table.columns or not _gains(summary, OURS, control, METRIC):
        return ""
    split = "zero_shot" if "zero_shot" in world.evaluated() else list(world.evaluated())[-1]
    rows = table[(table["world"] == name) & (table["split"] == split) & (table["seed"] == 0)]
    difference = _per_query(rows, summary["division"], control).droplevel(["world", "split"]).sort_values()
    gallery = _Gallery(world.evaluated()[split])
    cards, shown = "", set()
    for place, kind in ((-1, "win"), (len(difference) // 2, "median"), (0, "loss")):
        query, change = difference.index[place], difference.iloc[place]
        if query not in shown:
            here = rows[rows["query_id"] == query].set_index("method")
            label = {"win": "The largest win", "median": "The median", "loss": "The largest loss"}[kind]
            if (kind == "win" and change <= 0) or (kind == "loss" and change >= 0):
                label = "The best case" if kind == "win" else "The worst case"
            cards += _query_card(gallery, label, query, change, here, control)
            shown.add(query)
    return _section(
        "queries",
        "Three queries",
        f"The first {SHOWN} products of each method in the split {SPLIT_NAMES[split]}, seed 0, {escape(name)}. The "
        "badge is the product's score for this query, darker for better; <em>not listed</em>: no score is known, which "
        "counts as zero. Point at a product for its title.",
        f"<style>{gallery.css()}</style>{_LEGEND}{cards}",
    )


def _query_card(gallery: _Gallery, label: str, query: str, change: float, here: pd.DataFrame, control: str) -> str:
    first = [method for method in ("oracle", OURS, control) if method in here.index]
    others = [method for method in here.index if method not in first]

    def strips(methods: Iterable[str]) -> str:
        return "".join(
            f"<div class=strip><div class=who>{escape(method)}<small>{METRIC} {value:.3f}</small></div>"
            f"{gallery.products(query, list(top)[:SHOWN])}</div>"
            for method, value, top in here.loc[list(methods), [METRIC, "top"]].itertuples()
        )

    more = f"<details><summary>{len(others)} more methods</summary>{strips(others)}</details>" if others else ""
    heading = f"<h3>“{escape(gallery.text(query))}”</h3>"
    note = f"<p class=note>{label}: {METRIC} {_number(change, '+.3f')} over {escape(control)}</p>"
    strip = f"<div class=scroll tabindex=0>{strips(first)}{more}</div>"
    return f"<article class=query>{heading}{note}{strip}</article>"


class _Gallery:
    """Products of one split as picture cards; a picture stands in the page once, as a style rule."""

    def __init__(self, data: RankedData):
        self.data = data
        fields = data.corpus_fields
        self.image = next((name for name in fields if is_image(data.corpus[name])), None)
        texts = [name for name in fields if not is_image(data.corpus[name])]
        self.title = "title" if "title" in texts else next(iter(texts), "product_id")
        self.pictures: dict[str, tuple[str, str] | None] = {}

    def text(self, query: str) -> str:
        row = int(pc.index(self.data.queries["query_id"], query).as_py())
        values = [self.data.queries[name][row].as_py() for name in self.data.query_fields]
        return " ".join(value for value in values if isinstance(value, str)) or query

    def products(self, query: str, products: Sequence[str]) -> str:
        qrels = self.data.qrels.filter(pc.equal(self.data.qrels["query_id"], query))
        scores = dict(zip(qrels["product_id"].to_pylist(), qrels["score"].to_pylist(), strict=True))
        return "".join(self._card(product, scores) for product in products)

    def _card(self, product: str, scores: Mapping[str, float]) -> str:
        row = pc.index(self.data.corpus["product_id"], product).as_py()
        title = escape(str(self.data.corpus[self.title][row].as_py() or product), quote=True)
        picture = self._picture(product, row)
        inside = (
            f'<span class="pic {picture[0]}" role=img aria-label="{title}"></span>'
            if picture
            else (f"<span class=words>{title}</span>")
        )
        badge = "<span class=badge>not listed</span>"
        if product in scores:
            share = scores[product] / (max(scores.values()) or 1)
            badge = f'<span class="badge g{min(4, int(share * 5))}">{scores[product]:g}</span>'
        return f'<figure title="{title}">{inside}<figcaption>{badge}</figcaption></figure>'

    def _picture(self, product: str, row: int) -> tuple[str, str] | None:
        """Class and data URI; None where there is no picture or it can't be read."""
        if product not in self.pictures:
            value = self.data.corpus[self.image][row].as_py() if self.image else None
            uri = data_uri(value) if value else None
            self.pictures[product] = (f"i{len(self.pictures)}", uri) if uri else None
        return self.pictures[product]

    def css(self) -> str:
        return "".join(f".{name}{{background-image:url({uri})}}" for name, uri in filter(None, self.pictures.values()))


def data_uri(value: Mapping, side: int = 192, as_is: int = 24_000) -> str | None:
    """An image value ({bytes, path}) for a page: small PNG and JPEG bytes as they are, others made small JPEGs; None
    for one that can't be read."""
    data = value.get("bytes") or b""
    kind = "png" if data[:8] == b"\x89PNG\r\n\x1a\n" else "jpeg" if data[:3] == b"\xff\xd8\xff" else None
    if kind is None or len(data) > as_is:
        if not data and not value.get("path"):
            return None
        try:
            image = open_image(dict(value))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        image.thumbnail((side, side))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=82)
        kind, data = "jpeg", out.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _how(summary: dict, about: dict, seconds: Mapping[str, float]) -> str:
    machine = dict(summary.get("machine") or {})
    versions = machine.pop("versions", {})
    facts = {
        "command": f"<code>{escape(about['command'])}</code>",
        "date": escape(str(summary.get("date", ""))),
        "took": f"{summary['minutes']:.1f} minutes" if "minutes" in summary else "",
        "queries": ", ".join(f"{SPLIT_NAMES[split]} {count:,}" for split, count in summary["queries"].items()),
        "machine": _pairs(machine),
        "versions": _pairs({name: number for name, number in versions.items() if number}),
        **{
            key: _pairs(value) if isinstance(value, dict) else _value(value) for key, value in about["settings"].items()
        },
        "processor seconds of training": _pairs({method: f"{spent:.0f}" for method, spent in seconds.items()}),
    }
    cards = ""
    for world, card in about["data"].items():
        found = _definitions({name: _value(fact) for name, fact in card.items()})
        cards += f"<details><summary>Data card: {escape(world)}</summary>{found}</details>" if card else ""
    splits = {SPLIT_NAMES[split]: SPLITS_MEAN[split] for split in (*summary["queries"], MACRO)}
    metrics = {metric: METRICS_MEAN.get(metric, "") for metric in summary["averages"]}
    return _section(
        "how",
        "How it was made",
        "",
        f"{_definitions(facts)}{cards}<h3>Splits</h3>{_definitions(splits)}<h3>Metrics</h3><p class=note>All lie in "
        f"0..1, larger is better; a product that is not listed for a query counts as zero.</p>{_definitions(metrics)}",
    )


# -- what the sections are made from -----------------------------------------------------------------------------------


def _runs(folder: Path, table: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """By trained method: step records, means over the runs; processor seconds of training, the same."""
    steps, seconds = {}, {}
    for method in (name for name in TRAINED if name in set(table["method"])):
        runs = sorted(folder.glob(f"runs/*/{method}/seed_*"))
        records = [read_steps(run) for run in runs if (run / "steps.jsonl").is_file()]
        if any(records):
            steps[method] = pd.concat(map(pd.DataFrame, filter(None, records))).groupby("step", as_index=False).mean()
        done = [json.loads((run / "done.json").read_text()) for run in runs if (run / "done.json").is_file()]
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


def _per_query(table: pd.DataFrame, division: str, control: str) -> pd.Series:
    """Ours minus control, by world, split and query: means over seeds."""
    rows = table[table["method"].isin((OURS, control)) & ((table["division"] == division) | (division == "all"))]
    means = rows.groupby(["world", "split", "query_id", "method"])[METRIC].mean().unstack("method")
    return means[OURS] - means[control]


def _groups(methods: Iterable[str]) -> list[tuple[str, list[str]]]:
    there = list(methods)
    known = [(group, [name for name in names if name in there]) for group, names in GROUPS]
    others = [name for name in there if not any(name in names for _, names in known)]
    return [(group, names) for group, names in (*known, ("Others", others)) if names]


def _by_group(averages: dict) -> dict:
    return {method: averages[method] for _, methods in _groups(averages) for method in methods}


# -- numbers and words -------------------------------------------------------------------------------------------------


def _told(gain: Mapping) -> list[tuple[str, str]]:
    """The gain in percent, where the control's value allows one, and in the metric itself, each with its interval."""
    percent = [100 * gain[name] for name in ("relative", "relative_low", "relative_high")]
    points = [gain[name] for name in ("difference", "low", "high")]
    told = [(f"{_number(percent[0], '+.1f')} %", _range(percent[1:], ".1f", " %"))] * (not math.isnan(percent[0]))
    return [*told, (_number(points[0], "+.3f"), _range(points[1:], ".3f"))]


def _number(value: float, form: str) -> str:
    return f"{value:{form}}".replace("-", "\N{MINUS SIGN}")


def _range(ends: Sequence[float], form: str, unit: str = "") -> str:
    """Empty for a single query, which has no interval."""
    low, high = ends
    return "" if math.isnan(low) else f"{_number(low, form)} to {_number(high, form)}{unit}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, dict):
        parts = ((key, _value(part), isinstance(part, dict | list)) for key, part in value.items())
        return ", ".join(f"{escape(str(key))} {f'({part})' if nested else part}" for key, part, nested in parts)
    return escape(str(value))


def _pairs(facts: Mapping) -> str:
    return " · ".join(f"{escape(str(name))} <b>{_value(value)}</b>" for name, value in facts.items())


# -- the page ----------------------------------------------------------------------------------------------------------


def _section(name: str, heading: str, note: str, body: str) -> str:
    return f"<section id={name}><h2>{heading}</h2>{f'<p class=note>{note}</p>' if note else ''}{body}</section>"


def _figure_section(name: str, heading: str, note: str, figure: figures.go.Figure) -> str:
    data = figure.to_json().replace("<", "\\u003c")
    height = figure.layout.height
    body = f"<div class=figure style='height:{height}px'></div><script type='application/json'>{data}</script>"
    return _section(name, heading, note, body)


def _table(metric: str, splits: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in (metric, *(SPLIT_NAMES[split] for split in splits)))
    return f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</table></div>"


def _panes(panes: Mapping[str, str]) -> str:
    """One pane a metric, of which one is seen; the buttons of all sections switch together."""
    buttons = "".join(
        f"<button type=button data-metric='{name}' aria-pressed={str(name == METRIC).lower()}>{name}</button>"
        for name in panes
    )
    shown = "".join(
        f"<div data-pane='{name}'{'' if name == METRIC else ' hidden'}>{body}</div>" for name, body in panes.items()
    )
    return f"<div class=tabs role=group aria-label=Metric>{buttons}</div>{shown}"


def _definitions(facts: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{html}</dd>" for name, html in facts.items() if html) + "</dl>"


def _page(title: str, summary: dict, sections: Iterable[str]) -> str:
    under = " · ".join(filter(None, [str(summary.get("date", "")), _count(len(summary["worlds"]), "world")]))
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f'<meta http-equiv=Content-Security-Policy content="{_POLICY}"><link rel=icon href="data:,">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body><main><header><h1>{escape(title)}</h1>"
        f"<p class=note>GCL Toolkit · {escape(under)}</p></header>{''.join(sections)}</main>"
        f"<script>{figures.plotly_js()}</script><script>{_JS % json.dumps(figures.CONFIG)}</script></body></html>"
    )


_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself refuses whatever would leave the page."""

_LEGEND = (
    "<p class=legend>score, share of the query's best: "
    + "".join(f"<span class='badge g{grade}'>{20 * grade}–{20 * grade + 20} %</span>" for grade in range(5))
    + "<span class=badge>not listed</span></p>"
)

_JS = """
const config = %s;
for (const place of document.querySelectorAll('.figure')) {
  const {data, layout} = JSON.parse(place.nextElementSibling.textContent);
  Plotly.newPlot(place, data, layout, config);
}
for (const button of document.querySelectorAll('[data-metric]')) button.onclick = () => {
  const metric = button.dataset.metric, top = button.getBoundingClientRect().top;
  for (const other of document.querySelectorAll('[data-metric]'))
    other.setAttribute('aria-pressed', other.dataset.metric === metric);
  for (const pane of document.querySelectorAll('[data-pane]')) pane.hidden = pane.dataset.pane !== metric;
  window.scrollBy(0, button.getBoundingClientRect().top - top);
};
"""

_CSS = """
:root { color-scheme: light dark; --page: #fff; --card: #f6f7f9; --text: #1b1f24; --soft: #59636e; --line: #dfe3e8;
  --accent: #0a63a8; --g0: #d6e4f2; --g1: #a6c8e4; --g2: #5f9fd0; --g3: #2470ad; --g4: #0b3c6f; }
@media (prefers-color-scheme: dark) { :root { --page: #121417; --card: #1b1f24; --text: #e8eaed; --soft: #a0a8b2;
  --line: #31373f; --accent: #6cb6f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 4px; }
h3 { font-size: 1.05rem; margin: 20px 0 2px; overflow-wrap: anywhere; }
section { margin-top: 44px; min-width: 0; }
header .note { margin-top: 4px; }
.note, .legend { color: var(--soft); font-size: .9rem; margin: 0 0 12px; max-width: 80ch; }
.lead { margin-top: 20px; } .lead > p:first-child { font-size: 1.15rem; max-width: 75ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-bottom: 14px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  font-size: .9rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
small { display: block; font-size: .78rem; line-height: 1.35; color: var(--soft); font-weight: 400; }
.tile em { font-size: .8rem; } em { font-style: italic; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: 7px 10px; text-align: right; vertical-align: top; border-top: 1px solid var(--line); }
td, td small, thead th { white-space: nowrap; }
th { text-align: left; font-weight: 600; } thead th { border-top: 0; text-align: right; background: var(--card); }
thead th:first-child { text-align: left; }
tbody th[scope=row] { min-width: 130px; max-width: 330px; }
.group span { position: sticky; left: 10px; display: inline-block; max-width: 80vw; }
.group th { color: var(--soft); font-size: .8rem; font-weight: 600; background: var(--card); }
.weak { color: var(--soft); } .over { font-weight: 400; color: var(--soft); }
.paper { background: var(--card); }
.tabs { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 10px; }
button { font: inherit; font-size: .85rem; color: var(--text); background: none; border: 1px solid var(--line);
  border-radius: 99px; padding: 5px 13px; cursor: pointer; }
button:hover { border-color: var(--accent); }
button[aria-pressed=true] { background: var(--accent); border-color: var(--accent); color: var(--page); }
.figure { width: 100%; }
.figure .main-svg text:not(.hovertext text) { fill: var(--text) !important; }
.query { margin-top: 20px; } .query h3 { margin-top: 0; }
.strip { display: grid; grid-template-columns: 118px repeat(8, minmax(76px, 1fr)); gap: 8px; min-width: 830px;
  padding: 8px 10px; border-top: 1px solid var(--line); } .strip:first-child { border-top: 0; }
.who { font-weight: 600; font-size: .88rem; position: sticky; left: 0; background: var(--page); z-index: 1; }
figure { margin: 0; min-width: 0; text-align: center; }
.pic, .words { display: block; aspect-ratio: 1; border-radius: 6px; border: 1px solid var(--line); overflow: hidden; }
.pic { background: #fff center / contain no-repeat; }
.words { padding: 5px; font-size: .68rem; line-height: 1.25; text-align: left;
  overflow-wrap: anywhere; background: var(--card); }
.badge { display: inline-block; padding: 0 7px; border-radius: 99px; font-size: .75rem; line-height: 1.55;
  white-space: nowrap; background: var(--line); color: var(--soft); font-variant-numeric: tabular-nums; }
.legend .badge { margin: 0 3px; }
.g0, .g1, .g2 { color: #0b1a2b; } .g3, .g4 { color: #fff; }
.g0 { background: var(--g0); } .g1 { background: var(--g1); } .g2 { background: var(--g2); }
.g3 { background: var(--g3); } .g4 { background: var(--g4); }
details { border-top: 1px solid var(--line); }
summary { padding: 8px 10px; cursor: pointer; font-size: .88rem; color: var(--accent); }
dl { display: grid; grid-template-columns: minmax(110px, 200px) 1fr; gap: 6px 16px; font-size: .9rem;
  margin: 8px 0 16px; }
dt { color: var(--soft); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
dd b { font-weight: 600; }
code { font-size: .9em; background: var(--card); padding: 1px 6px; border-radius: 5px; overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 600px) { main { padding: 20px 14px 48px; } h1 { font-size: 1.5rem; } th, td { padding: 6px 8px; }
  tbody th[scope=row] { min-width: 130px; max-width: 150px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
  .strip { grid-template-columns: 92px repeat(8, 76px); } .tiles { grid-template-columns: 1fr 1fr; } }
"""
