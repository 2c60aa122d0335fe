"""Curation: a category tree -> queries -> products -> pictures -> scores -> four splits that can be trained on.

The way in which MarqoGS-10M was made, for any domain; `gcl curate`. Every answer of the network is kept in a ledger, so
the data set is a function of the settings and of these answers, however often the making was interrupted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing

from gcl_toolkit.curate.settings import KEYS, CurateConfig, check
from gcl_toolkit.errors import DataError
from gcl_toolkit.runs import writable_folder

__all__ = ["CurateConfig", "check", "curate"]


def curate(config: CurateConfig, stage: Callable[[str, int], Callable[[], object]] = lambda *_: lambda: None) -> dict:
    """Make the data set in config.out, or go on with it; returns its card, with what is wrong with it under "problems".

    stage(name, steps) is called when a stage begins, what it returns after each step.
    """
    needed = check(config)  # before openai and httpx2, which may not be installed, are imported
    from gcl_toolkit.curate.ledger import Ledger
    from gcl_toolkit.curate.making import Making

    keys = {service: os.environ.get(variable, "") for service, variable in KEYS.items()}
    path = writable_folder(config.out) / "ledger.sqlite"
    try:
        with (
            Ledger(path, config.max_requests, config.max_cost, config.rate, keys.values()) as ledger,
            closing(Making(config, ledger, keys, needed, stage)) as making,
        ):
            return making.run()
    except sqlite3.Error as error:
        raise DataError(
            f"{path}: can't be read or written ({error}); make room, or move it away to begin anew"
        ) from None
