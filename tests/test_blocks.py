"""open_clip's blocks with fewer copies: the same values and gradients but for rounding."""

import copy

import pytest
import torch
from conftest import clip_folder

from gcl_toolkit.models.blocks import speed_up
from gcl_toolkit.models.encoders import make_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    return make_encoder(clip_folder(tmp_path_factory.mktemp("clip"), 32))


def values_and_gradients(encoder, dtype):
    encoder.zero_grad()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        vectors = torch.cat([encoder.encode_images(pixels), encoder.encode_texts(encoder.tokens(["a mug", "rugs"]))])
    (vectors.float() * torch.randn(vectors.shape, generator=generator)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    return {"vectors": vectors.detach().float(), **gradients}


def off(ours, exact):
    return {name: ((ours[name] - exact[name]).norm() / exact[name].norm()).item() for name in exact}


def test_outside_autocast_nothing_changes(encoder):
    fast = copy.deepcopy(encoder)
    speed_up(fast)
    plain, ours = values_and_gradients(encoder, None), values_and_gradients(fast, None)
    assert all(torch.equal(plain[name], ours[name]) for name in plain)


def test_in_half_precision_it_is_as_near_to_float32_as_the_modules_are(encoder):
    """The causal mask, the packed projection and the patches each would be off by far more if they were wrong."""
    fast = copy.deepcopy(encoder)
    speed_up(fast)
    exact = values_and_gradients(encoder, None)
    theirs, ours = (off(values_and_gradients(each, torch.bfloat16), exact) for each in (encoder, fast))
    assert theirs.keys() == ours.keys()
    assert max(ours.values()) < max(0.03, 1.5 * max(theirs.values()))


def test_every_part_is_replaced_once(encoder):
    fast = copy.deepcopy(encoder)
    speed_up(fast)
    first = {name: dict(vars(module)) for name, module in fast.named_modules()}
    speed_up(fast)
    replaced = {name for name, module in fast.named_modules() if {"forward", "attention"} & vars(module).keys()}
    parts = ("visual.conv1", "visual.transformer", "visual.transformer.resblocks.0", "transformer.resblocks.0.ln_1")
    assert {f"model.{part}" for part in parts} <= replaced
    assert all(first[name].get("forward") is vars(module).get("forward") for name, module in fast.named_modules())
