"""Takes the app's screenshots of docs/APP.md: docs/images/app_{verdict,compare,queries,map}.png.

python docs/screens.py runs/demo/bundle --executable /usr/bin/chromium
"""

from __future__ import annotations

from pathlib import Path

import tyro
from playwright.sync_api import sync_playwright

from gcl_toolkit.app.app import launch, open_service

VIEWS = {
    "verdict": "?tab=verdict",
    "compare": "?tab=compare&look=lines",
    "queries": "?tab=queries&order=difference",
    "map": "?tab=map",
}
SIZE = {"width": 1280, "height": 860}


def main(bundle: Path, executable: str | None = None, out: Path = Path("docs/images"), also: str = "") -> None:
    """bundle: made by gcl bundle; executable: of Chromium, playwright's own by default; also: further systems."""
    _, url, page = launch(open_service(bundle), wait=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        shown = browser.new_page(viewport=SIZE, color_scheme="light")
        for name, address in VIEWS.items():
            shown.goto(url + address + (f"&also={also}" if also and name != "map" else ""))
            shown.locator(".view").wait_for()
            shown.wait_for_load_state("networkidle")
            shown.wait_for_timeout(1_500)  # pictures and the map are drawn after the view
            shown.screenshot(path=out / f"app_{name}.png")
        browser.close()
    page.close()


if __name__ == "__main__":
    tyro.cli(main)
