"""The losses. `LOSSES` names what `TrainConfig.loss` accepts; adding one is a file, a line here and a test.

`TILED` has the same losses for large batches; `sized` chooses.
"""

from collections.abc import Callable

from torch import Tensor

from gcl_toolkit.losses.gcl import gcl_loss
from gcl_toolkit.losses.matrix import matrix_loss
from gcl_toolkit.losses.tiled import tiled_gcl_loss, tiled_matrix_loss

LOSSES: dict[str, Callable[..., Tensor]] = {"gcl": gcl_loss, "matrix": matrix_loss}
TILED: dict[str, Callable[..., Tensor]] = {"gcl": tiled_gcl_loss, "matrix": tiled_matrix_loss}
DENSE_CELLS = 1 << 21
"""Above this many cells the tiled form is the faster one too, measured on a CPU."""

__all__ = ["LOSSES", "TILED", "gcl_loss", "matrix_loss", "sized", "tiled_gcl_loss", "tiled_matrix_loss"]


def sized(name: str, rows: int, columns: int) -> Callable[..., Tensor]:
    """The loss of that name for so many rows and columns: dense, or tiled where there is a tiled one."""
    return LOSSES[name] if rows * columns <= DENSE_CELLS else TILED.get(name, LOSSES[name])
