"""The command `gcl`: thin steps around the library; training settings are derived from TrainConfig."""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from gcl_toolkit import doctor as doctoring
from gcl_toolkit import recipes
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.evaluate import METRICS, evaluate
from gcl_toolkit.fields import Fields
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData
from gcl_toolkit.results import as_markdown
from gcl_toolkit.runs import Run, load_model, writable_folder, write_json
from gcl_toolkit.search import search
from gcl_toolkit.sources import load
from gcl_toolkit.statistics import interval
from gcl_toolkit.study import METHODS, TRAINED, StudyConfig, World, read_study, study
from gcl_toolkit.summary import averages, gain, results
from gcl_toolkit.train import TrainConfig, train

console = Console()
DEFAULT_TRAINING = TrainConfig()
app = tyro.extras.SubcommandApp()
data_app = tyro.extras.SubcommandApp()
app.command(data_app, name="data", help="Look at data, make data.")


# -- studies -----------------------------------------------------------------------------------------------------------


@app.command(name="demo")
def demo(out: Path = Path("runs/demo"), recipe: str = "shop", jobs: int = 0) -> None:
    """Generate the shop, train every method, evaluate on four splits, write a report.

    Args:
        out: folder of the study; the same command goes on where it was stopped.
        recipe: shop (the demo), shop-full (3 shops x 3 seeds), shop-sparse.
        jobs: runs side by side, each with one thread; 0: one a core.
    """
    chosen = recipes.recipe(recipe)
    console.print(f"[bold]{chosen.about}[/bold]; about {chosen.minutes:g} minutes on two idle cores")
    writable_folder(out)
    with console.status("generating the data"):
        worlds = chosen.worlds()
    _run_study(worlds, chosen.study, out, jobs, control=None)
    for promise in chosen.broken_promises(read_study(out)):
        console.print(f"[yellow]not as expected:[/yellow] {promise}")
    console.print(f"Next: open {out}/report.html; gcl search {out} 'red striped mug'; gcl compare --help")


@app.command(name="compare")
def compare(
    data: tyro.conf.Positional[str],
    out: Path = Path("runs/compare"),
    methods: tuple[str, ...] = METHODS,
    seeds: int = 1,
    steps: int | None = None,
    complete: str | None = None,
    left: str = "query=1",
    right: str = "image=0.5,title=0.5",
    encoder: str = "small",
    queries: int | None = None,
    control: str | None = None,
    jobs: int = 0,
) -> None:
    """Train and compare methods on your data; every gain names its control.

    Args:
        data: "shop", or a file or folder: MarqoGS (hub parquet or the tar), an own table, saved splits.
        out: folder of the study; the same command goes on where it was stopped.
        methods: which methods.
        seeds: trainings a method, each with other initial weights and another order.
        steps: training steps a method; TrainConfig's by default.
        complete: levels, fine to coarse, such as fine_id,coarse_id,top: evaluate on complete grades, rebuilt from
            queries_meta.parquet and products_meta.parquet, where the listed pairs are only a sample.
        left: fields of the queries with weights.
        right: fields of the products with weights.
        encoder: small, an open_clip name, hf-hub:org/name, text:org/name.
        queries: so many queries a split, drawn at random, each with its whole list.
        control: what to tell gains over; by default the strongest control on the dev queries.
        jobs: runs side by side, each with one thread; 0: one a core.
    """
    from gcl_toolkit.sources.hierarchy import complete_grades

    writable_folder(out)
    with console.status(f"reading {data}"):
        splits = load(data, **({} if queries is None else {"queries": queries}))
        judged = complete_grades(splits, data, tuple(complete.split(","))) if complete else {}
    settings = StudyConfig(
        methods=methods,
        seeds=seeds,
        train=TrainConfig() if steps is None else TrainConfig(steps=steps),
        encoder=encoder,
        left=Fields.parse(left),
        right=Fields.parse(right),
    )
    _run_study([World(Path(data).resolve().name, splits, judged)], settings, out, jobs, control=control)


