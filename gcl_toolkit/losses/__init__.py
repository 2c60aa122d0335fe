"""The losses. `LOSSES` names what `TrainConfig.loss` accepts; adding one is a function, a line here and a test.

"gcl" takes pairs; all others take a score matrix and are called alike:
loss(queries, documents, weights, logit_scale=).
`TILED` has some of them for large batches; `sized` chooses.
"""

from collections.abc import Callable

from torch import Tensor

from gcl_toolkit.losses.gcl import gcl_loss
from gcl_toolkit.losses.listwise import graded_loss, kl_loss, rankclip_loss
from gcl_toolkit.losses.matrix import matrix_loss
from gcl_toolkit.losses.rivals import bixse_loss, cosent_loss, siglip_loss
from gcl_toolkit.losses.tiled import tiled_gcl_loss, tiled_graded_loss, tiled_matrix_loss

LOSSES: dict[str, Callable[..., Tensor]] = {
    "gcl": gcl_loss,
    "matrix": matrix_loss,
    "graded": graded_loss,
    "kl": kl_loss,
    "rankclip": rankclip_loss,
    "siglip": siglip_loss,
    "bixse": bixse_loss,
    "cosent": cosent_loss,
}
TILED: dict[str, Callable[..., Tensor]] = {
    "gcl": tiled_gcl_loss,
    "matrix": tiled_matrix_loss,
    "graded": tiled_graded_loss,
}
DENSE_CELLS = 1 << 21
"""Above this many cells the tiled form is the faster one too, measured on a CPU."""

__all__ = ["LOSSES", "TILED", "sized", *(f.__name__ for f in (*LOSSES.values(), *TILED.values()))]


def sized(name: str, rows: int, columns: int) -> Callable[..., Tensor]:
    """The loss of that name for so many rows and columns: dense, or tiled where there is a tiled one."""
    return LOSSES[name] if rows * columns <= DENSE_CELLS else TILED.get(name, LOSSES[name])
