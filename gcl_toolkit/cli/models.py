"""One model: gcl train, evaluate, search, index."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import tyro
from rich.table import Table

from gcl_toolkit import doctor as doctoring
from gcl_toolkit.cli.common import app, command, console, model_folder, progress, split_of, splits_of
from gcl_toolkit.engine import EngineConfig
from gcl_toolkit.errors import UserError
from gcl_toolkit.evaluate import METRICS, Watch, evaluate
from gcl_toolkit.fields import Fields
from gcl_toolkit.model import GCLModel
from gcl_toolkit.official import ground_truth, read_run, retrieve, stored_truth
from gcl_toolkit.official import write as write_official
from gcl_toolkit.ranked_data import SPLITS, RankedData
from gcl_toolkit.runs import Run, load_model, writable_folder, write_json
from gcl_toolkit.search import search, top_k
from gcl_toolkit.sources import spelt
from gcl_toolkit.statistics import interval
from gcl_toolkit.train import TrainConfig, train

DEFAULT_TRAINING = TrainConfig()
DEFAULT_ENGINE = EngineConfig()


@app.command(name="train")
def train_command(
    data: str = "shop",
    out: Path = Path("runs/model"),
    left: str = "query=1",
    right: str = "image=0.5,title=0.5",
    encoder: str = "small",
    pretrained: str | None = None,
    evaluate_every: int = 0,
    resume: Path | None = None,
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = DEFAULT_TRAINING,
    engine: Annotated[EngineConfig, tyro.conf.arg(name="")] = DEFAULT_ENGINE,
) -> None:
    """Train one model on the in_domain split of some data; by torchrun or accelerate launch, on many GPUs.

    Args:
        data: "shop", "marqo_gs", or a file or folder in a known layout; a source's options may follow:
            marqo_gs:queries=2000,streaming=true or my.csv:quarantine=bad.csv.
        out: folder of the run: config.json, steps.jsonl, checkpoints/; one that holds a run is left alone.
        left: fields of the queries with weights.
        right: fields of the products with weights.
        encoder: small, an open_clip name, hf-hub:org/name, text:org/name.
        pretrained: open_clip's tag or a checkpoint file.
        evaluate_every: also measure the dev queries of every split so often, in steps, and at the last; gcl report
            draws it. Each time costs about what embedding the products does.
        resume: go on with the run in this folder, with the settings that it was begun with; leave out all others.
    """
    arguments: dict[str, Any] = {
        "data": data,
        "left": left,
        "right": right,
        "encoder": encoder,
        "pretrained": pretrained,
        "evaluate_every": evaluate_every,
    }
    if resume:
        out, (arguments, config, engine) = resume, _begun_with(resume)
    run = Run(out, resume=resume is not None, about={"arguments": arguments})
    if run.is_begun and not resume:
        raise UserError(f"{out} holds a run already; go on with it by --resume {out}, or give another --out")
    with console.status(f"reading {arguments['data']}"):
        every = arguments.get("evaluate_every")
        splits = splits_of(arguments["data"], SPLITS if every else ["in_domain"])
    sides = Fields.parse(arguments["left"]), Fields.parse(arguments["right"])
    model = GCLModel(
        arguments["encoder"], left=sides[0], right=sides[1], seed=config.seed, pretrained=arguments["pretrained"]
    )
    watch = Watch(splits, every) if every else None
    record = _train(train(model, splits["in_domain"], config, engine=engine, run=run, watch=watch), config.steps, run)
    told = f"{record['seconds']:.0f} s, loss {record['loss']:.3f}" if record else "all steps were done already"
    skipped = f", {record['skipped']} steps skipped for NaN" if record.get("skipped") else ""
    console.print(f"{told}{skipped}; next: gcl evaluate {out} --data {arguments['data']}")


def _train(steps: Iterator[dict], total: int, run: Run) -> dict:
    """The last record, or {}. Stopped, by Ctrl-C or SIGTERM, it says how to go on."""
    record: dict = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with progress() as bars:
            bar = bars.add_task("training", total=total)
            for record in steps:
                bars.update(bar, completed=record["step"], description=f"loss {record['loss']:.3f}")
    except KeyboardInterrupt:
        kept = f"after {run.whole.name}" if run.whole else "from the start, since there is no checkpoint yet"
        print(f"gcl: stopped; gcl train --resume {run.folder} goes on {kept}", file=sys.stderr)
        sys.exit(130)
    return record


def _begun_with(folder: Path) -> tuple[dict, TrainConfig, EngineConfig]:
    """The settings in the config.json of a run of `gcl train`."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no run to go on with ({path.name} is missing); start it with gcl train")
    said = json.loads(path.read_text())
    if not {"arguments", "train", "engine"} <= said.keys():
        raise UserError(f"{path} is not of gcl train; begin anew in another folder")
    engine: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in said["engine"].items()
    }
    arguments = said["arguments"]
    if quarantine := arguments.pop("quarantine", None):  # an option of its own until 2026-11-22
        arguments["data"] += f":quarantine={quarantine}"
    return arguments, TrainConfig(**said["train"]), EngineConfig(**engine)


