"""Curation: gcl curate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import tyro

from gcl_toolkit.cli.common import app, console, progress
from gcl_toolkit.curate import CurateConfig, check, curate
from gcl_toolkit.errors import UserError
from gcl_toolkit.runs import writable_folder

DEFAULT_CURATE = CurateConfig()


@app.command(name="curate")
def curate_command(
    demo: bool = False, config: Annotated[CurateConfig, tyro.conf.arg(name="")] = DEFAULT_CURATE
) -> None:
    """Make a ranked data set of a domain: categories -> queries -> products -> pictures -> scores -> four splits.

    Args:
        demo: a small set from the generated shop, over a server of our own on 127.0.0.1; needs no key.
    """
    if not demo:
        _run(config)
        return
    changed = {name: value for name, value in asdict(config).items() if value != getattr(DEFAULT_CURATE, name)}
    if own := changed.keys() & {"tree", "model", "model_url", "search", "encoder"}:
        raise UserError(f"--demo brings its own {', '.join(sorted(own))}; leave it out")
    from gcl_toolkit.curate.demo import Shop, demo_config, port_of, serve

    writable_folder(config.out)
    with console.status("opening the shop"):
        shop = Shop()
    with serve(shop, port_of(config.out)) as address:
        _run(demo_config(address, **{"out": config.out} | changed))


def _run(config: CurateConfig) -> None:
    needed = check(config)
    said = ", ".join(f"{count:,} for {service}" for service, count in needed.items())
    console.print(
        f"requests, if every answer is good: {said or 'none'}, at most; caps: {config.max_requests:,} requests, cost "
        f"{config.max_cost:g}",
        highlight=False,
    )
    with progress() as bar:

        def stage(name: str, steps: int) -> Callable[[], object]:
            task = bar.add_task(name, total=steps)
            return lambda: bar.advance(task)

        card = curate(config, stage)
    for name in ("queries", "pictures", "products", "judge", "splits", "spent, over all restarts"):
        for what, value in card.get(name, {}).items():
            console.print(f"  {name}: {what}: {value}", highlight=False, markup=False, soft_wrap=True)
    for problem in card.get("problems", ()):
        console.print(f"problem: {problem}", highlight=False, markup=False, style="red", soft_wrap=True)
    if "splits" in card:
        console.print(f"next: gcl data check {config.out}; gcl compare --data {config.out}", soft_wrap=True)
    else:
        console.print(f"{config.out}/queries.csv; search them elsewhere and go on with --search results.csv")
