"""Studies: gcl demo, compare, lab, report, slices."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Literal

import tyro
from rich.progress import TaskID
from rich.table import Table

from gcl_toolkit import doctor as doctoring
from gcl_toolkit import recipes
from gcl_toolkit.cli.common import app, command, console, first_world, judged, progress, split_of
from gcl_toolkit.errors import UserError
from gcl_toolkit.fields import Fields
from gcl_toolkit.ranked_data import query_folds
from gcl_toolkit.results import as_markdown, order_and_recall
from gcl_toolkit.runs import writable_folder, write_json
from gcl_toolkit.sources import load, spelt
from gcl_toolkit.statistics import Difference, Interval
from gcl_toolkit.study import FOLD, LABORATORY, METHODS, TRAINED, StudyConfig, World, read_study, run_folder, study
from gcl_toolkit.summary import check_control, results
from gcl_toolkit.train import TrainConfig


@app.command(name="demo")
def demo(out: Path = Path("runs/demo"), recipe: str = "shop", jobs: int = 0) -> None:
    """Generate the shop, train every method, evaluate on four splits, write a report.

    Args:
        out: folder of the study; the same command goes on where it was stopped.
        recipe: shop (the demo), shop-full (3 shops x 3 seeds), shop-sparse.
        jobs: runs side by side, each with one thread; 0: one a core (one with a GPU).
    """
    chosen = recipes.recipe(recipe)
    console.print(f"[bold]{chosen.about}[/bold]; about {chosen.minutes:g} minutes on two idle cores")
    writable_folder(out)
    with console.status("generating the data"):
        worlds = chosen.worlds()
    _run_study(worlds, chosen.study, out, jobs)
    for promise in chosen.broken_promises(read_study(out)):
        console.print(f"[yellow]not as expected:[/yellow] {promise}")
    console.print(f"Next: open {out}/report.html; gcl search {out} 'red striped mug'; gcl compare --help")


@dataclass(frozen=True)
class Comparison:
    """What gcl compare and gcl lab ask for."""

    data: str = "shop"
    """"shop", "marqo_gs", a recipe (its data), or a file or folder: MarqoGS (hub parquet or tar), an own table, saved
    splits. A source's options may follow: marqo_gs:queries=2000,streaming=true or my.csv:quarantine=bad.csv."""
    out: Path = Path("runs/compare")
    """Folder of the study; whole runs found there are not repeated, so the same command goes on where it stopped."""
    methods: tuple[str, ...] = METHODS
    """Which methods; also "untrained", a pretrained encoder as it came."""
    seeds: int = 1
    """Trainings a method, each with other initial weights and another order."""
    folds: int = 1
    """How often, each time with other queries held out; for data with few queries."""
    steps: int = TrainConfig.steps
    """Training steps a method."""
    evaluate_every: int = 0
    """Also measure the dev queries of every split so often in training, in steps: curves in report and app."""
    batch: int = TrainConfig.batch
    """Pairs or products a step."""
    complete: str | None = None
    """Levels, fine to coarse, such as fine_id,coarse_id,top: evaluate on complete grades, rebuilt from
    queries_meta.parquet and products_meta.parquet, where the listed pairs are only a sample."""
    left: str = "query=1"
    """Fields of the queries with weights."""
    right: str = "image=0.5,title=0.5"
    """Fields of the products with weights."""
    encoder: str = "small"
    """small, an open_clip name, hf-hub:org/name, text:org/name."""
    pretrained: str | None = None
    """open_clip's tag or a checkpoint file."""
    control: str | None = None
    """What to tell gains over; by default the strongest control on the dev queries."""
    division: Literal["test", "all"] = "test"
    """Test queries; or all, where nothing was chosen on the dev ones."""
    jobs: int = 0
    """Runs side by side, each with one thread; 0: one a core (one with a GPU)."""

    def worlds(self) -> Sequence[World]:
        if self.data in recipes.RECIPES and self.data != "shop":  # which is a source too
            return recipes.RECIPES[self.data].worlds()
        splits, name = load(self.data), Path(spelt(self.data)[0]).resolve().name
        return [
            World(f"{name}{FOLD}{k}" if k else name, fold, judged(fold, self.data, self.complete))
            for k, fold in enumerate(query_folds(splits, self.folds))
        ]

    def study(self) -> StudyConfig:
        return StudyConfig(
            methods=self.methods,
            seeds=self.seeds,
            train=TrainConfig(steps=self.steps, batch=self.batch),
            encoder=self.encoder,
            pretrained=self.pretrained,
            left=Fields.parse(self.left),
            right=Fields.parse(self.right),
            evaluate_every=self.evaluate_every,
        )


@dataclass(frozen=True)
class Laboratory(Comparison):
    """`Comparison` with every loss."""

    out: Path = Path("runs/lab")
    methods: tuple[str, ...] = LABORATORY


@app.command(name="compare")
def compare(settings: tyro.conf.OmitArgPrefixes[Comparison]) -> None:
    """Train and compare methods on your data; every gain names its control."""
    writable_folder(settings.out)
    config = settings.study()
    with console.status(f"reading {settings.data}"):
        worlds = settings.worlds()
    _run_study(worlds, config, settings.out, settings.jobs, control=settings.control, division=settings.division)


@app.command(name="lab")
def lab(settings: tyro.conf.OmitArgPrefixes[Laboratory]) -> None:
    """The laboratory of losses: gcl compare with the controls, the losses of others and ours."""
    compare(settings)


