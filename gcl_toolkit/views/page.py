"""Values -> one HTML file that needs neither another file nor the network, by the Jinja templates of report/.

The templates escape all values: data never becomes markup.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gcl_toolkit.files import writable_folder


def write_page(path: str | Path, template: str, shared: Mapping[str, Any] | None = None, **values: Any) -> Path:
    """Fill a template; returns the path of the page. shared: values for the macros, too; a page without any has no
    figures."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.loader = FileSystemLoader(Path(__file__).parent / "report")
    environment.globals |= {"plotly_js": "", **(shared or {})}
    environment.filters |= {"number": number, "words": words}
    environment.tests["significant"] = lambda gain: gain.p_value < 0.05 and (gain.low > 0 or gain.high < 0)
    environment.policies["json.dumps_function"] = lambda value, **_: (
        value.to_json() if hasattr(value, "to_json") else json.dumps(value)
    )
    page = environment.get_template(template).render(values)
    writable_folder(Path(path).parent)
    Path(path).write_text(page, encoding="utf-8")
    return Path(path)


def number(value: float, form: str) -> str:
    """Formatted, with a minus sign in place of the hyphen."""
    return f"{value:{form}}".replace("-", "\N{MINUS SIGN}")


def words(fact: object) -> str:
    """A setting, or a fact of a data card, in words."""
    if isinstance(fact, float):
        return f"{fact:.4g}"
    if isinstance(fact, list | tuple):
        return ", ".join(map(words, fact))
    if isinstance(fact, dict):
        parts = ((key, words(part), isinstance(part, dict | list)) for key, part in fact.items())
        return ", ".join(f"{key} {f'({text})' if nested else text}" for key, text, nested in parts)
    return str(fact)
