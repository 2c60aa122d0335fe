"""Judgements made by people and language models, in one append-only file of JSON lines.

A line is {"query_id", "product_id", "grade", "judge", "time", "note"}: grade 0..4, or null for a withdrawn one; time in
UTC, ISO 8601. A line is complete once its end is written and on disk, so a killed process loses at most the line it was
writing. Several processes may append at the same time (a lock, as the runs have).
"""

import csv
import io
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from gcl_toolkit.errors import DataError, UserError

try:
    import fcntl
except ImportError:  # Windows: one process at a time should append
    fcntl = None  # type: ignore[assignment]

GRADES = range(5)
MACHINE = "lm:"
"""How the names of language models that judge begin: lm:MODEL@PROMPTHASH."""
MAX_TEXT = 500
"""Characters of an id, a name or a note."""
COLUMNS = ("query_id", "product_id", "grade", "judge", "time", "note")


@dataclass(frozen=True)
class Judgement:
    """grade: 0..4, None for a withdrawn one; undo: it takes back the judge's last one and restores the one before.
    Raises UserError for values out of range."""

    query_id: str
    product_id: str
    grade: int | None
    judge: str
    time: str = ""
    note: str = ""
    undo: bool = False

    def __post_init__(self):
        for name in ("query_id", "product_id", "judge", "note"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > MAX_TEXT or not (value.strip() or name == "note"):
                shown = str(value)[:60]
                raise UserError(f"{name} is {shown!r}; a text of 1 to {MAX_TEXT} characters is expected")
        if self.grade is not None and (type(self.grade) is not int or self.grade not in GRADES):
            raise UserError(f"the grade is {str(self.grade)[:60]!r}; an integer from 0 to {GRADES[-1]} is expected")


class Judgements:
    """The judgements in a file, which need not exist yet. Lines that other processes append are read, too."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._mutex = threading.RLock()
        self._forget()
        self._read()

    def grade(self, query_id: str, product_id: str, grade: int | None, judge: str, note: str = "") -> Judgement:
        """Append a judgement; None withdraws the judge's grade of the pair."""
        return self.append([Judgement(query_id, product_id, grade, judge, note=note)])[0]

    def append(self, judgements: Iterable[Judgement]) -> list[Judgement]:
        """Append all or none; those without a time get the present one. UserError where the file can't be written."""
        with self._locked() as write:
            return write([*judgements])

    def undo(self, judge: str) -> Judgement | None:
        """Take back the judge's last judgement that was not taken back yet; returns what now holds for its pair."""
        with self._locked() as write:
            if not self._acts.get(judge):
                return None
            done, before = self._acts[judge][-1]
            grade, note = (before.grade, before.note) if before else (None, "")
            return write([Judgement(done.query_id, done.product_id, grade, judge, note=note, undo=True)])[0]

    @property
    def revision(self) -> int:
        """The number of lines; it changes when another process appends, too."""
        self._read()
        return self._lines

    def last(self) -> pd.DataFrame:
        """The last judgement of each judge and pair, without the withdrawn ones: `COLUMNS`, oldest first."""
        self._read()
        with self._mutex:
            kept = [asdict(one) for one in self._last.values() if one.grade is not None]
        return pd.DataFrame(kept, columns=[*COLUMNS])

    def grades(self, judge: Callable[[str], bool] = lambda name: not name.startswith(MACHINE)) -> pd.DataFrame:
        """One grade a pair: the median of the judges' last grades, half a grade rounded down (2 and 3 give 2).

        judge: which judges count, by default all people. A language model's grades count only where they are asked for.
        """
        table = self.last()
        kept = np.array([judge(name) for name in table["judge"]], bool)
        medians = table[kept].groupby(["query_id", "product_id"], sort=False)
        return np.floor(medians["grade"].median()).astype(int).reset_index()

    def qrels(self, form: str = "trec") -> str:
        """The grades as text: "trec", `query_id 0 product_id grade`, or "csv", every judge's last one with all columns.

        Raises DataError for an id with white space, which TREC can't hold.
        """
        if form == "csv":
            return self.last().to_csv(index=False, lineterminator="\n")
        lines = []
        for query, product, grade in self.grades().itertuples(index=False):
            for name in (query, product):
                if len(name.split()) != 1:
                    raise DataError(f"id {name!r}: TREC separates columns by white space; export CSV")
            lines.append(f"{query} 0 {product} {grade}\n")
        return "".join(lines)

    def add_qrels(self, text: str, judge: str) -> int:
        """Append the judgements of a text, TREC lines or CSV with a header, all or none; returns their number.

        CSV needs query_id, product_id and grade; a line without judge or time gets `judge` and the present time.
        A grade below 0 ("junk" in TREC) is read as 0. Raises DataError with the line and what is expected there.
        """
        return len(self.append(_parsed(text, judge)))

    # -- the file ------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._lines, self._offset = 0, 0
        self._last: dict[tuple[str, str, str], Judgement] = {}
        self._acts: dict[str, list[tuple[Judgement, Judgement | None]]] = {}

    @contextmanager
    def _locked(self) -> Iterator[Callable[[list[Judgement]], list[Judgement]]]:
        """Inside, no other process appends, and all that others appended is known."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._mutex, self.path.open("a+b") as file:
                if fcntl:
                    with suppress(OSError):  # a file system without locks
                        fcntl.flock(file, fcntl.LOCK_EX)
                self._read()
                yield lambda judgements: self._write(file, judgements)
        except OSError as error:
            problem = f"{self.path} can't be written ({error.strerror})"
            raise UserError(f"{problem}; free some space or choose another file") from None

    def _write(self, file: BinaryIO, judgements: list[Judgement]) -> list[Judgement]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        timed = [Judgement(**asdict(one) | {"time": one.time or now}) for one in judgements]
        file.truncate(self._offset)  # the beginning of a line whose writer was killed
        file.write(b"".join(_line(one) for one in timed))
        file.flush()
        os.fsync(file.fileno())
        self._read()
        return timed

    def _read(self) -> None:
        """Read the complete lines that were appended since."""
        with self._mutex:
            size = self.path.stat().st_size if self.path.is_file() else 0
            if size < self._offset:
                self._forget()
            if size == self._offset:
                return
            with self.path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._lines += 1
                    if line.strip():
                        self._take(self._judgement(line))

    def _judgement(self, line: bytes) -> Judgement:
        try:
            return Judgement(**json.loads(line))
        except (ValueError, TypeError) as error:
            problem = str(error) if isinstance(error, UserError) else "it is not a judgement as JSON"
            raise DataError(f"{self.path} line {self._lines}: {problem}; correct or remove the line") from None

    def _take(self, one: Judgement) -> None:
        key, acts = (one.query_id, one.product_id, one.judge), self._acts.setdefault(one.judge, [])
        if one.undo and acts:
            acts.pop()
        elif not one.undo:
            acts.append((one, self._last.get(key)))
        self._last.pop(key, None)
        self._last[key] = one


def _line(one: Judgement) -> bytes:
    values = {name: value for name, value in asdict(one).items() if name != "undo" or value}
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()


def _parsed(text: str, judge: str) -> Iterator[Judgement]:
    rows = text.removeprefix("\ufeff").splitlines()
    if rows and "," in rows[0] and "grade" in rows[0]:
        reader = csv.DictReader(io.StringIO("\n".join(rows)))
        missing = [name for name in COLUMNS[:3] if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"line 1: column {missing[0]!r} is missing; {', '.join(COLUMNS[:3])} are expected")
        for row in reader:
            yield _from_text(reader.line_num, row, judge)
        return
    for number, line in enumerate(rows, start=1):
        parts = line.split()
        if len(parts) not in (0, 4):
            raise DataError(f"line {number}: {len(parts)} columns, {line[:80]!r}; 'query_id 0 product_id grade' or CSV")
        if parts:
            yield _from_text(number, dict(zip(("query_id", "_", "product_id", "grade"), parts, strict=True)), judge)


def _from_text(number: int, row: dict[str, Any], judge: str) -> Judgement:
    given = {name: row[name] for name in COLUMNS if row.get(name)}
    grade = given.get("grade", "")
    with suppress(ValueError):
        given["grade"] = int(max(float(grade), 0)) if max(float(grade), 0) in GRADES else grade
    try:
        return Judgement(**{"judge": judge, "query_id": "", "product_id": "", "grade": ""} | given)
    except UserError as error:
        raise DataError(f"line {number}: {error}") from None
