"""A study's results as Markdown: the tables of docs/RESULTS.md and of model cards."""

import math
from collections.abc import Iterable

from gcl_toolkit.measure.statistics import Difference
from gcl_toolkit.methods import DEFAULT
from gcl_toolkit.studies.candidates import CHOSEN, choices_table
from gcl_toolkit.studies.results import MACRO, Results
from gcl_toolkit.studies.stages import Stages


def as_markdown(results: Results) -> str:
    """All tables of a results.json."""
    queries = ", ".join(f"{count:,} {split}" for split, count in results.queries.items())
    machine = results.machine
    chosen = "the strongest on dev queries" if results.strongest else "as chosen by the user"
    rows = ([g.method, g.control, g.metric, g.split, *_gain(g.difference)] for g in results.gains)
    lines = [
        f"`{results.command}`, {results.date}, {results.minutes or 0:g} CPU-minutes of training on "
        f"{machine['processor']}, {machine['cores']} cores, device {machine['device']}, "
        f"torch {machine['versions']['torch']}. "
        f"Data sets: {', '.join(results.worlds)}; folds: {results.folds}; seeds: {results.seeds}; "
        f"{results.division} queries: {queries}. Intervals: 95%, bootstrap over queries and seeds; p is not corrected "
        "for several comparisons.",
    ]
    if results.choices:
        lines += ["", f"**{CHOSEN}**", "", *_table(*choices_table(results.choices))]
    for metric in results.averages:
        lines += ["", f"**{metric}**", "", *_averages(results, metric)]
    lines += ["", f"**Order and recall** (the mean of the splits; gains over `{results.control}`)", ""]
    lines += _table(*order_and_recall(results))
    lines += ["", f"**Gains** (headline control: `{results.control}`, {chosen})", ""]
    lines += _table(["method", "control", "metric", "split", "difference", "relative", "p"], rows)
    return "\n".join(lines) + "\n"


def method_as_markdown(results: Results, method: str) -> str:
    """What a study shows of one method: its averages beside those of every other, and its gains: over the headline's
    control split by split, over the other controls in the mean of the splits."""
    lines: list[str] = []
    for metric in ("NDCG@10", "AP"):
        lines += [f"**{metric}**", "", *_averages(results, metric, bold=method), ""]
    gains = [
        [g.control, g.metric, g.split, *_gain(g.difference)]
        for g in results.gains
        if g.method == method and g.metric in ("NDCG@10", "AP") and (g.split == MACRO or g.control == results.control)
    ]
    if gains:
        lines += [f"**Gains of {method}** over its controls; headline: `{results.control}`; p is not corrected", ""]
        lines += _table(["control", "metric", "split", "difference", "relative", "p"], gains)
    return "\n".join(lines).strip()


def order_and_recall(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: for each method NDCG@10 (order) beside AP (recall), the mean of the splits, each with its gain
    over the headline's control and the split where that gain is least."""
    metrics = [metric for metric in ("NDCG@10", "AP") if metric in results.averages]
    header = ["method", *(cell for metric in metrics for cell in (metric, "gain", "least gain of a split"))]
    rows = []
    for name in results.averages[metrics[0]]:
        rows.append([name])
        for metric in metrics:
            gains = results.gains_of(name, results.control, metric)
            mean = f"{results.averages[metric][name][MACRO].mean:.3f}"
            if not gains:
                rows[-1] += [mean, "", ""]
                continue
            macro = gains.pop(MACRO)
            least = min(gains, key=lambda split: gains[split].difference)
            rows[-1] += [mean, _difference(macro), f"{_difference(gains[least])} {least}"]
    return header, rows


def stages_as_markdown(result: Stages) -> str:
    """The table and the finding of a stages.json."""
    config = result.config
    lines = [
        f"`{result.command}`, {result.date}, {result.machine['processor']}, one thread. {result.metric} on "
        f"{config.division} queries of {config.split} with 95% intervals; ceiling: an oracle as second stage; "
        "milliseconds of CPU time a query; MB: parameters and what is stored of the products.",
        "",
        *_table(*stages_table(result)),
        "",
        result.finding,
    ]
    return "\n".join(lines) + "\n"


def stages_table(result: Stages) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every system but the oracle, which is the ceiling beside it."""
    ceilings = {(row.first, row.depth): f"{row.mean:.3f}" for row in result.systems if row.second == "oracle"}
    rows = [
        [
            str(row),
            _interval(row.mean, row.low, row.high),
            ceilings[row.first, row.depth] if row.second else "",
            _difference(row.difference) if str(row) != DEFAULT else "",
            f"{row.p50_ms:.1f}, {row.p99_ms:.1f}",
            f"{(row.parameters_mb or 0) + (row.stored_mb or 0):.1f}",
        ]
        for row in result.systems
        if row.second != "oracle"
    ]
    return ["system", "mean", "ceiling", f"over {DEFAULT}", "p50, p99 ms", "MB"], rows


def _averages(results: Results, metric: str, bold: str = "") -> list[str]:
    rows = (
        [f"**{name}**" if name == bold else name, *(_interval(*cell) for cell in cells.values())]
        for name, cells in results.averages[metric].items()
    )
    return _table(["method", *results.splits], rows)


def _gain(gain: Difference) -> tuple[str, str, str]:
    relative = f"{gain.relative:+.1%}{_ends(gain.relative_low, gain.relative_high, '+.1%')}"
    return _difference(gain), relative, f"{gain.p_value:.4f}"


def _difference(gain: Difference) -> str:
    return f"{gain.difference:+.3f}{_ends(gain.low, gain.high, '+.3f')}"


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f}{_ends(low, high, '.3f')}"


def _ends(low: float, high: float, form: str) -> str:
    """Of an interval; "" for a single query, which has none."""
    return "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"


def escaped(text: str) -> str:
    """A name from data in Markdown: no line breaks, and no cells or HTML elements of its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
