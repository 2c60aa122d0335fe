"""Parquet files in a repository of the Hugging Face hub, read by ranges, so that a column costs its own bytes only."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import parquet

from gcl_toolkit.errors import DataError, first_line

RETRIES: dict[str, Any] = {"max_retries": 4, "base_wait_time": 0.5, "retry_on_status_codes": (429, 500, 502, 503, 504)}
"""Of a request that the hub does not answer, answers with 429 (after the time that it asks for) or with 5xx."""
THREADS = 16


@dataclass(frozen=True)
class Repository:
    """A data set on the hub at one commit: sizes of its files in bytes, and the rows of each split if its README
    states them."""

    name: str
    commit: str
    sizes: dict[str, int]
    rows: dict[str, int]
    places: dict[str, str] = field(default_factory=dict)
    """Address of a file -> where the hub redirects to."""

    @classmethod
    def open(cls, name: str) -> Repository:
        from huggingface_hub import constants

        with hub_errors(name):
            about = _get(f"{constants.ENDPOINT}/api/datasets/{name}", params={"blobs": "true"}).json()
        stated = (about.get("cardData") or {}).get("dataset_info") or {}
        splits = stated.get("splits", ()) if isinstance(stated, dict) else ()
        sizes = {file["rfilename"]: file["size"] for file in about["siblings"]}
        return cls(name, about["sha"], sizes, {split["name"]: split["num_examples"] for split in splits})

    def footer(self, file: str) -> parquet.FileMetaData:
        with hub_errors(f"{self.name}, {file}"):
            return parquet.ParquetFile(self._opened(file)).metadata

    def read(self, file: str, footer: parquet.FileMetaData, groups: list[int], columns: list[str]) -> pa.Table:
        """Columns of some row groups of a parquet file; chunks that lie side by side are one request."""
        with hub_errors(f"{self.name}, {file}"):
            opened = parquet.ParquetFile(self._opened(file), metadata=footer, pre_buffer=True)
            return opened.read_row_groups(groups, columns=columns, use_threads=False)

    def _opened(self, file: str) -> _Ranges:
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self.name, file, repo_type="dataset", revision=self.commit)
        return _Ranges(url, self.sizes[file], self.places)


class _Ranges(io.RawIOBase):
    """A file of the hub as pyarrow reads it; each read is a request for these bytes, where the hub redirects to."""

    def __init__(self, url: str, size: int, places: dict[str, str]):
        self.url, self.size, self.places, self.at = url, size, places, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def read(self, size: int = -1) -> bytes:
        end = self.size if size < 0 else min(self.at + size, self.size)
        if end <= self.at:
            return b""
        ranges = {"range": f"bytes={self.at}-{end - 1}", "accept-encoding": "identity"}
        place = self.places.get(self.url)
        try:
            response = _get(place or self.url, ranges, with_token=not place)
        except OSError as error:  # a redirection is signed, for some hours
            if not place or getattr(getattr(error, "response", None), "status_code", 0) not in (401, 403):
                raise
            response = _get(self.url, ranges)
        if urlsplit(str(response.url)).netloc != urlsplit(self.url).netloc:
            self.places[self.url] = str(response.url)
        if len(response.content) != end - self.at:
            raise OSError(f"{len(response.content):,} of {end - self.at:,} bytes came")
        self.at = end
        return response.content


def _get(url: str, headers: dict[str, str] | None = None, with_token: bool = True, **options):
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    headers = {**(build_hf_headers() if with_token else {}), **(headers or {})}
    response = http_backoff(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, **RETRIES, **options
    )
    hf_raise_for_status(response)
    return response


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """What goes wrong between here and the hub, as one line."""
    from huggingface_hub import constants, errors

    site = constants.ENDPOINT
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise DataError(f"{where}: not in the cache, and HF_HUB_OFFLINE forbids to fetch it; unset it") from None
    except errors.GatedRepoError:
        raise DataError(
            f"{where}: access is restricted; accept its conditions on {site} and log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DataError(
            f"{where}: {site} has no such data set, or it is private; check the name or log in with `hf auth login`"
        ) from None
    except errors.EntryNotFoundError:
        raise DataError(f"{where}: {site} doesn't have this file any more; call again to read the new files") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        reason = "too many requests" if status == 429 else "access denied" if status in (401, 403) else "server error"
        raise DataError(
            f"{where}: {site} answers {status}, {reason}; call again later, what was read is kept"
        ) from None
    except (errors.HTTPError, OSError) as error:
        raise DataError(
            f"{where}: {site} can't be reached or the connection breaks ({first_line(error)}); call again, what was "
            "read is kept"
        ) from None
    except pa.ArrowException as error:
        raise DataError(f"{where}: not a whole parquet file ({first_line(error)})") from None


def in_threads(task: Callable, items: list) -> Iterator:
    """The results of the task as they come; an error ends it and leaves out what has not begun."""
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(partial(task, item)) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