@app.command(name="report")
def report_command(
    folder: tyro.conf.Positional[Path], data: str | None = None, complete: str | None = None, out: Path | None = None
) -> None:
    """Make the report of a study again, or that of one run of gcl train.

    Args:
        folder: a study, or a run.
        data: what the study was made of, "shop" or a file or folder: gives texts and pictures of queries.
        complete: as in gcl compare, where the study was made so.
        out: the HTML file; report.html in the folder by default.
    """
    from gcl_toolkit.report import write_report, write_run_report

    if (folder / "study.json").is_file():
        path = write_report(folder, [first_world(folder, data, complete)] if data else [], path=out)
        if not data:
            console.print("made without texts and pictures of queries; --data shop (or a path) gives them")
    elif data:
        raise UserError(f"{folder} holds no study; --data goes with the folder of a study")
    else:
        path = write_run_report(folder, path=out)
    console.print(str(path), highlight=False, soft_wrap=True)


@app.command(name="slices")
def slices_command(
    folder: tyro.conf.Positional[Path],
    data: str = "shop",
    split: str = "zero_shot",
    method: str = "gcl-matrix",
    control: str | None = None,
    metric: str = "NDCG@10",
    division: str = "test",
    category: str | None = None,
) -> None:
    """Where a method of a study gains over its control: head and tail, categories, judged products, query length.

    Args:
        folder: folder of a study.
        data: the data it was run on; of several worlds, the one of this name.
        split: which split.
        method: which method.
        control: over which control; by default the strongest on the dev queries.
        metric: such as NDCG@10 or AP.
        division: dev, test or all queries.
        category: a column of the products to slice by.
    """
    from gcl_toolkit.slices import by_slice, detectable, per_query, slices
    from gcl_toolkit.summary import strongest_control

    table = read_study(folder)
    if Path(data).resolve().name in set(table["world"]):
        table = table[table["world"] == Path(data).resolve().name]
    control = control or strongest_control(table, metric)
    with console.status(f"reading {data}"):
        labels = slices(split_of(data, split), category)
    a, b = (per_query(table, name, split, metric, division=division) for name in (method, control))
    shown = Table("by", "slice", "queries", method, control, "difference", "p (Holm)")
    for row in by_slice(a, b, labels, metric).itertuples():
        gap = Interval(row.difference.difference, row.difference.low, row.difference.high)
        p_value = f"{row.difference.p_value:.3f} (alone)" if row.way == "all" else f"{row.p_corrected:.3f}"
        shown.add_row(row.way, row.slice, str(row.queries), str(row.a), str(row.b), str(gap), p_value)
    console.print(f"{metric}, {split}, {division} queries, 95% intervals over queries", highlight=False)
    console.print(shown)
    console.print(detectable(a, b), highlight=False)


def _run_study(
    worlds: Sequence[World],
    config: StudyConfig,
    out: Path,
    jobs: int,
    *,
    control: str | None = None,
    division: str = "test",
) -> None:
    from gcl_toolkit.report import write_report

    check_control(config.methods, [*worlds[0].evaluated().values()], control)
    started = time.perf_counter()
    train_study(worlds, config, out, jobs)
    table = read_study(out)
    runs = table[["world", "method", "seed"]].drop_duplicates().itertuples(index=False)
    done = [json.loads((run_folder(out, *run) / "done.json").read_text()) for run in runs]
    told = {
        "command": command(),
        "date": date.today().isoformat(),
        "machine": doctoring.machine(),
        "minutes": round(sum(run["train_cpu_seconds"] for run in done) / 60, 1),
        "data": {world.name: dict(world.splits["in_domain"].card) for world in worlds},
        **results(table, control=control, division=division),
    }
    write_json(out / "results.json", told)
    (out / "results.md").write_text(as_markdown(told))
    _print_study(told)
    path = write_report(out, worlds)
    console.print(f"{(time.perf_counter() - started) / 60:.1f} minutes; {out / 'results.json'}, {path}")


def train_study(worlds: Sequence[World], config: StudyConfig, out: Path, jobs: int) -> None:
    with progress() as bars:
        tasks: dict[tuple, TaskID] = {}
        runs = len(worlds) * sum(config.seeds if m in TRAINED else 1 for m in config.methods)
        whole = bars.add_task("runs", total=runs)
        for event in study(worlds, config, out, jobs=jobs):
            key = (event.world, event.method, event.seed)
            if key not in tasks:
                tasks[key] = bars.add_task(f"{event.world} {event.method} seed {event.seed}", total=event.total)
            bars.update(tasks[key], completed=event.done)
            if event.whole:
                bars.update(tasks[key], visible=False)
                bars.advance(whole)


def _print_study(told: dict) -> None:
    cells = told["averages"]["NDCG@10"]
    shown = Table(title=f"NDCG@10 on {told['division']} queries, 95% intervals")
    shown.add_column("method", no_wrap=True)
    for split in next(iter(cells.values())):
        shown.add_column(split, justify="right")
    for method, row in cells.items():
        shown.add_row(method, *map(str, row.values()), style="bold" if method == "gcl-matrix" else "")
    console.print(shown)
    header, rows = order_and_recall(told)
    shown = Table(*header, title=f"Order and recall, mean of the splits; gains over {told['control']}")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    _print_gains(told, "gcl-matrix", told["control"], "")
    _print_gains(told, "gcl-linear", "clip", "; flatters, since plain CLIP takes known positives for negatives")


def _print_gains(told: dict, method: str, control: str, remark: str) -> None:
    names = [field.name for field in fields(Difference)]
    wanted = {"method": method, "control": control, "metric": "NDCG@10"}
    rows = [g for g in told["gains"] if {key: g[key] for key in wanted} == wanted]
    if rows:
        console.print(f"{method} over {control}{remark}:")
    for row in rows:
        console.print(f"  {row['split']:15s} {Difference(**{name: row[name] for name in names})}", highlight=False)
