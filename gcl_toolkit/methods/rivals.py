"""Losses of others as methods, on the batches of the score matrix. None has a tiled form: each rank computes it all."""

from dataclasses import dataclass
from typing import ClassVar

from gcl_toolkit.errors import UserError
from gcl_toolkit.losses import bixse_loss, cosent_loss, kl_loss, rankclip_loss, siglip_loss
from gcl_toolkit.losses.fast import Forms
from gcl_toolkit.methods.matrix import Matrix
from gcl_toolkit.methods.samplers import Batch


@dataclass(frozen=True)
class SigLIP(Matrix):
    """Is this a known pair, yes or no: each cell of the score matrix alone (arXiv 2303.15343)."""

    weighting: str = "constant"
    forms: ClassVar[Forms] = Forms(siglip_loss)
    against: ClassVar[str] = "each cell on its own: is this a known pair, yes or no"


@dataclass(frozen=True)
class BiXSE(Matrix):
    """Each cell of the score matrix alone, with its score as a probability (arXiv 2508.06781)."""

    weighting: str = "relative"
    forms: ClassVar[Forms] = Forms(bixse_loss)
    against: ClassVar[str] = "each cell on its own, with its weight as a probability"


@dataclass(frozen=True)
class RankCLIP(Matrix):
    """The score matrix with w = 1, plus the likelihood of the order of the scores (arXiv 2404.09387)."""

    weighting: str = "relative"
    forms: ClassVar[Forms] = Forms(rankclip_loss)
    against: ClassVar[str] = "in a softmax with equal weights, plus the likelihood of the order"


@dataclass(frozen=True)
class KL(Matrix):
    """Distillation: softmax(score / temperature) of each query and product is the target of the model's softmax."""

    weighting: str = "relative"
    temperature: float = 0.1

    forms: ClassVar[Forms] = Forms(kl_loss)
    against: ClassVar[str] = "softmax(weight / temperature) as the target"

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature > 0:
            raise UserError(f"temperature is {self.temperature:g}; it must be a number > 0")

    def settings(self, batch: Batch) -> dict[str, float]:
        return {"temperature": self.temperature}


@dataclass(frozen=True)
class CoSENT(Matrix):
    """Every pair of cells of a row or column in the order of their scores (Su 2022, kexue.fm/archives/8847)."""

    weighting: str = "relative"
    forms: ClassVar[Forms] = Forms(cosent_loss)
    against: ClassVar[str] = "each pair of cells of a row or column in the order of their weights"
