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
        """uint8 N x 3 x H x W -> float 0..255, on the device of the pixels."""
        count, _, height, width = pixels.shape
        flip, shift, brightness = (part.to(pixels.device) for part in self)
        images = pixels.float()
        images[flip] = images[flip].flip(3)
        rows, columns = (
            (torch.arange(size, device=pixels.device)[None] + shift[:, axis, None]).clamp(0, size - 1)
            for axis, size in enumerate((height, width))
        )
        which = torch.arange(count, device=pixels.device)[:, None, None]
        images = images[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return (images * brightness).clamp(0, 255)


def augment_images(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, shift, change brightness: uint8 N x 3 x H x W -> float 0..255."""
    return Noise.draw(pixels, generator).apply(pixels)
