"""The GCL Toolkit: train retrieval models on ranking scores, and measure honestly what it brings."""

from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.evaluate import compare, evaluate
from gcl_toolkit.fields import Fields
from gcl_toolkit.metrics import AP, ERR, NDCG, RBP, RR, Precision, Recall
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData, four_way_split
from gcl_toolkit.search import search
from gcl_toolkit.sources import load
from gcl_toolkit.train import TrainConfig, train

__version__ = "0.1.0"
__all__ = [
    "AP", "ERR", "NDCG", "RBP", "RR", "DataError", "Fields", "GCLModel", "Precision", "RankedData", "Recall",
    "TrainConfig", "UserError", "compare", "evaluate", "four_way_split", "load", "search", "train",
]  # fmt: skip
