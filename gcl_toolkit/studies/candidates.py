"""Candidate settings: each method of a study takes those that are best for it on the dev queries."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd

from gcl_toolkit.errors import UserError
from gcl_toolkit.models.encoders import options_of
from gcl_toolkit.options import checked, join_options, split_options
from gcl_toolkit.training.config import TrainConfig, Tuning

Choices = dict[str, dict[str, float]]
"""Method -> candidate -> NDCG@10 on the dev queries, the mean of splits and worlds; "" is the study's own settings."""

FIXED = {"seed", "tuning"}
CHOSEN = "Settings, chosen by each method on the dev queries: NDCG@10 with each candidate, mean of the splits, one seed"


def with_candidate(config: Any, candidate: str) -> Any:
    """A `StudyConfig` with the settings of a candidate: "weight_decay=5,dropout=0.6". What training doesn't have is an
    option of the encoder."""
    _, options = split_options(f"candidate:{candidate}")
    if candidate and not options:
        raise UserError(f"candidate {candidate!r} is not a list of settings; write name=value,name=value")
    training, tuning = (
        {field.name: options.pop(field.name) for field in fields(part) if field.name in options}
        for part in (config.train, config.train.tuning)
    )
    for name in FIXED & training.keys():
        raise UserError(f"candidate {candidate!r}: {name} can't be chosen on dev queries")
    tuned = replace(config.train.tuning, **checked(tuning, get_type_hints(Tuning), "training"))
    train = replace(config.train, tuning=tuned, **checked(training, get_type_hints(TrainConfig), "training"))
    encoder, own = split_options(config.encoder)
    encoder = join_options(encoder, {**own, **options})
    try:
        options_of(encoder)
    except UserError as error:
        parts = (config.train, config.train.tuning)
        known = ", ".join(one.name for part in parts for one in fields(part) if one.name not in FIXED)
        raise UserError(f"candidate {candidate!r}: {error}; settings of training: {known}") from None
    return replace(config, candidates=(), train=train, encoder=encoder)


def dev_means(table: pd.DataFrame) -> Choices:
    """Of a per-query table with a further column, candidate."""
    dev = table[table["division"] == "dev"]
    means = dev.groupby(["method", "candidate", "world", "split"], sort=False)["NDCG@10"].mean()
    choices: Choices = {}
    for (method, candidate), mean in means.groupby(["method", "candidate"], sort=False).mean().items():
        choices.setdefault(method, {})[candidate] = round(float(mean), 6)
    return choices


def best(means: dict[str, float]) -> str:
    """The candidate with the best mean; of equal ones the first."""
    return max(means, key=lambda candidate: means[candidate])


def read_choices(study: str | Path) -> Choices:
    """What a study chose from; {} without candidates."""
    path = Path(study) / "candidates.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def choices_table(choices: Choices) -> tuple[list[str], list[list[str]]]:
    """Header and rows: for each method, the mean of each candidate and the chosen one."""
    candidates: Sequence[str] = list(next(iter(choices.values())))
    header = ["method", *(candidate or "as given" for candidate in candidates), "chosen"]
    return header, [
        [method, *(f"{means[candidate]:.3f}" for candidate in candidates), best(means) or "as given"]
        for method, means in choices.items()
    ]
