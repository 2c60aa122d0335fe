"""The losses. `LOSSES` names what `TrainConfig.loss` accepts; adding one is a function, a line here and a test.

"gcl" takes pairs; all others take a score matrix and are called alike:
loss(queries, documents, weights, logit_scale=, query_totals=, document_totals=).
"""

from collections.abc import Callable

from torch import Tensor

from gcl_toolkit.losses.gcl import gcl_loss
from gcl_toolkit.losses.listwise import graded_loss, kl_loss, rankclip_loss
from gcl_toolkit.losses.matrix import matrix_loss
from gcl_toolkit.losses.rivals import bixse_loss, cosent_loss, siglip_loss

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

__all__ = ["LOSSES", *(function.__name__ for function in LOSSES.values())]
