"""Downloads: tables as CSV that is safe in spreadsheets, a verdict or a comparison as one HTML file."""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd

from gcl_toolkit.app.draw import safe
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.app.tabs import compare, verdict

STYLE = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.css")))
PLAIN = """
* { box-sizing: border-box; }
body { max-width: 1440px; margin: auto; padding: 1rem; }
ol, ul { list-style: none; }
.download, .close, .grades, .grading, .sort { display: none; }
.details { position: static; width: auto; }
"""
"""What gradio and the page's script provide on the page."""


def to_csv(table: pd.DataFrame) -> str:
    """CSV without formulas: a text that a spreadsheet would read as one gets a ' in front."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([_safe(name) for name in table.columns])
    writer.writerows([[_safe(cell) for cell in row] for row in table.itertuples(index=False)])
    return out.getvalue()


def _safe(cell: Any) -> Any:
    if isinstance(cell, str):
        return f"'{cell}" if cell.lstrip()[:1] in ("=", "+", "-", "@") or cell[:1] in ("\t", "\r", "\n") else cell
    return "" if pd.isna(cell) else f"{cell:.6f}" if isinstance(cell, float) else cell


def to_html(service: Service, state: State) -> str:
    """The verdict or the comparison as one file with embedded pictures, without scripts or links to other hosts."""

    def embedded(match: re.Match) -> str:
        data = base64.b64encode(service.image(int(match[1]))).decode()
        return f'src="data:image/webp;base64,{data}"'

    tab, subject = (verdict, "Verdict") if state.tab == "verdict" else (compare, state.query)
    body = re.sub(r'src="gcl/picture/([0-9]+)[^"]*"', embedded, tab.draw(service, state))
    body = re.sub(r' href="\?[^"]*"', "", body)  # links within the page lead nowhere
    title = safe(f"{subject}: {state.a} and {state.b}")
    where = safe(f"{service.bundle.manifest['world']}, {state.split}")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>{title}</title>'
        f'<style>{STYLE}{PLAIN}</style><body class="gcl"><h1>{title}</h1><p>{where}</p>{body}</body></html>'
    )
