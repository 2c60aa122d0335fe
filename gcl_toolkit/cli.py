"""The command `gcl`: thin steps around the library; training settings are derived from TrainConfig."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

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
from gcl_toolkit.search import search, top_k
from gcl_toolkit.sources import load
from gcl_toolkit.stages import StagesConfig, stages
from gcl_toolkit.statistics import Difference, Interval, interval
from gcl_toolkit.study import METHODS, TRAINED, StudyConfig, World, read_study, study
from gcl_toolkit.summary import results
from gcl_toolkit.train import TrainConfig, train

console = Console()
DEFAULT_TRAINING = TrainConfig()
DEFAULT_STAGES = StagesConfig()
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
        jobs: runs side by side, each with one thread; 0: one a core (one with a GPU).
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
    pretrained: str | None = None,
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
        pretrained: open_clip's tag or a checkpoint file.
        queries: so many queries a split, drawn at random, each with its whole list.
        control: what to tell gains over; by default the strongest control on the dev queries.
        jobs: runs side by side, each with one thread; 0: one a core (one with a GPU).
    """
    writable_folder(out)
    with console.status(f"reading {data}"):
        splits = load(data, **({} if queries is None else {"queries": queries}))
        judged = _judged(splits, data, complete)
    settings = StudyConfig(
        methods=methods,
        seeds=seeds,
        train=TrainConfig() if steps is None else TrainConfig(steps=steps),
        encoder=encoder,
        pretrained=pretrained,
        left=Fields.parse(left),
        right=Fields.parse(right),
    )
    _run_study([World(Path(data).resolve().name, splits, judged)], settings, out, jobs, control=control)


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
        path = write_report(folder, [_first_world(folder, data, complete)] if data else [], path=out)
        if not data:
            console.print("made without texts and pictures of queries; --data shop (or a path) gives them")
    elif data:
        raise UserError(f"{folder} holds no study; --data goes with the folder of a study")
    else:
        path = write_run_report(folder, path=out)
    console.print(str(path), highlight=False, soft_wrap=True)


def _first_world(folder: Path, data: str, complete: str | None) -> World:
    """The data of a study's first world, the one whose queries are shown; shop2 and sparse2 are made with seed 2."""
    name = str(read_study(folder)["world"].iloc[0])
    seed = re.search(r"\d*$", name)
    with console.status(f"reading {data}"):
        splits = load(data, **({"seed": int(seed[0])} if data == "shop" and seed and seed[0] else {}))
        return World(name, splits, _judged(splits, data, complete))


def _judged(splits: dict[str, RankedData], data: str, complete: str | None) -> dict[str, RankedData]:
    from gcl_toolkit.sources.hierarchy import complete_grades

    return complete_grades(splits, data, tuple(complete.split(","))) if complete else {}


def _run_study(worlds: Sequence[World], config: StudyConfig, out: Path, jobs: int, control: str | None) -> None:
    from gcl_toolkit.report import write_report

    started = time.perf_counter()
    _train_study(worlds, config, out, jobs)
    done = [json.loads(path.read_text()) for path in out.glob("runs/*/*/*/done.json")]
    table = read_study(out)
    told = {
        "command": _command(),
        "date": date.today().isoformat(),
        "machine": doctoring.machine(),
        "minutes": round(sum(run["train_cpu_seconds"] for run in done) / 60, 1),
        "data": {world.name: dict(world.splits["in_domain"].card) for world in worlds},
        **results(table, control=control),
    }
    write_json(out / "results.json", told)
    (out / "results.md").write_text(as_markdown(told))
    _print_study(told)
    path = write_report(out, worlds)
    console.print(f"{(time.perf_counter() - started) / 60:.1f} minutes; {out / 'results.json'}, {path}")


def _train_study(worlds: Sequence[World], config: StudyConfig, out: Path, jobs: int) -> None:
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


