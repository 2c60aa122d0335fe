"""The command `gcl`: thin steps around the library; settings are derived from its dataclasses."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from gcl_toolkit.cli import bundle, curate, data, doctor, models, publish, stages, studies, train  # noqa: F401 - commands
from gcl_toolkit.cli.common import app, console
from gcl_toolkit.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. A user's mistake is one line and exit status 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.print(f"note: {message}")
            app.cli(args=arguments, prog="gcl", description="Train and measure retrieval models on ranking scores.")
    except UserError as error:
        print(f"gcl: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("gcl: stopped; the same command continues after the last finished run", file=sys.stderr)
        sys.exit(130)
