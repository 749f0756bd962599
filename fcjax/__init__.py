"""Fully connected networks in JAX/Flax, trained as fast as the hardware allows.

Names are loaded when they are first used: importing the package, or asking the command line for help, imports no jax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcjax.activations import ACTIVATIONS, get_activation
    from fcjax.config import TrainConfig, UsageError
    from fcjax.datasets import DataError, Dataset, Scaling, Split, load
    from fcjax.initializers import init_weights
    from fcjax.layers import AdaptiveWidthLinear, Dropout, LowRankLinear, SparseLinear, row_keys, torch_linear
    from fcjax.losses import cross_entropy, negative_log_likelihood, squared_error
    from fcjax.models import MLP, FlaxModel, FlaxModelWithActivation, MNISTClassifier, Regressor
    from fcjax.optimizers import make_optimizer
    from fcjax.prediction import Run, load_run
    from fcjax.presets import preset
    from fcjax.trainer import FitResult, TrainingError, fit

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "AdaptiveWidthLinear",
    "DataError",
    "Dataset",
    "Dropout",
    "FitResult",
    "FlaxModel",
    "FlaxModelWithActivation",
    "LowRankLinear",
    "MNISTClassifier",
    "Regressor",
    "Run",
    "Scaling",
    "SparseLinear",
    "Split",
    "TrainConfig",
    "TrainingError",
    "UsageError",
    "cross_entropy",
    "fit",
    "get_activation",
    "init_weights",
    "load",
    "load_run",
    "make_optimizer",
    "negative_log_likelihood",
    "preset",
    "row_keys",
    "squared_error",
    "torch_linear",
]

_HOMES = {
    "activations": ("ACTIVATIONS", "get_activation"),
    "config": ("TrainConfig", "UsageError"),
    "datasets": ("DataError", "Dataset", "Scaling", "Split", "load"),
    "initializers": ("init_weights",),
    "layers": ("AdaptiveWidthLinear", "Dropout", "LowRankLinear", "SparseLinear", "row_keys", "torch_linear"),
    "losses": ("cross_entropy", "negative_log_likelihood", "squared_error"),
    "models": ("MLP", "FlaxModel", "FlaxModelWithActivation", "MNISTClassifier", "Regressor"),
    "optimizers": ("make_optimizer",),
    "prediction": ("Run", "load_run"),
    "presets": ("preset",),
    "trainer": ("FitResult", "TrainingError", "fit"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"fcjax.{module}"), name)
    raise AttributeError(f"module 'fcjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
