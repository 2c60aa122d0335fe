"""What a study found, as a value that is written to and read from results.json."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gcl_toolkit.errors import UserError
from gcl_toolkit.files import write_json
from gcl_toolkit.measure.statistics import Difference, Interval
from gcl_toolkit.studies.candidates import Choices

MACRO = "macro"
"""The mean over the splits."""


@dataclass(frozen=True)
class Gain:
    """The paired difference of a method from its control in one split, or in the mean of the splits (`MACRO`)."""

    method: str
    control: str
    split: str
    difference: Difference

    @property
    def metric(self) -> str:
        return self.difference.metric


@dataclass(frozen=True)
class Results:
    """Averages with intervals, and gains, each over a named control."""

    division: str
    """The queries that were measured: dev, test or all."""
    control: str
    """The control of the headline."""
    strongest: bool
    """Whether it was chosen as the strongest control on the dev queries, not named by the user."""
    queries: dict[str, int]
    """Split -> queries."""
    seeds: int
    worlds: list[str]
    """The data sets."""
    averages: dict[str, dict[str, dict[str, Interval]]]
    """Metric -> method -> split (and `MACRO`) -> mean and interval."""
    gains: list[Gain]
    folds: int = 1
    """Of each data set, with other queries held out."""
    command: str = ""
    date: str = ""
    minutes: float | None = None
    """CPU-minutes of training."""
    machine: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """World -> data card."""
    choices: Choices = field(default_factory=dict)
    """What each method chose its settings from."""

    def gains_of(self, method: str, control: str, metric: str) -> dict[str, Difference]:
        """Split -> difference; {} where the study has none."""
        wanted = (method, control, metric)
        return {g.split: g.difference for g in self.gains if (g.method, g.control, g.metric) == wanted}

    @property
    def splits(self) -> list[str]:
        """The splits of the averages, `MACRO` last."""
        return list(next(iter(next(iter(self.averages.values())).values())))

    def write(self, path: Path) -> None:
        gains = [
            {"method": g.method, "control": g.control, "split": g.split, **asdict(g.difference)} for g in self.gains
        ]
        write_json(path, {**vars(self), "gains": gains})


def read_results(path: str | Path) -> Results:
    """A results.json; a UserError where it is missing or not one."""
    try:
        written = json.loads(Path(path).read_text())
        written["averages"] = {
            metric: {name: {split: Interval(*cell) for split, cell in cells.items()} for name, cells in methods.items()}
            for metric, methods in written["averages"].items()
        }
        written["gains"] = [
            Gain(g["method"], g["control"], g["split"], Difference(**{f.name: g[f.name] for f in fields(Difference)}))
            for g in written["gains"]
        ]
        return Results(**{f.name: written[f.name] for f in fields(Results) if f.name in written})
    except FileNotFoundError:
        raise UserError(f"{path} is missing; it is written by gcl demo, gcl compare and gcl lab") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read as the results of a study ({error})") from None
