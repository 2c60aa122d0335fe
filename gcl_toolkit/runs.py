"""A run on disk: config.json, steps.jsonl (a record a line) and checkpoints/; it can go on after being killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from gcl_toolkit.checkpoints import NoRoom, newest_checkpoint, remove_checkpoints, save_checkpoint, step_of, told
from gcl_toolkit.errors import UserError
from gcl_toolkit.model import GCLModel

FREE_TO_CHANGE = ("about", "workers", "cache", "save_minutes", "patience", "log")
"""Settings that a run may go on with changed, since the weights don't depend on them."""


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
    _write_text(path, json.dumps(value, indent=1, default=str))


class Run:
    """A run folder, open for writing.

    resume: go on with what is there (if anything); else a run that is there is replaced when training starts.
    about:  further facts for config.json.
    """

    def __init__(self, folder: str | Path, *, resume: bool = False, about: Mapping[str, object] | None = None):
        self.folder, self.resume, self.about = writable_folder(folder), resume, dict(about or {})
        self.whole: Path | None = None  # the newest checkpoint known to be whole

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds a run already."""
        return (self.folder / "config.json").exists() or (self.folder / "checkpoints").exists()

    def configure(self, config: Mapping[str, object]) -> None:
        """Start the run: write config.json, or, to resume, hold `config` against the one that is there."""
        path = self.folder / "config.json"
        if self.resume and path.is_file():
            was, now = (_leaves(json.loads(text)) for text in (path.read_text(), json.dumps(config, default=str)))
            for name in sorted(was.keys() | now.keys()):
                if not {*name.split(".")} & {*FREE_TO_CHANGE, *self.about} and was.get(name) != now.get(name):
                    raise UserError(
                        f"{self.folder} was begun with {name} {was.get(name)!r}, not {now.get(name)!r}; go on with the "
                        "same, or begin anew in another folder"
                    )
            return
        path.unlink(missing_ok=True)
        (self.folder / "steps.jsonl").write_text("")
        remove_checkpoints(self.folder / "checkpoints")
        write_json(path, {**config, **self.about})

    def record(self, record: dict) -> None:
        try:
            with (self.folder / "steps.jsonl").open("a") as steps:
                steps.write(json.dumps(record) + "\n")
        except OSError as error:
            kept = f"{self.whole} is whole" if self.whole else "there is no checkpoint yet"
            raise NoRoom(f"{self.folder / 'steps.jsonl'} could not be written ({told(error)}); {kept}") from None

    def checkpoint(
        self,
        model: GCLModel,
        step: int,
        state: Mapping[str, Tensor] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Path:
        """Save the model, with other weights if given, and the state of its training as checkpoints/step_N; the one
        before is kept too."""
        steps = self.folder / "steps.jsonl"
        if steps.is_file():
            with steps.open("a") as written:
                os.fsync(written.fileno())
        before = step_of(self.whole) if self.whole else None
        folder = save_checkpoint(self.folder / "checkpoints", step, model, state or {}, before, weights)
        self.whole = folder
        return folder

    def newest(self) -> Path | None:
        """Where to go on: the newest whole checkpoint, or None to begin at step 0. Later records are taken back."""
        self.whole = newest_checkpoint(self.folder / "checkpoints") if self.resume else None
        return self.whole

    def rewind(self) -> list[dict]:
        """Take back the records after the step of `newest`; returns those before."""
        done = step_of(self.whole) if self.whole else 0
        kept = [record for record in read_steps(self.folder) if record["step"] <= done]
        _write_text(self.folder / "steps.jsonl", "".join(json.dumps(record) + "\n" for record in kept))
        return kept


def load_model(run: str | Path) -> GCLModel:
    """The newest whole model of a run folder, or the model of a model folder."""
    folder = Path(run)
    if GCLModel.is_saved_in(folder):
        return GCLModel.load(folder)
    whole = newest_checkpoint(folder / "checkpoints")
    if not whole:
        raise UserError(f"{folder} holds no model and no checkpoint; give the folder of a run")
    return GCLModel.load(whole)


def read_steps(run: str | Path) -> list[dict]:
    """The step records of a run; a last line that was torn while it was written is left out."""
    records, path = [], Path(run) / "steps.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text)
    beside.replace(path)


def _leaves(settings: Mapping) -> dict[str, object]:
    """Nested settings as name.name -> value."""

    def walk(name: str, value: object) -> Iterator[tuple[str, object]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(f"{name}.{key}" if name else key, inner)
        else:
            yield name, value

    return dict(walk("", settings))
