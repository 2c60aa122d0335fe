"""A loss for open_clip's training loop: `ClipLoss` with ids or weights."""

import torch
from torch import Tensor

from gcl_toolkit.integrations import BatchLoss
from gcl_toolkit.losses import gcl_loss
from gcl_toolkit.losses.fast.ranks import gather, ranks, whole_batch
from gcl_toolkit.methods import DEFAULT


class RankedClipLoss(BatchLoss):
    """`BatchLoss` with the call signature of `ClipLoss`: images are the products, texts the queries.

    Without ids it is the paper's loss of N pairs, each with its weight; without weights too, it is CLIP's.
    """

    def __init__(self, query_ids=(), product_ids=(), scores=(), method=DEFAULT):
        super().__init__(query_ids, product_ids, scores, method)

    def forward(  # type: ignore[override]
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        weights: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss of N images and their texts, a scalar, or {"contrastive_loss": scalar} with `output_dict`.

        image_features, text_features: N x D, L2-normalised. ids: N x 2, the ids of each row's query and product.
        weights: N, >= 0. logit_bias: cancels in the softmax. With torch.distributed, as in `BatchLoss`.
        """
        if ids is not None:
            loss = super().forward(text_features, image_features, *ids.T, logit_scale=logit_scale)
        else:
            texts, images = text_features.float(), image_features.float()
            weights = None if weights is None else gather(weights)
            with torch.autocast(images.device.type, enabled=False):
                loss = ranks() * whole_batch(gcl_loss)(texts, images, weights, logit_scale=logit_scale)
        return {"contrastive_loss": loss} if output_dict else loss
