"""Decoding and resizing against Pillow and torchvision; the cache on disk; CLIP's tokens against open_clip's."""

import io
import os

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import png
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from gcl_toolkit import UserError
from gcl_toolkit.batches import Inputs
from gcl_toolkit.encoders import make_encoder
from gcl_toolkit.errors import DataError
from gcl_toolkit.fields import Fields
from gcl_toolkit.pictures import PixelCache, fit, open_image, read
from gcl_toolkit.ranked_data import IMAGE
from gcl_toolkit.texts import fast_tokenizer


def jpeg(width=60, height=40, mode="RGB", seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_decoded_as_pillow_does(mode):
    data = jpeg(mode=mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (read({"bytes": data, "path": None}) == expected).all()
    assert (np.asarray(open_image({"bytes": data})) == expected).all()


def test_torn_and_huge_pictures_are_refused(monkeypatch, tmp_path):
    with pytest.raises((OSError, ValueError)):
        read({"bytes": jpeg()[:300]})
    for size in ((1, 1_500_000), (1010, 10)):
        Image.new("1", size).save(tmp_path / "long.png")
        with pytest.raises(DataError, match="a side at most 100 times as long"):
            read({"bytes": None, "path": tmp_path / "long.png"})
    monkeypatch.setattr("gcl_toolkit.pictures.MAX_PIXELS", 100)
    for data in (jpeg(), png(1, 20)):
        with pytest.raises(DataError, match="at most 100 are read"):
            read({"bytes": data})


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(64, 97), (333, 250), (31, 40), (224, 224), (900, 300)])
def test_a_square_is_at_most_one_grey_level_from_torchvisions(size, mode):
    image = Image.open(io.BytesIO(jpeg(*size)))
    way = InterpolationMode(mode)
    expected = np.asarray(CenterCrop(64)(Resize(64, way)(image))).transpose(2, 0, 1)
    found = fit(np.asarray(image), 64, (64, 64), mode)
    assert np.abs(found.astype(int) - expected).max() <= 1
    squashed = np.asarray(Resize((50, 64), way)(image)).transpose(2, 0, 1)
    assert np.abs(fit(np.asarray(image), (50, 64), None, mode).astype(int) - squashed).max() <= 1


@pytest.mark.parametrize("name", ["ViT-S-32-alt", "MobileCLIP-S1"])
def test_the_square_of_an_open_clip_model_is_its_own(name):
    import open_clip

    encoder = make_encoder(name)
    _, _, preprocess = open_clip.create_model_and_transforms(name)
    assert encoder._fit
    image = Image.open(io.BytesIO(jpeg(300, 280)))
    ours = encoder.normalised(torch.from_numpy(encoder.pixels(np.asarray(image))[None].copy()))[0]
    assert (ours - preprocess(image)).abs().max() <= 1.01 / 255 / encoder.image_std.min()


def corpus(count=6):
    images = [{"bytes": jpeg(seed=i), "path": None} for i in range(count)]
    images[2] = {"bytes": b"not a picture", "path": None}
    return pa.table(
        {"product_id": [f"p{i}" for i in range(count)], "image": pa.array(images, IMAGE), "title": ["mug"] * count}
    )


def test_the_cache_gives_what_was_decoded_and_decodes_once(tmp_path, monkeypatch):
    encoder = make_encoder("small", image_size=16, vocabulary=["mug"])
    fields, table = Fields(image=1, title=1), corpus()
    plain = Inputs(encoder, table, fields, cache_bytes=0)
    expected = [plain.rows(np.array(rows)) for rows in ([0, 1, 2], [1, 4, 2, 0])]
    for again in range(2):
        cached = Inputs(encoder, table, fields, cache_bytes=0, cache=tmp_path)
        for rows, (values, present) in zip(([0, 1, 2], [1, 4, 2, 0]), expected, strict=True):
            found, there = cached.rows(np.array(rows))
            assert torch.equal(found["image"], values["image"])
            assert torch.equal(there["image"], present["image"])
        if not again:  # nothing but the broken one is decoded any more
            monkeypatch.setattr("gcl_toolkit.batches.read", lambda value: open_image({"bytes": b"not a picture"}))
    other = Inputs(
        make_encoder("small", image_size=8, vocabulary=["mug"]), table, fields, cache_bytes=0, cache=tmp_path
    )
    assert other.rows(np.array([0]))[0]["image"].shape == (1, 3, 8, 8)


def test_the_cache_forgets_a_picture_whose_file_was_changed(tmp_path):
    encoder, file = make_encoder("small", image_size=16, vocabulary=["mug"]), tmp_path / "a.bmp"
    table = pa.table({"product_id": ["a"], "image": pa.array([{"bytes": None, "path": str(file)}], IMAGE)})
    seen = []
    for grey in (50, 200):  # the same length
        Image.new("RGB", (20, 20), (grey, grey, grey)).save(file)
        os.utime(file, ns=(grey, grey))
        inputs = Inputs(encoder, table, Fields(image=1), cache_bytes=0, cache=tmp_path)
        seen.append(int(inputs.rows(np.array([0]))[0]["image"].max()))
    assert seen == [50, 200]


def test_no_room_for_the_cache_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't be made.*leave cache out"):
        PixelCache(tmp_path / "file" / "x", "key", 10, 4)


def test_clips_tokens_are_open_clips():
    import open_clip

    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    texts = ["red striped mug", "", "  RED\tmug ", "caf\u00e9 \u2019s", "a &amp; b", "&lt;b&gt;", "it's 20% off!!!"]
    texts += ["x" * 400, "mug " * 100, "<start_of_text> mug", "na\u00efve \u8336\u676f", "a\u0000b", "\x1b[1mbold"]
    texts += ["3,5 x 7.5cm_ok", "I'M THE'RE"]
    rng = np.random.default_rng(0)
    texts += ["".join(map(chr, rng.integers(32, 127, 40))) for _ in range(300)]
    assert torch.equal(fast_tokenizer(tokenizer)(texts), tokenizer(texts))
    assert fast_tokenizer(tokenizer)([]).shape == (0, 77)
    assert fast_tokenizer(len) is len
