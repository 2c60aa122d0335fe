"""Decoding and resizing against Pillow and torchvision; the cache on disk."""

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
from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.pictures import PixelCache, fit, open_image, read
from gcl_toolkit.data.ranked_data import IMAGE
from gcl_toolkit.errors import DataError
from gcl_toolkit.models.encoders import make_encoder
from gcl_toolkit.models.inputs import Inputs


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


def test_corrupt_and_huge_pictures_are_refused(monkeypatch, tmp_path):
    with pytest.raises((OSError, ValueError)):
        read({"bytes": jpeg()[:300]})
    for size in ((1, 1_500_000), (1010, 10)):
        Image.new("1", size).save(tmp_path / "long.png")
        with pytest.raises(DataError, match="one side may be at most 100 times"):
            read({"bytes": None, "path": tmp_path / "long.png"})
    monkeypatch.setattr("gcl_toolkit.data.pictures.MAX_PIXELS", 100)
    for data in (jpeg(), png(1, 20)):
        with pytest.raises(DataError, match="at most 100 are read"):
            read({"bytes": data})


RAMP = np.tile(np.linspace(0, 255, 64).round(), (8, 1))


def encoded(pixels, format="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return {"bytes": out.getvalue(), "path": None}


@pytest.mark.parametrize(
    ("pixels", "format"),
    [
        ((RAMP * 257).astype(np.uint16), "PNG"),
        ((RAMP * 257).astype(np.uint16), "TIFF"),
        ((RAMP / 255).astype(np.float32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        ((RAMP * 257).astype(np.int32), "TIFF"),
        (RAMP.astype(np.int32), "TIFF"),
    ],
    ids=["16-bit PNG", "16-bit TIFF", "float 0..1", "float 0..255", "32-bit, 16 used", "32-bit, 8 used"],
)
def test_deep_grey_levels_are_scaled_to_8_bits(pixels, format):
    assert (read(encoded(pixels, format)) == RAMP[..., None].astype(np.uint8)).all()


def transparent():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[1:3, 1:3] = (200, 30, 30, 255)
    pixels[0, 0] = (0, 0, 0, 128)
    return pixels


@pytest.mark.parametrize("form", ["RGBA", "LA", "palette", "transparent colour"])
def test_transparency_is_laid_on_white(form):
    image, out = Image.fromarray(transparent()), io.BytesIO()
    if form == "palette":
        image = image.quantize(8)
    elif form == "LA":
        image = image.convert("LA")
    options = {"transparency": (0, 0, 0)} if form == "transparent colour" else {}
    (image.convert("RGB") if options else image).save(out, "PNG", **options)
    pixels = read({"bytes": out.getvalue()})
    assert pixels[3, 3].tolist() == [255] * 3
    assert pixels[1, 1].tolist() == ([81] * 3 if form == "LA" else [200, 30, 30])
    if form == "RGBA":
        assert pixels[0, 0].tolist() == [127] * 3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_rotation_by_exif_is_applied(orientation, format):
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:, 32:] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}[orientation]
    difference = read(encoded(pixels, format, exif=exif)).astype(int) - upright
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(64, 97), (333, 250), (31, 40), (224, 224), (900, 300)])
def test_a_square_is_at_most_one_grey_level_from_torchvisions(size, mode):
    image = Image.open(io.BytesIO(jpeg(*size)))
    way = InterpolationMode(mode)
    expected = np.asarray(CenterCrop(64)(Resize(64, way)(image))).transpose(2, 0, 1)
    fitted = fit(np.asarray(image), 64, (64, 64), mode)
    assert np.abs(fitted.astype(int) - expected).max() <= 1
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
            cached_values, cached_present = cached.rows(np.array(rows))
            assert torch.equal(cached_values["image"], values["image"])
            assert torch.equal(cached_present["image"], present["image"])
        if not again:  # nothing but the broken one is decoded any more
            monkeypatch.setattr("gcl_toolkit.models.inputs.read", lambda value: open_image({"bytes": b"not a picture"}))
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


def test_no_room_for_the_cache_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't reserve 0.0 GB .*leave cache out"):
        PixelCache(tmp_path / "file" / "x", "key", 10, (4, 4))
