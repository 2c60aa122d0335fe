"""The small encoder's promises; open_clip by name, checkpoint and preprocessing (random weights; networks of one layer
under open_clip's names)."""

import numpy as np
import pytest
import torch
from conftest import clip_folder, ranked
from PIL import Image

from gcl_toolkit import Fields, GCLModel, TrainConfig, UserError, train
from gcl_toolkit.models.encoders import make_encoder

TINY_CLIP = "ViT-S-32-alt"
ONE_LAYER = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 32, "patch_size": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def one_layer(monkeypatch):
    """These names keep their tags, and with them the statistics of pictures."""
    from open_clip import factory

    for name in (TINY_CLIP, "MobileCLIP-S1"):
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, ONE_LAYER)


def test_the_small_encoder_learns_its_words_and_skips_unknown_ones():
    encoder = make_encoder("small", dimension=16)
    encoder.learn_vocabulary(["Red mug", "red RUG"])
    assert encoder.vocabulary == ["red", "mug", "rug"]
    assert encoder.tokens(["mug, red!", "blue", ""])[:, :3].tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert torch.isfinite(encoder.encode_texts(encoder.tokens(["blue"]))).all()


def test_a_vocabulary_is_learnt_once():
    encoder = make_encoder("small", dimension=16, vocabulary=["mug"])
    encoder.learn_vocabulary(["rug"])
    assert encoder.vocabulary == ["mug"]


def test_without_a_vocabulary_the_error_says_what_to_do():
    with pytest.raises(UserError, match="train the model or load"):
        make_encoder("small").tokens(["mug"])


@pytest.mark.parametrize("size", [(64, 64), (10, 300), (300, 10), (65, 130)])
def test_pixels_are_cropped_to_the_square(size):
    pixels = make_encoder("small").pixels(Image.new("RGB", size, (200, 200, 200)))
    assert pixels.shape == (3, 48, 48)
    assert (pixels == 200).all()


def test_a_spec_with_a_width_builds_the_network_of_version_0_2():
    spec = {"name": "small", "dimension": 8, "image_size": 16, "width": 4, "words": 32, "dropout": 0.1}
    encoder = make_encoder(**spec, vocabulary=["mug"])
    shapes = [tuple(layer.weight.shape) for layer in encoder.trunk if isinstance(layer, torch.nn.Conv2d)]
    assert shapes == [(4, 3, 6, 6), (8, 4, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3)]
    again = make_encoder(**encoder.spec)
    again.load_state_dict(encoder.state_dict())
    assert encoder.spec["channels"] == [4, 8, 8, 8] == again.spec["channels"]


def test_a_picture_has_the_same_vector_in_any_batch():
    encoder = make_encoder("small").eval()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (4, 3, 48, 48), np.uint8))
    assert encoder.encode_images(pixels)[:1].detach() == pytest.approx(
        encoder.encode_images(pixels[:1]).detach(), abs=1e-5
    )


def test_a_text_has_the_same_vector_in_any_batch():
    encoder = make_encoder("small", vocabulary=["red", "mug", "rug"]).eval()
    tokens = encoder.tokens(["red mug", "mug mug red rug red mug", ""])
    alone = torch.cat([encoder.encode_texts(tokens[i : i + 1]) for i in range(3)])
    assert alone.detach() == pytest.approx(encoder.encode_texts(tokens).detach(), abs=1e-6)


def test_open_clip_pixels_and_vectors_are_its_own(tmp_path):
    import open_clip

    encoder = make_encoder(TINY_CLIP)
    model, _, preprocess = open_clip.create_model_and_transforms(TINY_CLIP)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    encoder = make_encoder(TINY_CLIP, pretrained=str(tmp_path / "weights.pt")).eval()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (250, 300, 3), np.uint8))
    pixels = torch.from_numpy(encoder.pixels(image)[None].copy())
    one_grey_level = 1.01 / 255 / min(model.visual.image_std)
    assert encoder.normalised(pixels)[0] == pytest.approx(preprocess(image), abs=one_grey_level)
    pixels = ((preprocess(image) * encoder.image_std + encoder.image_mean) * 255).round().to(torch.uint8)[None]
    with torch.no_grad():
        assert encoder.encode_images(pixels) == pytest.approx(
            model.eval().encode_image(preprocess(image)[None]), abs=1e-5
        )
        tokens = open_clip.get_tokenizer(TINY_CLIP)(["red mug"])
        assert encoder.encode_texts(encoder.tokens(["red mug"])) == pytest.approx(model.encode_text(tokens), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "pretrained", "words"),
    [
        ("ViT-B-33", None, "unknown model 'ViT-B-33'"),
        (TINY_CLIP, "no/such.pt", "'no/such.pt' is not a file"),
        (TINY_CLIP, "no_such_tag", "could not be loaded"),
    ],
)
def test_a_wrong_name_or_checkpoint_is_one_clear_line(name, pretrained, words):
    with pytest.raises(UserError, match=words):
        make_encoder(name, pretrained=pretrained)


