"""The command `gcl`: thin steps around the library; training settings are derived from TrainConfig."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from gcl_toolkit import doctor as doctoring
from gcl_toolkit import recipes
from gcl_toolkit.cli import bundle, curate, data, models, publish, stages, studies  # noqa: F401 - each file adds its commands
from gcl_toolkit.cli.common import app, console
from gcl_toolkit.errors import UserError


@app.command(name="doctor")
def doctor() -> None:
    """Versions, device, free disk and memory, what is missing, and how long the demo will take."""
    facts, problems = doctoring.examine()
    for fact in facts:
        console.print(f"  {fact}", highlight=False, markup=False)
    seconds = doctoring.step_seconds()
    minutes = recipes.RECIPES["shop"].minutes * seconds / doctoring.REFERENCE_STEP_SECONDS
    console.print(f"  gcl demo: about {max(1, minutes):.0f} minutes on this machine as it is now")
    for problem in problems:
        console.print(f"problem: {problem}", highlight=False, markup=False, style="red")
    console.print(f"problems: {len(problems)}" if problems else "nothing is missing: gcl demo")
    sys.exit(1 if problems else 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. A mistake of the user's is one line and exit status 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.print(f"note: {message}", markup=False)
            app.cli(args=arguments, prog="gcl", description="Generalized Contrastive Learning, in the open.")
    except UserError as error:
        print(f"gcl: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("gcl: stopped; the same command goes on after the last whole run", file=sys.stderr)
        sys.exit(130)
