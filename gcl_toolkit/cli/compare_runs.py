"""gcl compare-runs: is one ranking better than another? Rankings of any systems, from files; no torch."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from gcl_toolkit.cli.common import app, command, console, print_notes
from gcl_toolkit.data.judgements import Judgements
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.runs import read_qrels, read_systems, rows_of, with_judgements
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.measure.metrics import Metric, parse
from gcl_toolkit.measure.slices import slices
from gcl_toolkit.measure.statistics import short
from gcl_toolkit.measure.verdict import Lists, Verdict, corrected, tied, verdict


@app.command(name="compare-runs")
def compare_runs_command(
    runs: tyro.conf.Positional[tuple[str, ...]],
    qrels: Path,
    products: Path | None = None,
    queries: Path | None = None,
    baseline: str | None = None,
    metric: str = "NDCG@10",
    judgements: Path | None = None,
    judge: str | None = None,
    category: str | None = None,
    out: Path = Path("runs/compare-runs"),
    fail_if_worse: float | None = None,
) -> None:
    """Compare the rankings of two to five systems: a verdict and a report in HTML.

    Args:
        runs: files of rankings, or NAME=file: TREC, ranx or BEIR runs, or a table of query, product and rank or score.
        qrels: the judgements: TREC, BEIR, Quepid, OpenSearch, or a table of query, product and grade.
        products: a table with product_id, title, and any attributes.
        queries: a table with query_id and query, the text.
        baseline: the system that the others are compared with; by default the last one.
        metric: such as NDCG@10, AP, RR, Recall@100.
        judgements: grades made in the app (judgements.jsonl), in the place of those of the qrels.
        judge: a language model of these judgements, as gcl judge names it (lm:...); also print the verdict by its
            grades, corrected by those of people.
        category: the products' column to slice the queries by; by default "category".
        out: the folder of the report, verdict.html.
        fail_if_worse: exit with status 1 if a system may be worse than the baseline by more than this: the lower end of
            the interval is below minus this over all queries, or in a slice that is worse after Holm's correction.
    """
    reasons([], fail_if_worse or 0)  # refuses a gate that can't fail
    with console.status("reading"):
        data, rankings = read_systems(runs, qrels, products, queries, judgements)
    print_notes(data)
    lists = _lists(data, rankings, category)
    judged = _judged(data, lists, judge, qrels, judgements) if judge else None
    verdicts, path = _compared(data, lists, baseline or [*rankings][-1], parse(metric), out / "verdict.html", judged)
    console.print(f"report: {path}")
    if fail_if_worse is not None and (failed := reasons(verdicts, fail_if_worse)):
        sys.exit("\n".join(f"gcl: {reason}" for reason in failed))


def _lists(data: RankedData, rankings: dict, category: str | None) -> Lists:
    labels = slices(data, category or ("category" if "category" in data.corpus_fields else None))
    return Lists(data.query_ids.tolist(), *data.pairs, rankings, labels)


def _compared(
    data: RankedData, lists: Lists, baseline: str, metric: Metric, path: Path, judged: Lists | None
) -> tuple[list[Verdict], Path]:
    """The verdict on each system against the baseline, printed and written to a report, whose path is returned.

    judged: with the grades of a language model, whose verdict, corrected by people's grades, is added.
    """
    from gcl_toolkit.views.verdict import write_verdict

    if baseline not in lists.rankings:
        raise unknown("baseline", baseline, lists.rankings)
    verdicts = [verdict(lists, name, baseline, metric) for name in lists.rankings if name != baseline]
    groups = tied(lists, metric) if len(lists.rankings) > 2 else []
    for found in verdicts:
        _print(found)
    if groups:
        console.print(f"not separated, best first: {'; '.join(', '.join(group) for group in groups)}")
    by_judge = [corrected(lists, judged, found.a, baseline, metric) for found in verdicts] if judged else []
    for found in by_judge:
        _print(found)
    return verdicts, write_verdict(path, data, lists, verdicts, groups, command(), by_judge)


def _judged(data: RankedData, lists: Lists, judge: str, qrels: Path, judgements: Path | None) -> Lists:
    """The same with a language model's grades instead of people's."""
    if judgements is None:
        raise UserError("--judge names a judge of --judgements; give that file, too")
    pairs = rows_of(data, with_judgements(read_qrels(qrels), Judgements(judgements), judge))
    return replace(lists, qrel_query=pairs.query, qrel_product=pairs.product, qrel_grade=pairs.score)


def reasons(verdicts: Sequence[Verdict], allowed: float) -> list[str]:
    """Why a gate that allows a loss of `allowed` fails, a line each; empty if it passes."""
    if not allowed >= 0:
        raise UserError(f"--fail-if-worse is {allowed}; the loss that is allowed is expected, 0 or more")
    failed = []
    for found in verdicts:
        if found.difference.low < -allowed:
            failed.append(f"{_worse(found, allowed)} over all queries: {found.difference}")
        for row in found.slices[found.slices["regressed"]].itertuples():
            if row.difference.low < -allowed:
                failed.append(f"{_worse(found, allowed)} where {row.way} is {row.slice}: {row.difference}")
    return failed


def _worse(found: Verdict, allowed: float) -> str:
    return f"{found.a} may be worse than {found.b} by more than {allowed:g}"


def _print(found: Verdict) -> None:
    console.print(found.sentence)
    missing = ", ".join(f"{mean:.1f} of {name}" for name, mean in found.unjudged.items())
    low, high = found.bounds
    bounds = (
        f"; whatever they are, the difference is within [{short(low, '+')}, {short(high, '+')}]" if low == low else ""
    )
    if missing:
        console.print(f"  unjudged among the first {found.metric.cutoff or 10}: {missing}{bounds}")
    for name, variant in found.variants.items():
        console.print(f"  {name}: {variant}")
    for warning in found.warnings:
        console.print(f"  warning: {warning}")
    for row in found.slices[found.slices["regressed"]].itertuples():
        few = ", too few queries to trust" if row.few else ""
        about = f"{row.difference}; p = {short(row.p_corrected)} after Holm's correction{few}"
        console.print(f"  regressed where {row.way} is {row.slice}: {about}")