def _run_study(worlds: Sequence[World], config: StudyConfig, out: Path, jobs: int, control: str | None) -> None:
    from gcl_toolkit.report import write_report

    started = time.perf_counter()
    with _progress() as bars:
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
    table = read_study(out)
    told = {
        "command": _command(),
        "date": date.today().isoformat(),
        "machine": doctoring.machine(),
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "data": {world.name: dict(world.splits["in_domain"].card) for world in worlds},
        **results(table, control=control),
    }
    write_json(out / "results.json", told)
    (out / "results.md").write_text(as_markdown(told))
    _print_study(table, told["control"])
    title = f"GCL on {', '.join(world.name for world in worlds)}"
    path = write_report(out, worlds, title=title, command=told["command"])
    console.print(f"{told['minutes']:g} minutes; {out / 'results.json'}, {path}")


def _print_study(table, control: str) -> None:
    cells = averages(table)
    shown = Table(title="NDCG@10 on test queries, 95% intervals over queries")
    shown.add_column("method", no_wrap=True)
    for split in cells.columns:
        shown.add_column(split, justify="right")
    for method, row in cells.iterrows():
        style = "bold" if method == "gcl-matrix" else ""
        shown.add_row(str(method), *(str(cell) for cell in row), style=style)
    console.print(shown)
    if "gcl-matrix" in cells.index:
        console.print(f"gcl-matrix over {control}:")
        for split in cells.columns:
            console.print(f"  {split:15s} {gain(table, 'gcl-matrix', control, split=split)}", highlight=False)
    if {"gcl-linear", "clip"} <= set(cells.index):
        console.print(
            "GCL as published (linear) over plain CLIP; flatters, since plain CLIP takes positives for negatives:"
        )
        for split in cells.columns:
            console.print(f"  {split:15s} {gain(table, 'gcl-linear', 'clip', split=split)}", highlight=False)


# -- one model ---------------------------------------------------------------------------------------------------------


@app.command(name="train")
def train_command(
    data: tyro.conf.Positional[str],
    out: Path = Path("runs/model"),
    left: str = "query=1",
    right: str = "image=0.5,title=0.5",
    encoder: str = "small",
    pretrained: str | None = None,
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = DEFAULT_TRAINING,
) -> None:
    """Train one model on the in_domain split of some data.

    Args:
        data: "shop", or a file or folder in a known layout.
        out: folder of the run: config.json, steps.jsonl, checkpoints/.
        left: fields of the queries with weights.
        right: fields of the products with weights.
        encoder: small, an open_clip name, hf-hub:org/name, text:org/name.
        pretrained: open_clip's tag or a checkpoint file.
    """
    run = Run(out)
    with console.status(f"reading {data}"):
        split = _split(data, "in_domain")
    sides = Fields.parse(left), Fields.parse(right)
    model = GCLModel(encoder, left=sides[0], right=sides[1], seed=config.seed, pretrained=pretrained)
    with _progress() as bars:
        bar = bars.add_task("training", total=config.steps)
        for record in train(model, split, config, run=run):
            bars.update(bar, completed=record["step"], description=f"loss {record['loss']:.3f}")
    console.print(f"{record['seconds']:.0f} s, loss {record['loss']:.3f}; next: gcl evaluate {out} {data}")


@app.command(name="evaluate")
def evaluate_command(
    run: tyro.conf.Positional[Path],
    data: tyro.conf.Positional[str],
    split: tuple[str, ...] = ("in_domain", "novel_query", "novel_document", "zero_shot"),
    division: str = "test",
    form: str = "complete",
    out: Path | None = None,
) -> None:
    """Evaluate a trained model: every metric with its interval over queries, split by split.

    Args:
        run: folder of a run or a model.
        data: "shop", or a file or folder in a known layout.
        split: which splits.
        division: dev, test or all queries.
        form: complete, or official (grades 1..100, up to 2,000 queries drawn as the official script does).
        out: also write the per-query table here, as parquet.
    """
    import pandas as pd

    model, shown, tables = load_model(run), Table(title=f"{run} on {data}, {division} queries, {form}"), []
    for column in ("split", "queries", *map(str, METRICS)):
        shown.add_column(column, justify="right", no_wrap=column == "split")
    with console.status(f"reading {data}"):
        parts = {name: _split(data, name) for name in split}
    for name, part in parts.items():
        with console.status(f"evaluating {name}"):
            table = evaluate(model, part, METRICS, division=division, form=form)
        shown.add_row(name, str(len(table)), *(str(interval(table[str(metric)])) for metric in METRICS))
        tables.append(table.assign(split=name))
    console.print(shown)
    if out:
        writable_folder(out.parent)
        pd.concat(tables).to_parquet(out)


