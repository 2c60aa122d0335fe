"""gcl curate."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated

import tyro

from gcl_toolkit.cli.common import app, console, progress
from gcl_toolkit.curate import CurateConfig, check, curate
from gcl_toolkit.curate.settings import listed


@app.command(name="curate")
def curate_command(
    demo: bool = False,
    config: Annotated[CurateConfig, tyro.conf.arg(name="")] = CurateConfig(),  # noqa: B008 - frozen
) -> None:
    """Make a ranked data set of a domain: queries, products, pictures, scores, four splits.

    Args:
        demo: make a small set from the generated shop, with a local server on 127.0.0.1; needs no key.
    """
    from gcl_toolkit.curate import demo as demos

    with demos.demo(config) if demo else nullcontext(config) as config:
        caps = f"caps: {config.max_requests:,} requests, cost {config.max_cost:g}"
        needed = listed(check(config)) or "none"
        console.print(f"requests, if every answer is usable: at most {needed}; {caps}")
        with progress() as bar:

            def stage(name: str, steps: int) -> Callable[[], object]:
                task = bar.add_task(name, total=steps)
                return lambda: bar.advance(task)

            card = curate(config, stage)
    for name in ("queries", "pictures", "products", "judge", "splits", "spent, over all restarts"):
        for what, value in card.get(name, {}).items():
            console.print(f"  {name}: {what}: {value}")
    for problem in card.get("problems", ()):
        console.print(f"problem: {problem}", style="red")
    if "splits" in card:
        console.print(f"next: gcl data check {config.out}; gcl compare --data {config.out}")
    else:
        console.print(f"{config.out}/queries.csv; search them elsewhere and continue with --search results.csv")
