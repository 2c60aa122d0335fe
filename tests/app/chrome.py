"""A served bundle and a browser to look at it: the system's Chromium, driven by playwright.

Tests that need it are skipped, with the reason, where it is missing; with GCL_BROWSER=required they fail instead.
"""

import importlib.util
import os
import shutil
import signal
import socket
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from forks import forks

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox"]
WITHOUT_WEBGL = [*FLAGS, "--disable-gpu", "--disable-software-rasterizer"]
"""For what draws no map: an emulated GPU takes a tenth of the time."""
APP = "gcl_toolkit.app.app"
MAIN = f"from {APP} import main; main()"
WAIT = 60_000
"""Milliseconds, for machines that do other things at the same time."""


def needed() -> None:
    """Call at the top of a test file that needs the browser."""
    missing = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
    missing += [] if CHROMIUM else ["chromium"]
    if missing:
        reason = f"{' and '.join(missing)} missing; pip install -e '.[app,dev]', apt-get install chromium"
        if os.environ.get("GCL_BROWSER") == "required":
            pytest.fail(f"GCL_BROWSER=required, but {reason}", pytrace=False)
        pytest.skip(reason, allow_module_level=True)


@contextmanager
def served(folder: Path, *options: str, code: str = MAIN, imported: tuple = (APP,)):
    """The app on a free port: its address, its process id as `pid`. It finds these modules imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = forks(*imported)
    base = Address(f"http://127.0.0.1:{port}/")
    base.pid, output = server.start(code, str(folder), "--port", str(port), *options)
    try:
        deadline = time.monotonic() + 300
        while not server.ended(base.pid) and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(base + "gcl/point/0", timeout=5) as answer:
                    answer.read()
                break
            except OSError:
                time.sleep(0.3)
        assert not server.ended(base.pid), f"the app ended before it served a page: {output.read_text()}"
        yield base
    finally:
        os.kill(base.pid, signal.SIGTERM)
        server.wait(base.pid)


class Address(str):
    pid: int


def query_string(**options):
    return "?" + "&".join(f"{key}={quote(str(value), safe='')}" for key, value in options.items())


def visit(page, url, **options):
    """Load the page, as from a bookmark."""
    page.goto(url + query_string(**options))
    settled(page)


def move(page, **options):
    """Another address without loading the page again, as by Back and Forward."""
    page.evaluate(
        "to => (history.pushState(null, '', to), dispatchEvent(new PopStateEvent('popstate')))", query_string(**options)
    )
    settled(page)


def settled(page):
    """Wait until the answer to the last action is shown."""
    page.locator("#gcl:not([aria-busy]) .view").wait_for()


def view(page):
    return page.locator(".view:visible")


def sent(page):
    """The text of the view as sent by the server, without the figures, which are drawn later."""
    return view(page).evaluate(
        """view => {
          const copy = view.cloneNode(true);
          copy.querySelectorAll(".figure, .map").forEach(place => place.replaceChildren());
          return copy.textContent;
        }"""
    )


def in_the_address(page, **options):
    """Wait until the address bar says so."""
    for key, value in options.items():
        page.wait_for_function(
            "([key, value]) => new URLSearchParams(location.search).get(key) === value", arg=[key, str(value)]
        )
    settled(page)


def parameters(page):
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")