@app.command(name="evaluate")
def evaluate_command(
    run: tyro.conf.Positional[Path],
    data: str = "shop",
    split: tuple[str, ...] = SPLITS,
    division: Literal["dev", "test", "all"] = "test",
    official: bool = False,
    out: Path | None = None,
) -> None:
    """Evaluate a trained model: every metric with its interval over queries, split by split.

    Args:
        run: folder of a run or a model; with --official also a ranking: a TREC run or the script's retrieval.json.
        data: as in gcl train.
        split: which splits.
        division: dev, test or all queries.
        official: as marqo-ai/GCL's script does, to stand beside published results: its ground truth (MarqoGS's tar has
            it for dev and test, else up to 2,000 queries are drawn as it draws them), keys, ties and rounding.
        out: the file for the per-query table (parquet); with --official the folder for output.json and output.csv, a
            split each, runs/official by default.
    """
    with console.status(f"reading {data}"):
        parts = splits_of(data, split)
    if official:
        _evaluate_officially(run, data, parts, division, out or Path("runs/official"))
        return
    model, shown, tables = load_model(run), Table(title=f"{run} on {data}, {division} queries"), []
    for column in ("split", "queries", *map(str, METRICS)):
        shown.add_column(column, justify="right", no_wrap=column == "split")
    for name, part in parts.items():
        with console.status(f"evaluating {name}"):
            table = evaluate(model, part, METRICS, division=division)
        shown.add_row(name, str(len(table)), *(str(interval(table[str(metric)])) for metric in METRICS))
        tables.append(table.assign(split=name))
    console.print(shown)
    if out:
        writable_folder(out.parent)
        pd.concat(tables).to_parquet(out)


def _evaluate_officially(run: Path, data: str, parts: dict[str, RankedData], division: str, out: Path) -> None:
    columns = {}
    for name, part in parts.items():
        truth = stored_truth(spelt(data)[0], part, division) or ground_truth(part.only(division))
        with console.status(f"{name}: ranking for {len(truth):,} queries"):
            found = read_run(run) if run.is_file() else retrieve(load_model(run), part, truth)
        summary = write_official(truth, found, out / name)["summary"]
        columns[name] = {"queries": f"{len(truth):,}"} | {k: f"{np.ravel(v)[0]:.5f}" for k, v in summary.items()}
    shown = Table("metric", *columns, title=f"{data}, {division} queries, official form")
    for metric in next(iter(columns.values())):
        shown.add_row(metric, *(column[metric] for column in columns.values()))
    console.print(shown)
    console.print(f"{out}/SPLIT/output.json, output.csv", highlight=False)


@app.command(name="search")
def search_command(
    run: tyro.conf.Positional[Path], query: tyro.conf.Positional[str], data: str = "shop", k: int = 10
) -> None:
    """The best products for a text, from the held-out documents of some data.

    Args:
        run: folder of a run, a model, or a study (its gcl-matrix model is taken).
        query: what to look for.
        data: as in gcl train.
        k: how many.
    """
    model = load_model(model_folder(run))
    with console.status(f"reading {data}"):
        corpus = split_of(data, "zero_shot").corpus
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


@app.command(name="index")
def index_command(
    run: tyro.conf.Positional[Path],
    data: str = "shop",
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
        data: as in gcl train.
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
    from gcl_toolkit.parity import parity

    writable_folder(out)
    with console.status(f"reading {data}"):
        part, model = split_of(data, split), load_model(run)
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
        report = parity(
            index, dict(zip(ids, queries, strict=True)), dict(zip(ids, exact, strict=True)), qrels_of(sample)
        )
    for name in also:
        if name == "faiss":
            stores.write_faiss(products, out / "products.faiss", kind)
        else:
            dtype = "float16" if name == "parquet16" else "float32"
            stores.write_vectors(products, part.product_ids, out / "vectors.parquet", dtype)
    write_json(out / "parity.json", {"command": command(), "machine": doctoring.machine(), **asdict(report)})
    console.print(str(report), highlight=False)
    console.print(f"{place}, {out / 'parity.json'}")
