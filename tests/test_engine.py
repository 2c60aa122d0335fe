"""What the engine may do to a training, each against what it should come to."""

import shutil
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import ranked
from ranks import on_ranks
from test_train import words_shop
from torch import nn

from gcl_toolkit import Fields, GCLModel, MachineConfig, TrainConfig, Tuning, UserError, train
from gcl_toolkit.losses import gcl_loss, matrix_loss
from gcl_toolkit.models.adapt import groups, lock
from gcl_toolkit.training.engine import Engine
from gcl_toolkit.training.runs import Run, load_model
from gcl_toolkit.training.train import learn_vocabulary

BOTH = Fields(image=0.6, title=0.4)
PLAIN = TrainConfig(steps=6, batch=8, learning_rate=1e-2, augment=False)


def small_model(**options):
    """Without dropout, whose random numbers depend on the chunks and the rank."""
    return GCLModel("small", right=BOTH, dimension=16, image_size=16, width=8, dropout=0, **options)


def trained(run=None, model=None, data=None, method="graded", machine=None, tuning=None, **settings):
    model, machine = model or small_model(), MachineConfig(**{"precision": "float32", **(machine or {})})
    config = replace(PLAIN, tuning=Tuning(**(tuning or {})), **settings)
    return model, list(train(model, data or ranked(6, 12), method, config, machine=machine, run=run))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def close(ours, theirs, tolerance=1e-6):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=tolerance, rtol=0, msg=lambda t, n=name: f"{n}: {t}")


# -- guards ------------------------------------------------------------------------------------------------------------


class Breaks(nn.Module):
    """Passes on what it gets, but NaN (or a NaN gradient) in its training calls from `first` to `last`."""

    def __init__(self, first, last, gradient=False):
        super().__init__()
        self.first, self.last, self.gradient, self.calls = first, last, gradient, 0

    def forward(self, x):
        self.calls += 1
        if not self.first <= self.calls <= self.last:
            return x
        if self.gradient:
            x.register_hook(lambda gradient: gradient * torch.nan)
            return x
        return x * torch.nan


def breaking(first_step, last_step, **options):
    """A model of texts alone; two calls a step."""
    model = GCLModel("small", right=Fields(title=1.0), dimension=16)
    model.encoder.text_tower.append(Breaks(2 * first_step - 1, 2 * last_step, **options))
    return model


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_a_step_with_nan_is_skipped_and_counted(gradient, fused, monkeypatch):
    if fused:  # as on a GPU
        monkeypatch.setattr(sys.modules[Engine.__module__], "FUSED", ("cpu",))
    model = breaking(3, 4, gradient=gradient)
    seen = []
    for record in train(model, words_shop(), config=PLAIN, machine=MachineConfig(precision="float32")):
        seen.append((record["skipped"], state(model)))
    assert [skipped for skipped, _ in seen] == [0, 0, 1, 2, 2, 2]
    assert all(torch.equal(seen[1][1][name], seen[3][1][name]) for name in seen[0][1])
    assert any(not torch.equal(seen[3][1][name], seen[4][1][name]) for name in seen[0][1])
    assert all(value.isfinite().all() for value in state(model).values())


def test_the_fused_optimizer_ends_with_the_same_weights(monkeypatch, tmp_path):
    """Also when it goes on from a checkpoint of the plain one."""
    plain, _ = trained(Run(tmp_path), machine={"save_minutes": 0}, steps=12)
    monkeypatch.setattr(sys.modules[Engine.__module__], "FUSED", ("cpu",))
    close(state(trained(steps=12)[0]), state(plain), 1e-5)
    checkpoints = tmp_path / "checkpoints"
    shutil.rmtree(checkpoints / "step_12")
    fused, records = trained(Run(tmp_path, resume=True), machine={"save_minutes": 0}, steps=12)
    assert len(records) == 1
    close(state(fused), state(plain), 1e-5)


def test_too_many_in_a_row_stop_it_with_the_last_good_checkpoint(tmp_path):
    model = breaking(4, 100)
    with pytest.raises(UserError, match=r"3 steps in a row, up to step 6, had a NaN.*last good checkpoint is .*step_3"):
        trained(Run(tmp_path), model, words_shop(), machine={"patience": 3, "save_minutes": 0})
    assert all(value.isfinite().all() for value in state(load_model(tmp_path)).values())


