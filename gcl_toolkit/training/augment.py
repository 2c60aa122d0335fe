"""Augmentation: pictures are flipped, shifted and change their brightness, on the device that trains."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Noise(NamedTuple):
    """Random changes of N pictures: flip (bools), shift (N x 2, pixels) and a brightness factor."""

    flip: Tensor
    shift: Tensor
    brightness: Tensor

    @classmethod
    def draw(cls, pixels: Tensor, generator: torch.Generator) -> Noise:
        """For N x 3 x H x W: half are flipped, shifts go up to 1/8 of the short side, brightness by up to 20%."""
        count, size = len(pixels), min(pixels.shape[-2:])
        flip = torch.rand(count, generator=generator) < 0.5
        shift = torch.randint(-(size // 8), size // 8 + 1, (count, 2), generator=generator)
        return cls(flip, shift, 0.8 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator))

    def slice(self, rows: slice) -> Noise:
        return Noise(*(part[rows] for part in self))

    def apply(self, pixels: Tensor) -> Tensor:
        """uint8 N x 3 x H x W -> float 0..255, on the device of the pixels; shifts repeat the pixels of the border."""
        height, width = pixels.shape[-2:]
        flip, shift, brightness = (part.to(pixels.device) for part in self)
        reach = min(height, width) // 8
        left, right = (pixels[..., column, None].expand(*pixels.shape[:3], reach) for column in (0, -1))
        both_ways = torch.cat([left, pixels, right, right, pixels.flip(3), left], 3)  # the picture and its mirror image
        start = reach + shift[:, 1] + flip * (width + 2 * reach)
        rows = (torch.arange(height, device=pixels.device) + shift[:, :1]).clamp(0, height - 1)
        which, channel = (torch.arange(count, device=pixels.device) for count in pixels.shape[:2])
        windows = both_ways.unfold(3, width, 1)  # a view: N x 3 x H x starts x W
        moved = windows[which[:, None, None], channel[:, None], rows[:, None], start[:, None, None]]
        return (moved * brightness).clamp_(0, 255)


def augment_images(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, shift, change brightness: uint8 N x 3 x H x W -> float 0..255."""
    return Noise.draw(pixels, generator).apply(pixels)
