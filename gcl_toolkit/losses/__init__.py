"""The losses. `LOSSES` names what `TrainConfig.loss` accepts; adding one is a file, a line here and a test."""

from gcl_toolkit.losses.gcl import gcl_loss
from gcl_toolkit.losses.matrix import matrix_loss

LOSSES = {"gcl": gcl_loss, "matrix": matrix_loss}

__all__ = ["LOSSES", "gcl_loss", "matrix_loss"]