def test_the_logit_scale_is_clamped():
    _, records = trained(max_logit_scale=10.5, learning_rate=0.2, data=words_shop(), model=breaking(0, -1))
    scales = [record["logit_scale"] for record in records]
    assert max(scales) <= 10.5 + 1e-4
    assert min(scales) >= 1 - 1e-6


@pytest.mark.parametrize("loss", ["gcl", "matrix"])
def test_weights_that_are_all_zero_give_zero_loss(loss):
    left, right = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    if loss == "gcl":
        value = gcl_loss(left, right, torch.zeros(4), logit_scale=10.0)
    else:
        value = matrix_loss(left, right, torch.zeros(4, 4), logit_scale=10.0)
    value.backward()
    assert value == 0
    assert (left.grad == 0).all()
    assert (right.grad == 0).all()


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["clip-masked", "graded"])
def test_a_batch_in_chunks_is_the_batch(method):
    whole, chunked = trained(method=method), trained(method=method, machine={"chunk": 3})
    assert [r["loss"] for r in chunked[1]] == pytest.approx([r["loss"] for r in whole[1]], abs=1e-4)
    close(state(chunked[0]), state(whole[0]), 1e-3)  # Adam enlarges the rounding of small gradients


def test_accumulated_batches_give_the_mean_of_their_gradients():
    """The gradient of a batch once is that of the same batch twice, accumulated; that of another batch is not."""

    def gradients(accumulate, *batches):
        model = small_model(vocabulary=["a"])
        engine = Engine(model, TrainConfig(accumulate=accumulate), MachineConfig(precision="float32"))
        for rows in batches:
            left, right = (partial(model.encoder.encode_texts, torch.tensor(rows)[:, None]), lambda: torch.ones(3, 16))
            engine.backward(lambda a, b: (a * b).sum(), [left], [right])
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    close(gradients(1, [1, 0, 1]), gradients(2, [1, 0, 1], [1, 0, 1]))
    with pytest.raises(AssertionError):
        close(gradients(1, [1, 0, 1]), gradients(2, [1, 0, 1], [1, 1, 1]))


