"""Settings as version 0.1 wrote them into run folders, in today's form."""

from typing import Any

from gcl_toolkit.errors import UserError
from gcl_toolkit.methods import GCL, KL, BiXSE, CoSENT, Graded, Matrix, Method, RankCLIP, SigLIP, name_of

METHODS = {
    "binary-matrix": "matrix-noscores",
    "masked-matrix": "graded-noscores",
    "top-matrix": "matrix-top",
    "gcl-matrix": "graded",
    "gcl-soft": "matrix",
}
"""Names of methods that have changed."""
LOSSES = {
    "matrix": Matrix, "graded": Graded, "siglip": SigLIP, "bixse": BiXSE, "rankclip": RankCLIP, "kl": KL,
    "cosent": CoSENT,
}  # fmt: skip
TUNING = ("lock", "lora", "layer_decay", "learn_fields", "ema", "dimensions")


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config.json with "method", "train" and "machine" in place of version 0.1's "train" and "engine"."""
    if "engine" not in config:
        config.get("train", {}).get("tuning", {}).setdefault("unlock", 0)  # a setting since 2026-11-28
        return config
    train, engine = dict(config["train"]), dict(config["engine"])
    method = _method(train)
    train["tuning"] = {"unlock": 0} | {name: engine.pop(name) for name in TUNING}
    train["accumulate"] = engine.pop("accumulate")
    engine["precision"] = train.pop("precision")
    rest = {name: value for name, value in config.items() if name not in ("train", "engine")}
    arguments = dict(rest.get("arguments", {}))
    if quarantine := arguments.pop("quarantine", None):  # a setting of its own until 2026-11-22
        arguments["data"] += f":quarantine={quarantine}"
    return {"method": name_of(method), "train": train, "machine": engine, **rest, "arguments": arguments}


def _method(train: dict[str, Any]) -> Method:
    """The method of version 0.1's TrainConfig; its settings are removed from `train`."""
    names = ("loss", "weighting", "sampler", "top_only", "mask", "queries")
    loss, weighting, sampler, top_only, mask, queries = (train.pop(name) for name in names)
    weighting = "grades" if weighting == "graded" else weighting
    if sampler in ("queries", "hard"):
        raise UserError(f"the run was started with the sampler {sampler!r}, which no longer exists; start a new run")
    if loss == "gcl":
        return GCL(weighting, exclude_known=mask, top_only=top_only)
    return LOSSES[loss](weighting, top_only=top_only, queries=queries)
