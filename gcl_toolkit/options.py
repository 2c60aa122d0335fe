"""Options in a name, as the command line and studies write them: `marqo_gs:queries=2000,whole=true`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from gcl_toolkit.errors import UserError


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """("marqo_gs", {"queries": 2000}) of "marqo_gs:queries=2000"; a name without options has {}."""
    name, _, written = text.rpartition(":")
    if not name or "=" not in written:
        return text, {}
    parts = [part.partition("=") for part in written.split(",")]
    for key, equals, value in parts:
        if not (key.isidentifier() and equals and value):
            raise UserError(f"{text}: {key + equals + value!r} is not an option; write name=value,name=value")
        if sum(key == other for other, *_ in parts) > 1:
            raise UserError(f"{text}: option {key!r} appears twice; give it once")
    return name, {key: _value(value) for key, _, value in parts}


def join_options(name: str, options: dict[str, Any]) -> str:
    """What `split_options` takes apart."""
    written = (f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in options.items())
    return f"{name}:{','.join(written)}" if options else name


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text
