"""The GCL Toolkit: train retrieval models on ranking scores, and measure honestly what that gains."""

from importlib import import_module

__version__ = "0.7.0"

_HOMES = {
    "data.fields": ("Fields",),
    "data.ranked_data": ("RankedData", "four_way_split"),
    "data.sources": ("load",),
    "errors": ("DataError", "UserError"),
    "measure.evaluate": ("compare", "evaluate"),
    "measure.metrics": ("AP", "ERR", "NDCG", "RBP", "RR", "Precision", "Recall"),
    "measure.search": ("search",),
    "models.model": ("GCLModel",),
    "training.config": ("MachineConfig", "TrainConfig", "Tuning"),
    "training.train": ("train",),
}
"""Where the public names live; each is imported when it is first used, so that the app starts without torch."""
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str):
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
