"""MarqoGS-10M from its authors' tars: unpacks one subset and its pictures while the tars are read over the network.

The tars are not stored. A call that was interrupted continues with the file at which it stopped.
"""

import hashlib
import http.client
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from gcl_toolkit.data.sources.marqo_gs.tar import picture_names
from gcl_toolkit.errors import DataError, UserError, first_line, unknown
from gcl_toolkit.files import write_json

BASE = "https://marqo-gcl-public.s3.amazonaws.com/v1"
"""Where the authors publish marqo-gs-dataset.tar, images_wfash.tar and images_archive.tar."""
SUBSETS = {
    "wfash": ("marqo_gs_wfash_1m", "images_wfash"),
    "fashion": ("marqo_gs_fashion_5m", "images_archive"),
    "full": ("marqo_gs_full_10m", "images_archive"),
}
"""Subset -> its folder in marqo-gs-dataset.tar, and the tar that has its pictures."""
STATE = ".fetch.json"
_EVERY = 1 << 22
"""Bytes between two records of how far the unpacking is."""
_TRIES = 5
_SKIP = 1 << 20
"""A gap of fewer bytes is read; a larger one is left out by another request."""

Progress = Callable[[str, int, int], None]
"""Called with the tar's name, and the bytes of it that are done, and of all."""


def fetch(
    subset: str,
    out: Path,
    progress: Progress,
    queries: int | None = None,
    seed: int = 0,
    titles_only: bool = False,
    base: str = BASE,
) -> tuple[Path, str]:
    """Unpack a subset into `out`; returns the folder that `load` reads, and how many of its pictures are there.

    queries: only the pictures of the products of as many queries, those of `load(folder, queries=..., seed=...)`.
    base:    address of the folder with the three tars.
    Raises UserError or DataError, in one line, when the server or the disk fails, and for a tar that is not whole.
    """
    if subset not in SUBSETS:
        raise unknown("subset", subset, SUBSETS)
    name, images = SUBSETS[subset]
    _unpack(f"{base}/marqo-gs-dataset.tar", out / name, progress, subset, lambda path: name in path.parts)
    if titles_only:
        return out / name, "titles only"
    wanted = picture_names(out / name, queries, seed)
    chosen = hashlib.sha256("\0".join(sorted(wanted)).encode()).hexdigest()
    _unpack(f"{base}/{images}.tar", out / images, progress, chosen, lambda path: path.name in wanted)
    found = wanted.intersection(*[[file for _, _, files in os.walk(out / images) for file in files]])
    if wanted and not found:
        raise DataError(f"{base}/{images}.tar has none of {len(wanted):,} pictures of {name}, first {min(wanted)}")
    return out / name, f"{len(found):,} of {len(wanted):,} pictures found in {out / images}"


def _unpack(url: str, folder: Path, progress: Progress, chosen: str, wants: Callable[[PurePosixPath], bool]) -> None:
    """Write the regular files that are wanted into `folder`, below the tar's folder of this name if it has one."""
    state, name = folder / STATE, url.rpartition("/")[2]
    known = json.loads(state.read_text()) if state.exists() else {}
    known = known if known.get("chosen") == chosen else {}
    if known and known["at"] == known["size"]:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with io.BufferedReader(remote := _Remote(url, known.get("at", 0)), _SKIP) as file:
            done = {"etag": remote.etag, "size": remote.size, "chosen": chosen}
            if known and known != {**done, "at": known["at"]}:
                raise DataError(f"{url} has changed since the last call; remove {folder} and start again")
            with tarfile.open(fileobj=file, mode="r:") as tar:
                at = -_EVERY
                for member in iter(tar.next, None):
                    if member.offset - at >= _EVERY:
                        write_json(state, {**done, "at": (at := member.offset)})
                        progress(name, member.offset, remote.size)
                    path = PurePosixPath(member.name)
                    if member.isfile() and wants(path):
                        inside = member.name.partition(f"{folder.name}/")[2] or member.name
                        tar.extract(member.replace(name=inside, deep=False), folder, filter="data")
                    tar.members = []  # type: ignore[attr-defined]  # of millions
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                    raise tarfile.ReadError(f"neither a file nor the end at byte {tar.offset:,}")
        write_json(state, {**done, "at": remote.size})
        progress(name, remote.size, remote.size)
    except tarfile.TarError as error:
        raise DataError(f"{url}: {first_line(error)}; a whole, uncompressed tar is expected") from None
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}; the same command continues where it stopped") from None


class _Remote(io.RawIOBase):
    """A file on a server that serves ranges; a connection that breaks is opened again where it broke."""

    def __init__(self, url: str, at: int):
        self.url, self.at, self.size, self.etag = url, at, 0, ""
        self._answer = self._open()

    def _open(self) -> http.client.HTTPResponse:
        for again in range(_TRIES):
            try:
                answer = urlopen(Request(self.url, headers={"Range": f"bytes={self.at}-"}), timeout=60)
                break
            except HTTPError as error:
                error.close()
                if again + 1 == _TRIES or not (error.code == 429 or error.code >= 500):
                    raise UserError(
                        f"{self.url} can't be read: the server answers {error.code} {error.reason}"
                    ) from None
            except (OSError, http.client.HTTPException) as error:
                if again + 1 == _TRIES:
                    reason = first_line(error)
                    raise UserError(f"{self.url} can't be reached ({reason}); the same command continues") from None
            time.sleep(0.1 * 4**again)
        stated = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status != 206 or not stated.isdigit():
            answer.close()
            raise UserError(f"{self.url}: the server sends no parts of files; download it and unpack it with tar -xf")
        if self.etag and self.etag != answer.headers.get("ETag", ""):
            raise DataError(f"{self.url} was replaced while it was read; run the same command again")
        self.etag, self.size = answer.headers.get("ETag", ""), int(stated)
        return answer

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        if 0 <= target - self.at < _SKIP:
            while self.at < target and self.readinto(bytearray(target - self.at)):
                pass
        else:
            self._answer.close()
        self.at = target
        return target

    def readinto(self, buffer) -> int:
        for again in range(_TRIES):
            if self.at >= self.size:
                return 0
            try:
                if self._answer.closed:
                    self._answer = self._open()
                if count := self._answer.readinto(buffer):
                    self.at += count
                    return count
            except (OSError, http.client.HTTPException):
                pass
            self._answer.close()
            time.sleep(0.1 * 4**again)
        raise UserError(f"{self.url}: the connection breaks at byte {self.at:,}; the same command continues")

    def close(self) -> None:
        self._answer.close()
        super().close()
