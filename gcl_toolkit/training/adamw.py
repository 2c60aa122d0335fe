"""torch's AdamW without the import of torch._dynamo (seconds, 900 modules), which only compiled optimizers need."""

from __future__ import annotations

from inspect import unwrap

import torch


class AdamW(torch.optim.AdamW):
    """The same steps; the wrappers that import the compiler are taken off three methods."""

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
