"""Answers are checked against salted hashes, so that a page doesn't contain them. `answers.py`, which is not part of
the site, computes the hashes."""

import hashlib
import json
import math
from contextlib import redirect_stdout
from io import StringIO
from traceback import extract_tb

HERE = "your code"
"""The name of the student's code in its errors."""
ROUNDS = 20_000


def digest(exercise, value):
    """A slow hash of an answer."""
    key = f"{exercise}/{value}".encode()
    for _ in range(ROUNDS):
        key = hashlib.sha256(key).digest()
    return key.hex()[:16]


def key(exercise, value, step):
    """What is hashed: a choice as it is, a number as a whole number of steps."""
    return digest(exercise, value if step is None else round(float(value) / step))


def number(text):
    """A number as a student types it; None if it isn't one. A comma is a decimal point, % divides by 100."""
    text = text.strip().replace(",", ".")
    try:
        value = float(text.rstrip("% ")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def answer(exercise, text, expected):
    """Check a number or a choice: (right, what to say). expected: {"hash", "step"} from answers.json."""
    step, text = expected["step"], text.strip()
    if not text:
        return False, "Choose or type an answer first."
    if step is None:
        right = digest(exercise, text) == expected["hash"]
        return right, "Right." if right else "Not right. Go back to the figure and try again."
    value = number(text)
    if value is None:
        return False, f"{text!r} is not a number."
    places = (0, -1, 1)  # neighbours, for answers that are rounded the other way
    right = any(digest(exercise, round(value / step) + place) == expected["hash"] for place in places)
    return right, "Right." if right else "Not right. Check the formula and what is asked for."


def function(exercise, source, expected):
    """Check a function by its values on several inputs, and add what it printed. expected: {"name", "inputs", "hashes",
    "step"}."""
    with redirect_stdout(StringIO()) as printed:
        right, words = values(exercise, source, expected)
    lines = printed.getvalue()[:400].rstrip()
    return right, f"{words}\nPrinted:\n{lines}" if lines else words


def values(exercise, source, expected):
    """(right, what to say) of a function's values."""
    scope = {}
    try:
        exec(compile(source, HERE, "exec"), scope)  # the student's own code, in the student's own browser
    except (Exception, SystemExit) as error:
        return False, what_failed(error)
    call = scope.get(expected["name"])
    if not callable(call):
        return False, f"Define a function called {expected['name']}."
    for inputs, hashed in zip(expected["inputs"], expected["hashes"], strict=True):
        shown = f"{expected['name']}({', '.join(json.dumps(value) for value in inputs)})"
        try:
            value = call(*json.loads(json.dumps(inputs)))
            if value is None:
                return False, f"{shown} returns None. Does your function end with return?"
            value = float(value)
        except (Exception, SystemExit) as error:
            return False, f"{shown} raises {what_failed(error)}"
        if not math.isfinite(value):
            return False, f"{shown} is {value}."
        steps = round(value / expected["step"])
        if not any(digest(exercise, steps + place) == hashed for place in (0, -1, 1)):
            return False, f"{shown} is {value:.4f}, which is not right."
    return True, f"Right on all {len(expected['inputs'])} inputs."


def what_failed(error):
    """The error with the last line of the student's code that it comes from."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == HERE]
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")
