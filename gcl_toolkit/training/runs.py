"""A run on disk: config.json, steps.jsonl (a record a line) and checkpoints/; it can resume after a kill."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gcl_toolkit.data.fields import Fields
from gcl_toolkit.errors import UserError
from gcl_toolkit.files import writable_folder, write_json, write_text
from gcl_toolkit.models.encoders import has_architecture, public_name
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.training.checkpoints import (
    NoRoom,
    Tensors,
    newest_checkpoint,
    reason,
    remove_checkpoints,
    save_checkpoint,
    step_of,
)
from gcl_toolkit.training.version1 import upgraded

FREE_TO_CHANGE = ("about", "workers", "cache", "save_minutes", "patience", "log")
"""Settings that may change when a run resumes, since the weights don't depend on them."""


class Run:
    """A run folder, open for writing.

    resume: continue the run in the folder, if there is one; otherwise it is replaced when training starts.
    about: further facts for config.json.
    """

    def __init__(self, folder: str | Path, *, resume: bool = False, about: Mapping[str, object] | None = None):
        self.folder, self.resume, self.about = writable_folder(folder), resume, dict(about or {})
        self.whole: Path | None = None  # the newest checkpoint known to be whole

    @property
    def is_begun(self) -> bool:
        """Whether the folder already holds a run."""
        return (self.folder / "config.json").exists() or (self.folder / "checkpoints").exists()

    def configure(self, config: Mapping[str, object]) -> None:
        """Start the run: write config.json, or, to resume, check `config` against the one in the folder."""
        path = self.folder / "config.json"
        if self.resume and path.is_file():
            was, now = _leaves(read_config(self.folder)), _leaves(json.loads(json.dumps(config, default=str)))
            for name in sorted(was.keys() | now.keys()):
                if not {*name.split(".")} & {*FREE_TO_CHANGE, *self.about} and was.get(name) != now.get(name):
                    raise UserError(
                        f"{self.folder} was started with {name} {was.get(name)!r}, not {now.get(name)!r}; resume it "
                        "with the same settings, or start a new run in another folder"
                    )
            return
        path.unlink(missing_ok=True)
        (self.folder / "steps.jsonl").write_text("")
        remove_checkpoints(self.folder / "checkpoints")
        write_json(path, {**config, **self.about})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other process can train in the folder. The lock ends with the process, also with a killed one."""
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is training in {self.folder}; wait until it ends, or choose another folder"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield

    def record(self, record: dict) -> None:
        try:
            with (self.folder / "steps.jsonl").open("a") as steps:
                steps.write(json.dumps(record) + "\n")
        except OSError as error:
            kept = f"{self.whole} is intact" if self.whole else "there is no checkpoint yet"
            raise NoRoom(f"{self.folder / 'steps.jsonl'} could not be written ({reason(error)}); {kept}") from None

    def checkpoint(
        self, model: GCLModel, step: int, state: Tensors | None = None, weights: Tensors | None = None
    ) -> Path:
        """Save the model, with other `weights` if given, and the state of its training as checkpoints/step_N; the
        checkpoint before it is kept too."""
        steps = self.folder / "steps.jsonl"
        if steps.is_file():
            with steps.open("a") as written:
                os.fsync(written.fileno())
        before = step_of(self.whole) if self.whole else None
        self.whole = save_checkpoint(self.folder / "checkpoints", step, model, state or {}, before, weights)
        return self.whole

    def newest(self) -> Path | None:
        """The newest whole checkpoint to resume from, or None to start at step 0."""
        self.whole = newest_checkpoint(self.folder / "checkpoints") if self.resume else None
        return self.whole

    def model(self) -> GCLModel | None:
        """The model that a run resumes with, built from its own folder; None without a checkpoint that holds the
        encoder's architecture (that of version 0.1 and of the small encoder is in its name)."""
        checkpoint = self.newest()
        return GCLModel.load(checkpoint) if checkpoint and has_architecture(checkpoint) else None

    def rewind(self) -> list[dict]:
        """Remove the records after the step of `newest`; returns those that remain."""
        done = step_of(self.whole) if self.whole else 0
        kept = [record for record in read_steps(self.folder) if record["step"] <= done]
        write_text(self.folder / "steps.jsonl", "".join(json.dumps(record) + "\n" for record in kept))
        return kept


def read_config(run: str | Path) -> dict:
    """The config.json of a run folder, in today's form."""
    path = Path(run) / "config.json"
    if not path.is_file():
        raise UserError(f"{run} holds no run ({path.name} is missing); start one with gcl train")
    config = upgraded(json.loads(path.read_text()))
    return {**config, "model": public_name(config["model"])} if "model" in config else config


def load_model(run: str | Path) -> GCLModel:
    """The newest whole model of a run folder, or the model of a model folder or an export."""
    folder = Path(run)
    if GCLModel.is_saved_in(folder):
        return GCLModel.load(folder)
    if (folder / "export.json").is_file() or (folder / "open_clip_config.json").is_file():
        return _exported(folder)
    whole = newest_checkpoint(folder / "checkpoints")
    if not whole:
        raise UserError(f"{folder} holds no model and no checkpoint; give the folder of a run")
    return GCLModel.load(whole)


def _exported(folder: Path) -> GCLModel:
    """The model in a folder of open_clip or transformers, with the fields that `gcl export` noted there."""
    path = folder / "export.json"
    manifest = json.loads(path.read_text()) if path.is_file() else {}
    spec = manifest.get("encoder", {})
    kind = "text" if spec.get("name", "").startswith("text:") else "local-dir"
    options = {name: spec[name] for name in ("prefix", "product_prefix", "length") if name in spec}
    left, right = (Fields(**manifest[side]) if side in manifest else None for side in ("left", "right"))
    return GCLModel(f"{kind}:{folder.absolute()}", left=left, right=right, **options)


def read_steps(run: str | Path) -> list[dict]:
    """The step records of a run, without a last line that was only half written."""
    records, path = [], Path(run) / "steps.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _leaves(settings: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested settings as name.name -> value."""
    leaves: dict[str, object] = {}
    for name, value in settings.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return leaves