def test_a_checkpoint_may_be_safetensors(tmp_path):
    import open_clip
    from safetensors.torch import save_file

    model = open_clip.create_model(TINY_CLIP)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "m.safetensors")
    encoder = make_encoder(TINY_CLIP, pretrained=str(tmp_path / "m.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(encoder.model.parameters(), model.parameters(), strict=True))


def test_a_corrupt_checkpoint_is_one_clear_line(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"corrupt")
    with pytest.raises(UserError, match="could not be loaded"):
        make_encoder(TINY_CLIP, pretrained=str(tmp_path / "m.safetensors"))


@pytest.mark.parametrize(
    ("size", "mode"), [([48, 32], "shortest"), ([32, 64], "shortest"), ([48, 32], "squash"), ([32, 48], "longest")]
)
def test_pictures_need_not_be_square(size, mode, tmp_path):
    import open_clip

    name = clip_folder(tmp_path, size, mode)
    model = GCLModel(name, right=Fields(image=1.0, title=1.0))
    _, _, preprocess = open_clip.create_model_and_transforms(name)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8))
    pixels = torch.from_numpy(model.encoder.pixels(image)[None].copy())
    assert pixels.shape[2:] == model.encoder.image_shape == tuple(size)
    assert (model.encoder.normalised(pixels)[0] - preprocess(image)).abs().max() <= 1.01 / 255 / 0.25
    config = TrainConfig(steps=2, batch=4, warmup=0.0)
    assert len(list(train(model, ranked(3, 4), "gcl-linear", config))) == 2


def test_a_checkpoint_file_is_read_with_the_picture_statistics_of_its_models_tags(tmp_path):
    """Not with those of OpenAI's CLIP, unless most of the tags have them."""
    for name, mean, interpolation in (("MobileCLIP-S1", 0.0, "bilinear"), (TINY_CLIP, 0.48145466, "bicubic")):
        import open_clip

        torch.save(open_clip.create_model(name).state_dict(), tmp_path / "w.pt")
        encoder = make_encoder(name, pretrained=str(tmp_path / "w.pt"))
        assert encoder.preprocess["mean"][0] == pytest.approx(mean)
        assert encoder.preprocess["interpolation"] == interpolation
        own = {"mean": (0.1,) * 3, "std": (0.2,) * 3}
        given = make_encoder(name, pretrained=str(tmp_path / "w.pt"), preprocess=own)
        assert given.preprocess["mean"] == (0.1,) * 3


def test_a_hugging_face_text_encoder_is_mean_pooled_and_padding_changes_nothing(tiny_bert):
    encoder = make_encoder(f"text:{tiny_bert}", prefix="query: ", length=12).eval()
    with torch.no_grad():
        one = encoder.encode_texts(encoder.tokens(["red mug"]))
        two = encoder.encode_texts(encoder.tokens(["red mug", "mug red red mug red"]))
        ids = encoder._tokenize("query: red mug", return_tensors="pt")["input_ids"]
        expected = encoder.model(input_ids=ids).last_hidden_state.mean(1)
    assert one == pytest.approx(two[:1], abs=1e-6)
    assert one == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match="reads no pictures"):
        encoder.pixels(Image.new("RGB", (4, 4)))


def test_in_training_texts_are_encoded_with_others_of_their_length_and_stay_in_order(tiny_bert):
    encoder = make_encoder(f"text:{tiny_bert}", length=24)
    lengths = np.random.default_rng(0).permutation(48) % 20
    tokens = encoder.tokens([" ".join(["red", "mug", "rug"][i % 3] for i in range(n)) for n in lengths])
    shapes = []
    encoder.model.register_forward_pre_hook(lambda *call: shapes.append(call[2]["input_ids"].shape), with_kwargs=True)
    encoder.train()
    encoder.model.eval()  # no dropout
    grouped = encoder.encode_texts(tokens)
    assert [rows for rows, _ in shapes] == [12] * 4
    assert sum(rows * width for rows, width in shapes) < 0.75 * 48 * max(width for _, width in shapes)
    assert encoder.eval().encode_texts(tokens).detach() == pytest.approx(grouped.detach(), abs=1e-6)
    assert grouped[lengths == 3].std(0).max() < grouped.std(0).max()


def test_a_text_encoder_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="could not be loaded"):
        make_encoder(f"text:{tmp_path}/none")


def test_the_small_encoder_takes_options_in_its_name():
    encoder = make_encoder("small:image_size=64,width=64,dropout=0.1")
    assert (encoder.image_size, encoder.channels, encoder.dropout.p) == (64, [64, 128, 128, 128], 0.1)
    with pytest.raises(UserError, match="encoder small has no option 'colour'"):
        make_encoder("small:colour=1")
    with pytest.raises(UserError, match="takes no checkpoint"):
        make_encoder("small:width=64", pretrained="weights.pt")