@app.command(name="search")
def search_command(
    run: tyro.conf.Positional[Path], query: tyro.conf.Positional[str], data: str = "shop", k: int = 10
) -> None:
    """The best products for a text, from the held-out documents of some data.

    Args:
        run: folder of a run, a model, or a study (its gcl-matrix model is taken).
        query: what to look for.
        data: "shop", or a file or folder in a known layout.
        k: how many.
    """
    if (run / "study.json").is_file():
        run = next(iter(sorted(run.glob("runs/*/gcl-matrix/seed_0"))), run)
    model = load_model(run)
    with console.status(f"reading {data}"):
        corpus = _split(data, "zero_shot").corpus
        scores, ids = search(model, [query], corpus, k)
    known = {product: row for row, product in enumerate(corpus["product_id"].to_pylist())}
    shown = Table(
        "rank", "cosine", "product_id", *(name for name in corpus.column_names if name in ("title", "category"))
    )
    for rank, (score, product) in enumerate(zip(scores[0], ids[0], strict=True), start=1):
        texts = [
            str(corpus[name][known[product]].as_py() or "")
            for name in ("title", "category")
            if name in corpus.column_names
        ]
        shown.add_row(str(rank), f"{score:.3f}", product, *texts)
    console.print(shown)


# -- data --------------------------------------------------------------------------------------------------------------


@data_app.command(name="check")
def check(path: tyro.conf.Positional[Path], images: int = 1000) -> None:
    """What a table or folder holds and what is wrong with it; exit status 1 when something is.

    Args:
        path: a file or a folder.
        images: how many pictures of a corpus to decode, drawn at random; -1: all.
    """
    from gcl_toolkit.sources.check import check as examine

    facts, problems = examine(path, None if images < 0 else images)
    for fact in facts:
        console.print(f"  {fact}", highlight=False, markup=False)
    for problem in problems:
        console.print(f"problem: {problem}", highlight=False, markup=False, style="red")
    console.print(f"{len(problems)} problems" if problems else "no problem found")
    sys.exit(1 if problems else 0)


@data_app.command(name="make")
def make(out: tyro.conf.Positional[Path], seed: int = 0, sparse: bool = False, sheet: bool = True) -> None:
    """Write the generated shop as parquet, with its data card and a contact sheet.

    Args:
        out: the folder.
        seed: the shop is a function of it.
        sparse: 2 training pairs a product, as in MarqoGS-10M.
        sheet: also draw contact_sheet.png.
    """
    from gcl_toolkit.sources import shop, table

    writable_folder(out)
    with console.status("generating the shop"):
        splits = shop.load(seed=seed, sparse=sparse)
        table.write(splits, out)
        write_json(out / "card.json", splits["in_domain"].card)
        if sheet:
            shop.contact_sheet(out / "contact_sheet.png")
    for split in splits.values():
        console.print(f"  {split}", highlight=False)
    console.print(f"next: gcl data check {out}; gcl compare {out}")


# -- the machine -------------------------------------------------------------------------------------------------------


@app.command(name="doctor")
def doctor() -> None:
    """Versions, device, free disk and memory, what is missing, and how long the demo will take."""
    facts, problems = doctoring.examine()
    for fact in facts:
        console.print(f"  {fact}", highlight=False, markup=False)
    seconds = doctoring.step_seconds()
    minutes = recipes.RECIPES["shop"].minutes * seconds / doctoring.REFERENCE_STEP_SECONDS
    console.print(f"  gcl demo: about {max(1, minutes):.0f} minutes on this machine as it is now")
    for problem in problems:
        console.print(f"problem: {problem}", highlight=False, markup=False, style="red")
    console.print(f"{len(problems)} problems" if problems else "nothing is missing: gcl demo")
    sys.exit(1 if problems else 0)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _split(data: str, name: str) -> RankedData:
    splits = load(data)
    if name not in splits:
        raise DataError(f"{data} has no split {name!r}; it has {', '.join(splits)}")
    return splits[name]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _command() -> str:
    return shlex.join(["gcl", *sys.argv[1:]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. A mistake of the user's is one line and exit status 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.print(f"note: {message}", markup=False)
            app.cli(args=arguments, prog="gcl", description="Generalized Contrastive Learning, in the open.")
    except UserError as error:
        print(f"gcl: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("gcl: stopped; the same command goes on after the last whole run", file=sys.stderr)
        sys.exit(130)
