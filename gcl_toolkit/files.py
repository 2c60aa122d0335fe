"""Files that a reader sees whole: the old one or the new one, never half of it."""

import hashlib
import json
import os
from pathlib import Path

from gcl_toolkit.errors import UserError


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
    write_text(path, json.dumps(value, indent=1, default=str))


def write_text(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text)
    beside.replace(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
