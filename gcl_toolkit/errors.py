"""The exceptions that a user sees: what was seen, what was expected, what to do."""

import re
import textwrap


class UserError(ValueError):
    """A mistake in the input, in one line; the command line prints it and exits with status 2."""


class DataError(UserError):
    """Something is wrong with a table, a row, a column or a file; the message names it."""


def first_line(error: Exception) -> str:
    """Another library's error message on one line, shortened to 240 characters; its class if it has no message."""
    return textwrap.shorten(str(error), 240, placeholder=" ...") or type(error).__name__


def unknown(kind: str, name: object, known) -> UserError:
    """The error for a name that isn't registered; lists the ones that are."""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(sorted(map(str, known)))}")


def counted(number: int, noun: str) -> str:
    """ "1 row", "1,200 rows", "2 queries"."""
    return f"{number:,} {noun if number == 1 else re.sub('y$', 'ie', noun) + 's'}"
