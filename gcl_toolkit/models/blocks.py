"""open_clip's transformers in half precision, with fewer copies: 1.4 times as fast on a GPU (docs/BENCHMARKS.md).

Under autocast, open_clip's layer norms and the residuals of its text tower are float32, which is cast before every
product; queries, keys and values are copied; the causal mask is a tensor, which the fastest attention doesn't take; and
patches go through a convolution. Here norms and residuals are in autocast's type (the sums in a norm are float32),
and patches are a product. Outside autocast everything is as it was.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention


def speed_up(encoder: nn.Module) -> None:
    """Replace methods of an encoder's open_clip modules; those of other libraries stay as they are."""
    for module in list(encoder.modules()):
        kind = type(module)
        if kind.__module__.startswith("open_clip.") and kind.__name__ in _FASTER:
            part, method, faster = _FASTER[kind.__name__]
            target = module.get_submodule(part)
            if method not in vars(target):
                setattr(target, method, partial(faster, target, getattr(target, method)))


def _half(x: Tensor) -> torch.dtype | None:
    """The type in which autocast multiplies; None outside of it."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None


def _attention(
    block: Any, plain: Callable, q_x: Tensor, k_x: Any = None, v_x: Any = None, attn_mask: Tensor | None = None
) -> Tensor:
    layer = block.attn
    is_causal = attn_mask is not None and attn_mask.dim() == 2  # open_clip's masks of two dimensions are
    is_packed = layer.batch_first and layer.in_proj_weight is not None and k_x is None and v_x is None
    if not is_packed or not _half(q_x) or (attn_mask is not None and not is_causal):
        return plain(q_x, k_x, v_x, attn_mask)
    packed_NxLx3xHxD = linear(q_x, layer.in_proj_weight, layer.in_proj_bias).unflatten(-1, (3, layer.num_heads, -1))
    query, key, value = packed_NxLx3xHxD.permute(2, 0, 3, 1, 4)
    attended_NxHxLxD = scaled_dot_product_attention(query, key, value, is_causal=is_causal)
    return layer.out_proj(attended_NxHxLxD.transpose(1, 2).flatten(2))


def _norm(layer: nn.LayerNorm, plain: Callable, x: Tensor) -> Tensor:
    if not _half(x) or layer.weight is None or layer.bias is None:
        return plain(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer_norm(x, layer.normalized_shape, layer.weight.to(x.dtype), layer.bias.to(x.dtype), layer.eps)


def _tower(tower: nn.Module, plain: Callable, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    return plain(x.to(_half(x) or x.dtype), *arguments, **options)


def _patches(layer: nn.Conv2d, plain: Callable, pixels: Tensor) -> Tensor:
    """Patches that don't overlap, by one product: N x 3 x H x W -> N x C x h x w."""
    half, (height, width) = _half(pixels), layer.kernel_size
    tiled = not (pixels.shape[2] % height or pixels.shape[3] % width) and layer.padding == (0, 0)
    if not half or not tiled or layer.stride != layer.kernel_size:
        return plain(pixels)
    grid_Nx3xhxPxwxQ = pixels.to(half).unflatten(3, (-1, width)).unflatten(2, (-1, height))
    patches_NxhxwxK = grid_Nx3xhxPxwxQ.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return linear(patches_NxhxwxK, layer.weight.flatten(1), layer.bias).permute(0, 3, 1, 2)


_FASTER: dict[str, tuple[str, str, Any]] = {
    "ResidualAttentionBlock": ("", "attention", _attention),
    "LayerNorm": ("", "forward", _norm),
    "Transformer": ("", "forward", _tower),
    "VisionTransformer": ("conv1", "forward", _patches),
}
"""Class of open_clip -> (its submodule, the method, what replaces it)."""
