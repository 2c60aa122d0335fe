"""What the benchmarks share: candidates timed in turns, and a table of their ratios. Run the others, not this."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from datetime import date

from gcl_toolkit.machine import machine


def arguments(about: str, **texts: str) -> argparse.Namespace:
    """--small, for CI: every check, at a size where the ratios mean little. texts: further options with defaults."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--small", action="store_true", help="a size for CI: every check, but ratios mean little")
    parser.add_argument("--rounds", type=int, default=3, help="how often each candidate runs, in turns")
    for name, default in texts.items():
        parser.add_argument(f"--{name}", default=default)
    options = parser.parse_args()
    print(f"{date.today()}, {machine()['processor']}, one thread, CPU time, best of {options.rounds} rounds in turns")
    return options


def cpu_seconds(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least CPU time of each candidate over the rounds; each round runs every candidate once."""
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, run in candidates.items():
            started = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - started)
    return best


def header(what: str) -> None:
    print(f"\n{what}\n\n| what | ours | peer | ratio | bar | met |\n|---|---|---|---|---|---|")


def slower(what: str, ours: float, peer: str, seconds: float, bar: float | None = None) -> None:
    """A row: ours takes `ratio` times as long as the peer; at most `bar` is wanted."""
    ratio = ours / seconds
    met = "" if bar is None else "yes" if ratio <= bar else "no"
    print(f"| {what} | {ours:.3f} s | {peer} {seconds:.3f} s | {ratio:.2f}x | {f'<= {bar}x' if bar else ''} | {met} |")


def faster(what: str, ours: float, peer: str, seconds: float, bar: float | None = None) -> None:
    """A row: the peer takes `ratio` times as long as ours; at least `bar` is wanted."""
    ratio = seconds / ours
    met = "" if bar is None else "yes" if ratio >= bar else "no"
    print(f"| {what} | {ours:.3f} s | {peer} {seconds:.3f} s | {ratio:.1f}x | {f'>= {bar}x' if bar else ''} | {met} |")


def gpu_row(what: str, value: str, bar: str = "", met: bool | None = None) -> None:
    """A row of the table that gpu_all.py prints at the end."""
    print(f"| {what} | {value} | {bar} | {'' if met is None else 'yes' if met else 'no'} |", flush=True)
