"""Tables as CSV that a spreadsheet may open."""

from __future__ import annotations

import csv
import io
from typing import Any

import pandas as pd


def to_csv(table: pd.DataFrame) -> str:
    """CSV whose cells no spreadsheet takes for a formula: texts that start like one get a ' before them."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([_safe(name) for name in table.columns])
    writer.writerows([[_safe(cell) for cell in row] for row in table.itertuples(index=False)])
    return out.getvalue()


def _safe(cell: Any) -> Any:
    if isinstance(cell, str):
        return f"'{cell}" if cell.lstrip()[:1] in ("=", "+", "-", "@") or cell[:1] in ("\t", "\r", "\n") else cell
    return "" if pd.isna(cell) else f"{cell:.6f}" if isinstance(cell, float) else cell
