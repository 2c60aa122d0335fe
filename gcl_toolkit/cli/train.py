"""gcl train: one model, started or resumed."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from gcl_toolkit.cli.common import Source, app, console, progress, splits_of
from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.ranked_data import SPLITS
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.evaluate import MeasureDev
from gcl_toolkit.methods import DEFAULT
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.training.config import MachineConfig, TrainConfig, Tuning
from gcl_toolkit.training.runs import Run, read_config
from gcl_toolkit.training.train import train


@app.command(name="train")
def train_command(
    out: Path = Path("runs/model"),
    method: str = DEFAULT,
    resume: Path | None = None,
    source: Annotated[Source, tyro.conf.arg(name="")] = Source(),  # noqa: B008
    config: Annotated[tyro.conf.OmitArgPrefixes[TrainConfig], tyro.conf.arg(name="")] = TrainConfig(),  # noqa: B008
    machine: Annotated[MachineConfig, tyro.conf.arg(name="")] = MachineConfig(),  # noqa: B008
) -> None:
    """Train one model on the in_domain split of some data; with torchrun, on many GPUs.

    Args:
        out: folder of the run: config.json, steps.jsonl, checkpoints/; an existing run is never overwritten.
        method: a named method, with settings after a colon: graded, gcl-linear, graded:weighting=log.
        resume: continue the run in this folder with the settings that it was started with; all others are ignored.
    """
    if resume:
        out, (method, source, config, machine) = resume, _settings_of(resume)
    run = Run(out, resume=resume is not None, about={"arguments": asdict(source)})
    if run.is_begun and not resume:
        raise UserError(f"{out} already holds a run; continue it with --resume {out}, or choose another --out")
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        splits = splits_of(source.data, SPLITS if source.evaluate_every else ["in_domain"])
        watch = MeasureDev(splits, source.evaluate_every) if source.evaluate_every else None
        model = run.model() or GCLModel(
            source.encoder,
            left=Fields.parse(source.left),
            right=source.right_of(splits["in_domain"]),
            seed=config.seed,
            pretrained=source.pretrained,
        )
        steps = train(model, splits["in_domain"], method, config, machine=machine, run=run, watch=watch)
        record = _follow(steps, config.steps)
    except KeyboardInterrupt:
        print(f"gcl: stopped; {_advice(run)}", file=sys.stderr)
        sys.exit(130)
    summary = f"{record['seconds']:.0f} s, loss {record['loss']:.3f}" if record else "all steps were already done"
    skipped = f", {record['skipped']} steps skipped for NaN" if record.get("skipped") else ""
    console.print(f"{summary}{skipped}; next: gcl evaluate {out}")


def _follow(steps: Iterator[dict], total: int) -> dict:
    """Show the progress; returns the last record, or {}."""
    record: dict = {}
    with progress() as bars:
        bar = bars.add_task("training", total=total)
        for record in steps:
            bars.update(bar, completed=record["step"], description=f"loss {record['loss']:.3f}")
    return record


def _advice(run: Run) -> str:
    """How to continue a stopped run."""
    if not run.is_begun:
        return "training had not started: run the same command again"
    kept = f"after {run.whole.name}" if run.whole else "from the start, since there is no checkpoint yet"
    return f"gcl train --resume {run.folder} continues {kept}"


def _settings_of(folder: Path) -> tuple[str, Source, TrainConfig, MachineConfig]:
    """The settings in the config.json of a run of `gcl train`."""
    config = read_config(folder)
    if not config.get("arguments") or not {"method", "train", "machine"} <= config.keys():
        raise UserError(f"{folder / 'config.json'} was not written by gcl train; start a new run in another folder")
    train, machine = config["train"], config["machine"]
    tuning = Tuning(**{**train["tuning"], "dimensions": tuple(train["tuning"]["dimensions"])})
    machine = MachineConfig(**{**machine, "log": tuple(machine["log"])})
    return config["method"], Source(**config["arguments"]), TrainConfig(**{**train, "tuning": tuning}), machine
