"""Losses: pure functions of embeddings and weights. `fast` has the same values for large batches and many ranks."""

from gcl_toolkit.losses.gcl import gcl_loss, same_id_cells
from gcl_toolkit.losses.graded import graded_loss
from gcl_toolkit.losses.matrix import matrix_loss
from gcl_toolkit.losses.rivals import bixse_loss, cosent_loss, kl_loss, rankclip_loss, siglip_loss

__all__ = [
    "bixse_loss",
    "cosent_loss",
    "gcl_loss",
    "graded_loss",
    "kl_loss",
    "matrix_loss",
    "rankclip_loss",
    "same_id_cells",
    "siglip_loss",
]