def test_half_precision_trains_with_a_gradient_scaler():
    """Embedded in float16; scaled gradients, of which the first, too large, are skipped."""
    model, dtypes = small_model(), set()
    model.encoder.text_head.register_forward_hook(lambda *call: dtypes.add(call[-1].dtype))
    engine = Engine(model, PLAIN, MachineConfig(precision="float16"))
    assert engine.state()["scaler"][0] == 2**16
    _, records = trained(model=model, machine={"precision": "float16"})
    assert dtypes == {torch.float16}
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.mark.parametrize(("is_native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_that_imitates_bfloat16_trains_in_float16(monkeypatch, is_native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or is_native)
    engine = sys.modules[Engine.__module__]
    assert engine._dtype("auto", torch.device("cuda")) == expected
    assert engine._dtype("float32", torch.device("cuda")) is None


# -- what is trained ---------------------------------------------------------------------------------------------------


def moved(model):
    """Names of the parameters that training changed."""
    fresh = small_model()
    learn_vocabulary(fresh, ranked(6, 12))
    return {name for name, value in state(fresh).items() if not torch.equal(value, state(model)[name])}


def test_a_locked_tower_stays_as_it_is():
    model, _ = trained(tuning={"lock": "image"})
    assert moved(model) == {n for n in state(model) if not n.startswith(("encoder.trunk", "encoder.image_head"))}
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(UserError, match="small has no audio tower"):
        lock(model.encoder, "audio")


def test_adapters_are_merged_into_what_is_saved_and_into_the_model(tmp_path):
    pytest.importorskip("peft")
    model, records = trained(Run(tmp_path), tuning={"lora": 2})
    adapted = ("image_head", "text_tower.1", "text_head")
    assert moved(model) == {"log_logit_scale", *(f"encoder.{name}.weight" for name in adapted)}
    close(state(load_model(tmp_path)), state(model))
    assert records[-1]["loss"] < records[0]["loss"]


def test_averaged_weights_are_the_average():
    model, decay = small_model(), 0.3  # reached at the fourth step
    config, machine = replace(PLAIN, tuning=Tuning(ema=decay)), MachineConfig(precision="float32")
    raw = [state(model) for _ in train(model, ranked(6, 12), config=config, machine=machine)]
    close(raw[-1], state(trained()[0]))  # averaging leaves the training as it is
    expected = small_model()
    learn_vocabulary(expected, ranked(6, 12))
    expected = state(expected)
    for step, weights in enumerate(raw, start=1):
        kept = min(decay, (1 + step) / (10 + step))
        expected = {name: kept * expected[name] + (1 - kept) * weights[name] for name in weights}
    close(state(model), expected, 1e-5)


def test_layers_below_learn_more_slowly():
    model = GCLModel("ViT-S-32-alt", right=Fields(image=1))
    rates = {}
    for group in groups(model, 0.05, 1e-3, 0.5):
        for parameter in group["params"]:
            rates[id(parameter)] = group["peak"]
    peak = {name: rates[id(p)] / 1e-3 for name, p in model.named_parameters()}
    layers = 1 + max(int(n.split(".")[5]) for n in peak if n.startswith("encoder.model.visual.transformer.resblocks"))
    assert peak["log_logit_scale"] == 1
    assert peak["encoder.model.visual.proj"] == 1
    assert peak[f"encoder.model.visual.transformer.resblocks.{layers - 1}.ln_1.weight"] == pytest.approx(0.5)
    assert peak["encoder.model.visual.transformer.resblocks.0.ln_1.weight"] == pytest.approx(0.5**layers)
    assert peak["encoder.model.visual.conv1.weight"] == pytest.approx(0.5 ** (layers + 1))
    assert peak["encoder.model.token_embedding.weight"] < peak["encoder.model.transformer.resblocks.0.ln_1.weight"]
    assert sum(len(group["params"]) for group in groups(model, 0.05, 1e-3, 1.0)) == len(list(model.parameters()))


def test_the_loss_of_matryoshka_dimensions_is_their_mean():
    full = [trained(tuning={"dimensions": d}, steps=1)[1][0]["loss"] for d in ((), (16,), (8,), (8, 16))]
    assert full[0] == pytest.approx(full[1], abs=1e-6)
    assert full[3] == pytest.approx((full[1] + full[2]) / 2, abs=1e-6)
    assert full[2] != pytest.approx(full[1], abs=1e-3)
    with pytest.raises(UserError, match="each must be an integer from 1 to 16"):
        trained(tuning={"dimensions": (17,)})


def test_learnt_field_weights_become_the_fields(tmp_path):
    model, _ = trained(Run(tmp_path), tuning={"learn_fields": True}, steps=20)
    assert model.right["image"] != pytest.approx(0.6, abs=1e-3)
    assert sum(model.right.values()) == pytest.approx(1)
    assert load_model(tmp_path).right == model.right
    assert "log_field_weights.right" not in state(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": {"lora": 2, "ema": 0.5}},
        {"tuning": {"learn_fields": True, "ema": 0.9}},
        {"accumulate": 2},
    ],
)
def test_whatever_is_trained_can_be_resumed(tmp_path, settings):
    uninterrupted, _ = trained(**settings)
    config = replace(PLAIN, **{**settings, "tuning": Tuning(**settings.get("tuning", {}))})
    machine = MachineConfig(precision="float32", save_minutes=0)
    for record in train(small_model(), ranked(6, 12), config=config, machine=machine, run=Run(tmp_path)):
        if record["step"] == 3:
            break
    resumed, records = trained(Run(tmp_path, resume=True), machine={"save_minutes": 0}, **settings)
    assert records[0]["step"] == 4
    assert all(torch.equal(a, b) for a, b in zip(state(resumed).values(), state(uninterrupted).values(), strict=True))


def test_a_model_that_cannot_recompute_says_so():
    with pytest.raises(UserError, match="small can't recompute"):
        trained(machine={"recompute": True})


# -- trackers and many processes ---------------------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setattr("gcl_toolkit.training.engine.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--log wandb: the package wandb is not installed; run: pip install wandb"):
        trained(machine={"log": ("wandb",)})


def test_tensorboard_gets_the_records(tmp_path):
    pytest.importorskip("tensorboard")
    trained(Run(tmp_path), machine={"log": ("tensorboard",)})
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def on_a_rank(method, chunk):
    model, records = trained(method=method, machine={"chunk": chunk})
    return {name: value.numpy() for name, value in state(model).items()}, records[-1]["loss"]


@pytest.mark.parametrize(("method", "chunk"), [("clip-masked", None), ("graded", 2), ("cosent", None)])
def test_two_ranks_train_as_one_process_does(method, chunk):
    alone, records = trained(method=method)
    for weights, last in on_ranks(2, on_a_rank, method, chunk):
        assert last == pytest.approx(records[-1]["loss"], abs=1e-4)
        close({name: torch.from_numpy(value) for name, value in weights.items()}, state(alone), 1e-3)
