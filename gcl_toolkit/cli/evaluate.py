"""gcl evaluate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import tyro

from gcl_toolkit.cli.common import app, console, data_of, model_folder, print_table, splits_of, warn_of_few
from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.ranked_data import SPLITS, RankedData
from gcl_toolkit.errors import UserError
from gcl_toolkit.files import writable_folder
from gcl_toolkit.measure.evaluate import METRICS, measure_ranking, rankings
from gcl_toolkit.measure.official import Protocol, retrieve, stored, truths
from gcl_toolkit.measure.official import write as write_official
from gcl_toolkit.measure.statistics import interval
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.training.runs import load_model


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated: a run, or a model that was not trained here."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """Folder of a run, a model, an export, or a study (its model with the default method); with --official also a
    ranking: a TREC run or the script's retrieval.json. Left out with --encoder."""
    encoder: str | None = None
    """A model that was not trained here, instead of a run, as in gcl train."""
    pretrained: str | None = None
    """Its checkpoint, open_clip's tag or a file."""
    left: str | None = None
    """Fields of the queries with weights; by default those of the run, else query=1."""
    right: str | None = None
    """Fields of the products with weights; by default those of the run, else image=0.9,title=0.1."""

    def open(self) -> GCLModel | Path:
        """The model with its fields; the run itself if it is a file."""
        sides = {name: Fields.parse(text) for name in ("left", "right") if (text := getattr(self, name))}
        if self.encoder and not self.run:
            right = sides.get("right", Fields(image=0.9, title=0.1))
            return GCLModel(self.encoder, left=sides.get("left"), right=right, pretrained=self.pretrained)
        if self.run is None or self.encoder or self.pretrained:
            raise UserError("give a run, or --encoder (and --pretrained) for a model that was not trained here")
        if self.run.is_file():
            return self.run
        model = load_model(model_folder(self.run))
        for name, fields in sides.items():
            setattr(model, name, fields)
        return model


@app.command(name="evaluate")
def evaluate_command(
    evaluated: Annotated[tyro.conf.OmitArgPrefixes[Evaluated], tyro.conf.arg(name="")] = Evaluated(),
    data: str | None = None,
    split: tuple[str, ...] = SPLITS,
    division: Literal["dev", "test", "all"] = "test",
    official: bool = False,
    protocol: Annotated[tyro.conf.OmitArgPrefixes[Protocol], tyro.conf.arg(name="")] = Protocol(),  # noqa: B008
    out: Path | None = None,
) -> None:
    """Evaluate a model: every metric with its interval over queries, split by split.

    Args:
        data: as in gcl train; by default what the run was trained on.
        split: which splits.
        division: dev, test or all queries.
        official: as marqo-ai/GCL's script does, to compare with published results: its ground truth (MarqoGS's tar has
            it for dev and test, else it is computed), keys, reading of pictures and texts, ties and rounding.
        out: the file for the per-query table (parquet); with --official the folder for output.json and output.csv of
            each split, runs/official by default.
    """
    if protocol != Protocol() and not official:
        raise UserError("--top-k, --top-q and --truth change the official form only; add --official")
    model, data = evaluated.open(), data_of(evaluated.run, data)
    parts = splits_of(data, split)
    title = f"{evaluated.encoder or evaluated.run} on {data}, {division} queries"
    if official:
        _evaluate_officially(title, model, data, parts, division, protocol, out or Path("runs/official"))
    elif isinstance(model, Path):
        raise UserError(f"{model} is a file; give the folder of a model, or add --official to measure a ranking")
    else:
        _evaluate(title, model, parts, division, out)


def _evaluate(title: str, model: GCLModel, parts: dict[str, RankedData], division: str, out: Path | None) -> None:
    chosen = {name: part.only(division) for name, part in parts.items()}
    scored = {name: part for name, part in chosen.items() if len(part.pairs.query)}
    if not scored:
        raise UserError(f"{title}: none is scored in {', '.join(parts)}; choose another --division")
    with console.status("evaluating"):
        ranked = rankings(model, scored)
        tables = {name: measure_ranking(rows, part, METRICS).assign(split=name) for name, part, rows in ranked}
    counts = {name: len(table) for name, table in tables.items()}
    means = [(str(each), *(interval(table[str(each)]) for table in tables.values())) for each in METRICS]
    print_table(("metric", *tables), [("queries", *counts.values()), *means], title=title, numeric=True)
    warn_of_few(counts)
    if empty := [name for name in parts if name not in scored]:
        console.print(f"without scored {division} queries: {', '.join(empty)}")
    if out:
        writable_folder(out.parent)
        pd.concat(tables.values()).to_parquet(out)


def _evaluate_officially(
    title: str,
    model: GCLModel | Path,
    data: str,
    parts: dict[str, RankedData],
    division: str,
    protocol: Protocol,
    out: Path,
) -> None:
    truth = truths(parts, data, division, protocol, [] if isinstance(model, Path) else [*model.left])
    ranked = stored(model, parts, truth) if isinstance(model, Path) else retrieve(model, parts, truth, protocol.top_k)
    columns: dict[str, dict[str, str]] = {}
    with console.status("evaluating as the official script"):
        for name, ranking in ranked:
            summary = write_official(truth[name], ranking, out / name, protocol.cutoffs)["summary"]
            queries = {"queries": f"{len(truth[name]):,}"}
            columns[name] = queries | {key: f"{np.ravel(value)[0]:.5f}" for key, value in summary.items()}
    if not columns:
        ours = "" if isinstance(model, GCLModel) else " that the ranking has"
        raise UserError(f"{title}: none{ours} is scored in {', '.join(parts)}; choose other --data or --division")
    rows = [(metric, *(column[metric] for column in columns.values())) for metric in next(iter(columns.values()))]
    print_table(("metric", *columns), rows, title=f"{title}, official form")
    if left_out := [name for name in parts if name not in columns]:
        console.print(f"not measured: {', '.join(left_out)}")
    console.print(f"{out}/SPLIT/output.json, output.csv")
