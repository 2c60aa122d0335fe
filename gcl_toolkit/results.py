"""A study's results as Markdown: the tables of docs/RESULTS.md, as they came out."""

from __future__ import annotations

from collections.abc import Iterable

from gcl_toolkit.summary import MACRO


def as_markdown(results: dict) -> str:
    """The tables of a results.json (what `summary.results` gives, with command, date, machine and minutes)."""
    queries = ", ".join(f"{count:,} {split}" for split, count in results["queries"].items())
    machine = results["machine"]
    lines = [
        f"`{results['command']}`, {results['date']}, {results['minutes']:g} CPU-minutes of training on "
        f"{machine['processor']}, {machine['cores']} cores, device {machine['device']}, "
        f"torch {machine['versions']['torch']}. "
        f"Worlds: {', '.join(results['worlds'])}; seeds: {results['seeds']}; "
        f"{results['division']} queries: {queries}. Intervals: 95%, bootstrap over queries and seeds.",
    ]
    for metric, methods in results["averages"].items():
        splits = list(next(iter(methods.values())))
        rows = ([method, *(_interval(*cells[split]) for split in splits)] for method, cells in methods.items())
        lines += ["", f"**{metric}**", "", *_table(["method", *splits], rows)]
    lines += ["", f"**Order and recall** (the mean of the splits; gains over `{results['control']}`)", ""]
    lines += _table(*order_and_recall(results))
    chosen = ", the strongest on dev queries" if results["strongest"] else ", as asked for"
    lines += ["", f"**Gains** (headline control: `{results['control']}`{chosen})", ""]
    rows = ([g["method"], g["control"], g["metric"], g["split"], *_gain(g)] for g in results["gains"])
    lines += _table(["method", "control", "metric", "split", "difference", "relative", "p"], rows)
    return "\n".join(lines) + "\n"


def method_as_markdown(results: dict, method: str) -> str:
    """What a results.json says of one method: its averages beside those of every other, and its gains: over the
    strongest control split by split, over the other controls in the mean of the splits."""
    lines: list[str] = []
    for metric in ("NDCG@10", "AP"):
        methods = results["averages"][metric]
        splits = list(methods[method])
        rows = ([f"**{m}**" if m == method else m, *(_interval(*c[s]) for s in splits)] for m, c in methods.items())
        lines += [f"**{metric}**", "", *_table(["method", *splits], rows), ""]
    gains = [g for g in results["gains"] if g["method"] == method and g["metric"] in ("NDCG@10", "AP")]
    gains = [g for g in gains if g["split"] == MACRO or g["control"] == results["control"]]
    if gains:
        lines += [f"**Gains of {method}** over its controls; headline: `{results['control']}`; p is not corrected", ""]
        rows = ([g["control"], g["metric"], g["split"], *_gain(g)] for g in gains)
        lines += _table(["control", "metric", "split", "difference", "relative", "p"], rows)
    return "\n".join(lines).strip()


def order_and_recall(results: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: of each method NDCG@10 (order) beside AP (recall), the mean of the splits, each with its gain
    over the headline's control and the gain in the split where it is least."""
    metrics = [metric for metric in ("NDCG@10", "AP") if metric in results["averages"]]
    header = ["method", *(cell for metric in metrics for cell in (metric, "gain", "least gain of a split"))]
    methods = results["averages"][metrics[0]]
    return header, [
        [name, *(cell for metric in metrics for cell in _beside(results, name, metric))] for name in methods
    ]


def stages_as_markdown(told: dict) -> str:
    """The table and the finding of a stages.json."""
    machine, config = told["machine"], told["config"]
    lines = [
        f"`{told['command']}`, {told['date']}, {machine['processor']}, one thread. {told['metric']} on "
        f"{config['division']} queries of {config['split']} with 95% intervals; ceiling: an oracle as second stage; "
        "milliseconds of processor time a query; MB: parameters and what is stored of the products.",
        "",
        *_table(*stages_table(told)),
        "",
        told["finding"],
    ]
    return "\n".join(lines) + "\n"


def stages_table(told: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a stages.json: every system but the oracle, which is the ceiling beside it."""
    systems = told["systems"]
    ceilings = {(row["first"], row["depth"]): f"{row['mean']:.3f}" for row in systems if row["second"] == "oracle"}
    rows = []
    for row in systems:
        if row["second"] != "oracle":
            gained = {"difference": row["difference"]["mean"], **row["difference"]}
            rows.append(
                [
                    row["system"],
                    _interval(row["mean"], row["low"], row["high"]),
                    ceilings[row["first"], row["depth"]] if row["second"] else "",
                    _difference(gained) if row["system"] != "gcl-matrix" else "",
                    f"{row['p50_ms']:.1f}, {row['p99_ms']:.1f}",
                    f"{row['parameters_mb'] + row['stored_mb']:.1f}",
                ]
            )
    return ["system", "mean", "ceiling", "over gcl-matrix", "p50, p99 ms", "MB"], rows


def _beside(results: dict, method: str, metric: str) -> list[str]:
    mean = f"{results['averages'][metric][method][MACRO][0]:.3f}"
    wanted = (method, results["control"], metric)
    gains = {g["split"]: g for g in results["gains"] if (g["method"], g["control"], g["metric"]) == wanted}
    if not gains:
        return [mean, "", ""]
    macro, least = gains.pop(MACRO), min(gains.values(), key=lambda gain: gain["difference"])
    return [mean, _difference(macro), f"{_difference(least)} {least['split']}"]


def _gain(gain: dict) -> tuple[str, str, str]:
    return (
        _difference(gain),
        f"{gain['relative']:+.1%} [{gain['relative_low']:+.1%}, {gain['relative_high']:+.1%}]",
        f"{gain['p_value']:.4f}",
    )


def _difference(gain: dict) -> str:
    return f"{gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
