"""Curation: a category tree -> queries -> products -> pictures -> scores -> four splits to train on.

The way MarqoGS-10M was made, for any domain; `gcl curate`. Every answer of the network is stored in a ledger, so the
data set is a function of the settings and these answers, however often the run was interrupted.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing

from gcl_toolkit.curate.settings import KEYS, CurateConfig, check
from gcl_toolkit.errors import DataError
from gcl_toolkit.files import writable_folder

__all__ = ["CurateConfig", "check", "curate"]


def curate(config: CurateConfig, stage: Callable[[str, int], Callable[[], object]] = lambda *_: lambda: None) -> dict:
    """Make the data set in config.out, or continue; returns its card, with its faults under "problems".

    stage(name, steps) is called when a stage begins, its result after each step.
    """
    needed = check(config)  # before openai and httpx2, which may not be installed, are imported
    from gcl_toolkit.curate.ledger import Ledger
    from gcl_toolkit.curate.making import Making

    keys = {name: os.environ.get(variable, "") for name, variable in KEYS.items()}
    path = writable_folder(config.out) / "ledger.sqlite"
    try:
        with (
            closing(Ledger(path, config, keys.values())) as ledger,
            closing(Making(config, ledger, keys, needed, stage)) as making,
        ):
            return making.run()
    except sqlite3.Error as error:
        raise DataError(
            f"{path}: can't be read or written ({error}); free disk space, or move the file away to start again"
        ) from None
