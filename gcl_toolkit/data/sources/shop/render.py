"""SVG -> PNG. Run as a file, it is the process that draws a part of the shop: pickled on its input and its output."""

import pickle
import sys
from collections.abc import Sequence

import resvg_py


def pngs(svgs: Sequence[str], size: int) -> list[bytes]:
    """The pictures, size x size pixels."""
    return [resvg_py.svg_to_bytes(svg_string=s, width=size, height=size, skip_system_fonts=True) for s in svgs]


if __name__ == "__main__":
    pickle.dump(pngs(*pickle.load(sys.stdin.buffer)), sys.stdout.buffer)
