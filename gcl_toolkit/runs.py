"""A run on disk: config.json, steps.jsonl (a record a line), checkpoints/step_N/ (the model, atomically renamed)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from gcl_toolkit.errors import UserError
from gcl_toolkit.model import GCLModel


def writable_folder(folder: str | Path) -> Path:
    """The folder, made if need be; a UserError when nothing can be written there."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder} can't be written to ({error.strerror}); choose another output folder") from None
    return folder


def write_json(path: Path, value: object) -> None:
    """Written beside and renamed, so that a reader sees the old file or the new one."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(value, indent=1, default=str))
    beside.replace(path)


class Run:
    """A run folder, open for writing."""

    def __init__(self, folder: str | Path):
        self.folder = writable_folder(folder)
        (self.folder / "steps.jsonl").write_text("")

    def configure(self, config: dict) -> None:
        write_json(self.folder / "config.json", config)

    def record(self, record: dict) -> None:
        with (self.folder / "steps.jsonl").open("a") as steps:
            steps.write(json.dumps(record) + "\n")

    def checkpoint(self, model: GCLModel, step: int) -> Path:
        """Save the model as checkpoints/step_N; the older ones are removed once it is whole."""
        folder = self.folder / "checkpoints" / f"step_{step}"
        beside = folder.with_name(folder.name + ".part")
        shutil.rmtree(beside, ignore_errors=True)
        model.save(beside)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
        for older in folder.parent.iterdir():
            if older != folder:
                shutil.rmtree(older)
        return folder


def load_model(run: str | Path) -> GCLModel:
    """The newest model of a run folder, or the model of a model folder."""
    folder = Path(run)
    if (folder / "model.json").is_file():
        return GCLModel.load(folder)
    whole = [c for c in folder.glob("checkpoints/step_*") if c.suffix != ".part"]
    if not whole:
        raise UserError(f"{folder} holds no model and no checkpoint; give the folder of a run")
    return GCLModel.load(max(whole, key=lambda c: int(c.name.removeprefix("step_"))))


def read_steps(run: str | Path) -> list[dict]:
    """The step records of a run."""
    return [json.loads(line) for line in (Path(run) / "steps.jsonl").read_text().splitlines()]