def _print_study(told: dict) -> None:
    cells = told["averages"]["NDCG@10"]
    shown = Table(title=f"NDCG@10 on {told['division']} queries, 95% intervals")
    shown.add_column("method", no_wrap=True)
    for split in next(iter(cells.values())):
        shown.add_column(split, justify="right")
    for method, row in cells.items():
        shown.add_row(method, *map(str, row.values()), style="bold" if method == "gcl-matrix" else "")
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


@app.command(name="stages")
def stages_command(
    folder: tyro.conf.Positional[Path],
    data: str | None = None,
    complete: str | None = None,
    config: Annotated[StagesConfig, tyro.conf.arg(name="")] = DEFAULT_STAGES,
) -> None:
    """One stage or two: GCL alone against first stages with a re-ranker, by quality, latency and memory.

    Args:
        folder: of a study (gcl demo, gcl compare); stages.json and stages.html are written into it.
        data: what the study was made of: a recipe's name, or as in gcl compare; by default the recipe that
            results.json names.
        complete: as in gcl compare.
    """
    from gcl_toolkit import figures

    with console.status("reading the data"):
        worlds = _worlds_of(folder, data, complete)
    with _progress() as bars:
        bar = bars.add_task("training the re-ranker", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(bar, description=f"training the re-ranker, {what}", completed=done, total=total)
            if done == total:  # timing follows, which redrawing would disturb
                bars.stop()
            elif done == 1:
                bars.start()

        told = stages(folder, worlds, config, show)
    about = {"command": _command(), "date": date.today().isoformat(), "machine": doctoring.machine()}
    write_json(folder / "stages.json", {**about, **told})
    figure = figures.quality_against_latency(told["systems"], told["metric"])
    figure.write_html(folder / "stages.html", config=figures.CONFIG)
    _print_stages(told)
    console.print(f"{folder / 'stages.json'}, {folder / 'stages.html'}")


def _worlds_of(folder: Path, data: str | None, complete: str | None) -> Sequence[World]:
    """The worlds that a study was made of: those of a recipe, or the first, of other data."""
    if data is None:
        path = folder / "results.json"
        words = shlex.split(json.loads(path.read_text())["command"]) if path.is_file() else []
        if words[1:2] != ["demo"]:
            raise UserError(f"{path} names no recipe; say with --data what the study was made of")
        data = words[words.index("--recipe") + 1] if "--recipe" in words else "shop"
    if data in recipes.RECIPES and data != "shop":  # which is a source too
        return recipes.RECIPES[data].worlds()
    return [_first_world(folder, data, complete)]


def _print_stages(told: dict) -> None:
    config, rows = told["config"], told["systems"]
    shown = Table(title=f"{told['metric']} on {config['division']} queries of {config['split']}, 95% intervals")
    shown.add_column("system", no_wrap=True)
    for column in ("mean", "ceiling", "over gcl-matrix", "p50, p99 ms", "MB"):
        shown.add_column(column, justify="right")
    ceilings = {(row["first"], row["depth"]): row["mean"] for row in rows if row["second"] == "oracle"}
    for row in rows:
        if row["second"] == "oracle":
            continue
        gained = Interval(*(row["difference"][name] for name in ("mean", "low", "high")))
        shown.add_row(
            row["system"],
            str(Interval(row["mean"], row["low"], row["high"])),
            f"{ceilings[row['first'], row['depth']]:.3f}" if row["second"] else "",
            str(gained) if row["system"] != "gcl-matrix" else "",
            f"{row['p50_ms']:.1f}, {row['p99_ms']:.1f}",
            f"{row['parameters_mb'] + row['stored_mb']:.1f}",
            style="" if row["second"] else "bold",
        )
    console.print(shown)
    console.print(told["finding"], highlight=False, markup=False)


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


@app.command(name="official")
def official_command(
    run: tyro.conf.Positional[Path],
    data: tyro.conf.Positional[str],
    split: str = "zero_shot",
    division: str = "all",
    out: Path = Path("runs/official"),
) -> None:
    """Evaluate as marqo-ai/GCL's script does, to stand beside published results: output.json, output.csv.

    Args:
        run: folder of a run or a model; or a ranking, as a TREC run or the script's retrieval.json.
        data: "shop", or a file or folder in a known layout.
        split: which split.
        division: dev or test: the ground truth of MarqoGS's tar where it is there; all: drawn from the whole split.
        out: folder of the files.
    """
    from gcl_toolkit import official

    with console.status(f"reading {data}"):
        part = _split(data, split)
    truth = official.stored_truth(data, part, division) or official.ground_truth(part.only(division))
    with console.status(f"ranking for {len(truth):,} queries"):
        found = official.read_run(run) if run.is_file() else official.retrieve(load_model(run), part, truth)
    summary = official.write(truth, found, out)["summary"]
    shown = Table(*summary, title=f"{run} on {data}, {split}, {len(truth):,} queries, official form")
    shown.add_row(*(f"{value[0] if isinstance(value, list) else value:.5f}" for value in summary.values()))
    console.print(shown)
    console.print(f"{out / 'output.json'}, {out / 'output.csv'}")


@app.command(name="slices")
def slices_command(
    folder: tyro.conf.Positional[Path],
    data: str,
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
        labels = slices(_split(data, split), category)
    a, b = (per_query(table, name, split, metric, division=division) for name in (method, control))
    shown = Table("by", "slice", "queries", method, control, "difference", "p (Holm)")
    for row in by_slice(a, b, labels, metric).itertuples():
        gap = Interval(row.difference.difference, row.difference.low, row.difference.high)
        p_value = f"{row.difference.p_value:.3f} (alone)" if row.way == "all" else f"{row.p_corrected:.3f}"
        shown.add_row(row.way, row.slice, str(row.queries), str(row.a), str(row.b), str(gap), p_value)
    console.print(f"{metric}, {split}, {division} queries, 95% intervals over queries", highlight=False)
    console.print(shown)
    console.print(detectable(a, b), highlight=False)


@app.command(name="index")
def index_command(
    run: tyro.conf.Positional[Path],
    data: tyro.conf.Positional[str],
    out: Path = Path("runs/index"),
    split: str = "zero_shot",
    kind: str = "FLAT",
    uri: str | None = None,
    token: str = "",
    collection: str = "products",
    columns: tuple[str, ...] | None = None,
    also: tuple[Literal["faiss", "parquet", "parquet16"], ...] = (),
) -> None:
    """Embed a split's products and write them to a vector store; compare it with exact search.

    Args:
        run: folder of a run or a model.
        data: "shop", or a file or folder in a known layout.
        out: folder of products.db (Milvus Lite), parity.json and what `also` names.
        split: which split's products and queries.
        kind: FLAT (exact), IVF_FLAT, HNSW; DISKANN on a cluster only.
        uri: of a Milvus cluster, such as http://host:19530, instead of the embedded store.
        token: user:password or API key of the cluster.
        collection: its name in the store; one of that name is replaced.
        columns: product columns to filter by; by default all but pictures.
        also: further files: a FAISS index, parquet of the vectors as float32 or float16.
    """
    from gcl_toolkit import index as stores
    from gcl_toolkit.formats import qrels_of

    writable_folder(out)
    with console.status(f"reading {data}"):
        part, model = _split(data, split), load_model(run)
    sample = part.sample_queries(200)
    with console.status(f"embedding {part.corpus.num_rows:,} products"):
        products, queries = model.embed(part.corpus, "right"), model.embed(sample.queries, "left")
    place = uri or out / "products.db"
    with (
        console.status(f"writing {place}"),
        stores.MilvusIndex.build(
            place, products, part.corpus, kind=kind, columns=columns, collection=collection, token=token
        ) as index,
    ):
        exact = part.product_ids[top_k(queries, products, 10)[1]]
        ids = sample.query_ids
        report = stores.parity(
            index, dict(zip(ids, queries, strict=True)), dict(zip(ids, exact, strict=True)), qrels_of(sample)
        )
    for name in also:
        if name == "faiss":
            stores.write_faiss(products, out / "products.faiss", kind)
        else:
            dtype = "float16" if name == "parquet16" else "float32"
            stores.write_vectors(products, part.product_ids, out / "vectors.parquet", dtype)
    write_json(out / "parity.json", {"command": _command(), "machine": doctoring.machine(), **asdict(report)})
    console.print(str(report), highlight=False)
    console.print(f"{place}, {out / 'parity.json'}")


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
    console.print(f"problems: {len(problems)}" if problems else "no problem found")
    sys.exit(1 if problems else 0)


@data_app.command(name="import")
def import_(
    table: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    columns: dict[str, str] = {},  # noqa: B006 - read only
    score: dict[str, float] = {},  # noqa: B006
    seed: int = 0,
) -> None:
    """Read an own table (or queries, corpus and qrels), split it four ways and save it as parquet.

    Args:
        table: CSV, TSV, parquet or JSONL, or a folder of three.
        out: the folder to write.
        columns: our name and theirs, in pairs: --columns query search_term title name.
        score: score columns and their weights, summed: --score clicks 1 carts 4.
        seed: of the split.
    """
    from gcl_toolkit.sources import table as tables

    writable_folder(out)
    with console.status(f"reading {table}"):
        splits = tables.load(table, seed=seed, columns=columns, score=score or None)
        tables.write(splits, out)
    for split in splits.values():
        console.print(f"  {split}", highlight=False)
    console.print(f"next: gcl data check {out}; gcl compare {out}")


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


# -- the app -----------------------------------------------------------------------------------------------------------


@app.command(name="bundle")
def bundle_command(
    study: tyro.conf.Positional[Path],
    out: Path | None = None,
    data: str | None = None,
    complete: str | None = None,
    weights: bool = True,
) -> None:
    """Put all that the app needs of a study into one folder.

    Args:
        study: the folder of a study.
        out: the folder; bundle in the study by default.
        data: what the study was made of, "shop" or a file or folder; a recipe's is known.
        complete: as in gcl compare, where the study was made so.
        weights: put the models in too, so that the app searches any text.
    """
    from gcl_toolkit.bundle.writing import write_bundle

    world = _worlds_of(study, data, complete)[0]
    with console.status("bundle") as status:
        path = write_bundle(study, world, out or study / "bundle", weights=weights, progress=status.update)
    console.print(f"next: gcl app --bundle {path}", highlight=False, soft_wrap=True)


@app.command(name="app")
def app_command(bundle: Path | None = None, port: int | None = None, open: bool = False) -> None:
    """Look at a bundle in the browser, on 127.0.0.1; without one, a small shop is made and trained on first.

    Args:
        bundle: a folder made by gcl bundle; runs/app/bundle by default.
        port: the first free one from 7860 by default.
        open: also open the browser.
    """
    home = Path(__file__).parents[1]
    if not (home / "app" / "app.py").is_file():
        raise UserError("the app lies beside the package, not in it; clone the repository and run: make app")
    if doctoring.version("gradio") is None:
        raise UserError("gradio is not installed; run: make app, or pip install 'gcl-toolkit[app]'")
    folder = bundle or Path("runs/app/bundle")
    if bundle is None and not (folder / "manifest.json").is_file():
        _make_small_bundle(folder)
    said = [str(folder.resolve()), *(["--port", str(port)] if port else []), *(["--open"] if open else [])]
    os.chdir(home)
    os.execv(sys.executable, [sys.executable, "-m", "app.app", *said])  # a new process, without torch


def _make_small_bundle(folder: Path) -> None:
    from gcl_toolkit.bundle.writing import write_bundle

    console.print("no bundle yet: a small shop is generated and three models are trained on it, a minute or two")
    writable_folder(folder.parent)
    with console.status("generating the shop"):
        world = World("shop", load("shop", products=1_500, queries=300, per_query=30, size=128))
    config = StudyConfig(methods=("clip", "clip-top", "gcl-matrix"), train=TrainConfig(steps=150))
    _train_study([world], config, folder.parent / "study", jobs=0)
    with console.status("bundle") as status:
        write_bundle(folder.parent / "study", world, folder, progress=status.update)


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
    console.print(f"problems: {len(problems)}" if problems else "nothing is missing: gcl demo")
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
