"""The entry: opens a bundle and serves the page on 127.0.0.1."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from gcl_toolkit.app.export import STYLE
from gcl_toolkit.app.limits import MAX_QUERY, MAX_RUNNING, MAX_SESSIONS, MAX_UPLOAD, MAX_WAITING
from gcl_toolkit.app.page import TITLE, blocks, content
from gcl_toolkit.app.routes import add_routes
from gcl_toolkit.app.service import Service
from gcl_toolkit.data.judgements import Judgements
from gcl_toolkit.errors import UserError
from gcl_toolkit.views.bundle import read_bundle

FONTS: dict = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
"""Fonts of the reader's machine; none are loaded from other hosts."""
POLL = 0.05
"""Seconds between looks for API calls; gradio's .001 on Linux takes 7 % of a core while nobody asks."""


def open_service(bundle: str | Path, judgements: str | Path | None = None) -> Service:
    """The service of a bundle; without torch, which is imported when a model is first needed.

    judgements: the file to which visitors' grades are appended; by default they stay in the visitors' browsers.
    """
    return Service(read_bundle(bundle), Judgements(judgements) if judgements else None)


def launch(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    mcp: bool = False,
    wait: bool = True,
) -> tuple:
    """Serve the page, by default on this machine only; returns (server app, its URL, the page).

    mcp: serve the named endpoints as tools of an MCP server, too; a UserError if its package is missing.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise UserError("mcp is not installed; pip install 'gcl-toolkit[mcp]'")
    _share_arenas()
    page = _queued(service)
    app, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=open_browser,
        quiet=True,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=mcp,
        prevent_thread_lock=True,
        footer_links=[],
        max_file_size=MAX_UPLOAD,
        state_session_capacity=MAX_SESSIONS,
        theme=gr.themes.Base(primary_hue="blue", neutral_hue="slate", **FONTS),
        head=f"<style>{STYLE}</style>",
    )
    add_routes(app, service, host)
    threading.Thread(target=_warm_up, args=(service,), daemon=True).start()
    print(f"{TITLE}: {url} (stop with Ctrl-C)", flush=True)
    if wait:
        page.block_thread()
    return app, url, page


def _queued(service: Service) -> gr.Blocks:
    page = blocks(service).queue(default_concurrency_limit=MAX_RUNNING, max_size=MAX_WAITING, api_open=False)
    page._queue.sleep_when_free = POLL
    return page


def _warm_up(service: Service) -> None:
    """Draw and load what takes seconds of CPU the first time, before a visitor asks for it."""
    for tab in ("verdict", "training"):
        content(service, {"tab": tab})
    if able := [name for name in service.searchable if service.system(name).vectors.weights is not None]:
        split = service.bundle.splits[0]
        text = service.choices(split)[0][: MAX_QUERY // 2]
        with suppress(UserError):  # a visitor who needs the model gets the error
            service.search(split, f"{text} {text}", able[0])  # not a stored query


def _share_arenas() -> None:
    """Let all threads share two heaps (glibc only); one heap per thread takes 60 to 90 MB more under load."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-8, 2)  # M_ARENA_MAX


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gcl_toolkit.app.app", description="Explore a bundle.")
    parser.add_argument("bundle", type=Path, help="a folder made by `gcl bundle`")
    parser.add_argument("--judgements", type=Path, help="the file of grades; by default BUNDLE.judgements.jsonl")
    parser.add_argument("--port", type=int, default=None, help="by default the first free port from 7860")
    parser.add_argument("--open", action="store_true", help="open the browser")
    parser.add_argument("--mcp", action="store_true", help="serve MCP, too, at gradio_api/mcp/")
    args = parser.parse_args()
    try:
        judgements = args.judgements or args.bundle.resolve().with_name(
            f"{args.bundle.resolve().name}.judgements.jsonl"
        )
        launch(open_service(args.bundle, judgements), port=args.port, open_browser=args.open, mcp=args.mcp)
    except UserError as error:
        sys.exit(f"gcl: {error}")


if __name__ == "__main__":
    main()
