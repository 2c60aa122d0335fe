"""The one exception a user may see: what was seen, what was expected, what to do."""


class UserError(ValueError):
    """A mistake in the input, told in one line; the command line prints it and exits with 2."""


class DataError(UserError):
    """Something is wrong with a table, a row, a column or a file; the message names it."""


def first_line(error: Exception) -> str:
    """What another library's exception says, in one line; its name if it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def unknown(kind: str, name: object, known) -> UserError:
    """The error for a name that isn't registered; lists the ones that are."""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(sorted(map(str, known)))}")
