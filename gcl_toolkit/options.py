"""Options in a name, as the command line and studies write them: `marqo_gs:queries=2000,whole=true`."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

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


def checked(options: Mapping[str, Any], types: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The options, an integer as a float where that is the type. A UserError for one that the owner doesn't have, and
    for a value of another type."""
    values = dict(options)
    for option, value in sorted(options.items()):
        if option not in types:
            names = ", ".join(sorted(types.keys() - {"path"})) or "none"
            raise UserError(f"{owner} has no option {option!r}; leave it out (known: {names})")
        kinds = _kinds(types[option])
        if type(value) is int and float in kinds and int not in kinds:
            values[option] = float(value)
        elif type(value) in (bool, int, float, str) and not {type(value), Path if type(value) is str else None} & kinds:
            expected = " or ".join(kind.__name__ for kind in (bool, int, float, str, Path) if kind in kinds)
            raise UserError(f"option {option} of {owner} is {value!r}; {expected or types[option]} is expected")
    return values


def _kinds(annotation: Any) -> set[Any]:
    """The types that a type hint allows."""
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return set(map(type, get_args(annotation)))
    return {get_origin(annotation) or annotation}


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text
