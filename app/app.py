"""The entry: opens a bundle and serves the page on 127.0.0.1."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import sys
from pathlib import Path

from app.torch_free import leave_torch_out

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
leave_torch_out()

import gradio as gr  # noqa: E402

from app.limits import MAX_SESSIONS, MAX_UPLOAD  # noqa: E402
from app.page import HERE, TITLE, Page  # noqa: E402
from app.routes import add_routes  # noqa: E402
from app.service import Service  # noqa: E402
from gcl_toolkit.bundle import read_bundle  # noqa: E402
from gcl_toolkit.errors import UserError  # noqa: E402


def open_service(bundle: str | Path) -> Service:
    """The service of a bundle, with torch left out until it is needed."""
    return Service(read_bundle(bundle))


def launch(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    mcp: bool = False,
    wait: bool = True,
) -> tuple:
    """Serve the page, on this machine only unless told otherwise; returns (server app, its URL, the page).

    mcp: the named endpoints are tools of an MCP server too; a UserError when its package is missing.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise UserError("mcp is not installed; run: pip install 'gcl-toolkit[mcp]'")
    _share_arenas()
    page = Page(service).blocks
    fonts = [["system-ui", "sans-serif"], ["ui-monospace", "monospace"]]  # of this machine, none from elsewhere
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=fonts[0], font_mono=fonts[1])
    app, url, _ = page.queue(default_concurrency_limit=4, max_size=64, api_open=False).launch(
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
        theme=theme,
        head=f"<style>{(HERE / 'style.css').read_text()}</style>",  # gradio's css comes after its tabs are measured
    )
    add_routes(app, service)
    print(f"{TITLE}: {url} (stop with Ctrl-C)", flush=True)
    if wait:
        page.block_thread()
    return app, url, page


def _share_arenas() -> None:
    """Two heaps for all threads, where the C library can: one a thread keeps 60 to 90 MB more under load (glibc)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-8, 2)  # M_ARENA_MAX


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.app", description="Look at a bundle in the browser.")
    parser.add_argument("bundle", type=Path, help="a folder made by `gcl bundle`")
    parser.add_argument("--port", type=int, default=None, help="the first free one from 7860 by default")
    parser.add_argument("--open", action="store_true", help="open the browser")
    parser.add_argument("--mcp", action="store_true", help="an MCP server too, at gradio_api/mcp/")
    said = parser.parse_args()
    try:
        launch(open_service(said.bundle), port=said.port, open_browser=said.open, mcp=said.mcp)
    except UserError as error:
        sys.exit(f"gcl: {error}")


if __name__ == "__main__":
    main()
