"""Checkpoints: step_N/ with the model, the state of its training and a manifest of checksums; the last two are kept.

Each is written under another name and renamed, so that a process killed at any instant leaves the older ones whole.
"""

import json
import os
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gcl_toolkit.errors import UserError, first_line
from gcl_toolkit.files import sha256
from gcl_toolkit.models.model import GCLModel

STATE, MANIFEST = "state.safetensors", "manifest.json"
Tensors = Mapping[str, Tensor]


class NoRoom(UserError):
    """Something could not be written; what was there before is intact."""


def save_checkpoint(
    folder: Path, step: int, model: GCLModel, state: Tensors, before: int | None, weights: Tensors | None = None
) -> Path:
    """Write folder/step_N: the model, with other `weights` if given, and its `state`.

    `before` is the step of the whole checkpoint to keep beside it; all other steps are removed.
    Raises NoRoom, with the older checkpoints intact, when the disk is full or the folder is gone.
    """
    target, beside = folder / f"step_{step}", folder / f"step_{step}.part"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        model.save(beside, weights)
        save_file({name: value.contiguous() for name, value in state.items()}, beside / STATE)
        manifest = {"step": step, "sha256": {file.name: sha256(file) for file in sorted(beside.iterdir())}}
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*beside.iterdir(), beside):
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)  # an incomplete one, when training resumed from an older one
        beside.rename(target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        kept = "there is no older one" if before is None else f"step_{before} is intact"
        raise NoRoom(f"{target} could not be written ({reason(error)}); {kept}; make room there") from None
    remove_checkpoints(folder, but=(target.name, f"step_{before}"))
    return target


def remove_checkpoints(folder: Path, but: Collection[str] = ()) -> None:
    """Remove the checkpoints, incomplete ones too; other files in the folder stay."""
    for path in folder.glob("step_[0-9]*"):
        if path.name not in but:
            shutil.rmtree(path, ignore_errors=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole step_N in a folder, or None; warns of every newer one that is corrupt or incomplete."""
    for path in sorted(_all(folder), key=step_of, reverse=True):
        fault = fault_of(path)
        if fault is None:
            return path
        warnings.warn(
            f"{path} is corrupt or incomplete: {fault}; the checkpoint before it is used, if there is one", stacklevel=2
        )
    return None


def fault_of(checkpoint: Path) -> str | None:
    """What is missing or corrupt in a checkpoint; None if nothing is."""
    if not (checkpoint / MANIFEST).is_file() and not (checkpoint / STATE).is_file():
        return None if GCLModel.is_saved_in(checkpoint) else "it is empty"  # written before there were manifests
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        expected, step = manifest["sha256"], manifest["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} can't be read ({reason(error)})"
    if step != step_of(checkpoint):
        return f"{MANIFEST} belongs to step {step}"
    for name in sorted({*expected, "model.json", "model.safetensors", STATE}):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if sha256(checkpoint / name) != expected.get(name):
            return f"{name} is corrupt (its sha256 is not the manifest's)"
    return None


def load_state(checkpoint: Path) -> dict[str, Tensor]:
    """The state that `save_checkpoint` wrote."""
    return load_file(checkpoint / STATE)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def reason(error: Exception) -> str:
    """The reason that a file-system error gives, in a few words."""
    return getattr(error, "strerror", None) or first_line(error).removeprefix("Error while serializing: ")


def _all(folder: Path) -> Iterator[Path]:
    for path in folder.glob("step_*"):
        if path.is_dir() and path.name.removeprefix("step_").isdigit():
            yield path


def _sync(path: Path) -> None:
    """Flush to the disk itself, so that a rename never becomes visible before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
