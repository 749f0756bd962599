"""Datasets as plain NumPy arrays: embedded digits, synthetic houses, MNIST, Fashion-MNIST, California housing,
and the user's own table.

Names are loaded when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcjax.datasets.catalogue import DATASETS, load
    from fcjax.datasets.dataset import DataError, Dataset, Scaling, Split, Task
    from fcjax.datasets.features import with_computed_features, with_features
    from fcjax.datasets.pieces import Pieces
    from fcjax.datasets.quantiles import Quantiles
    from fcjax.datasets.splitting import hold_out
    from fcjax.datasets.table import Preprocessing, load_table, read_table

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "Pieces",
    "Preprocessing",
    "Quantiles",
    "Scaling",
    "Split",
    "Task",
    "hold_out",
    "load",
    "load_table",
    "read_table",
    "with_computed_features",
    "with_features",
]

_HOMES = {
    "DATASETS": "catalogue",
    "DataError": "dataset",
    "Dataset": "dataset",
    "Pieces": "pieces",
    "Preprocessing": "table",
    "Quantiles": "quantiles",
    "Scaling": "dataset",
    "Split": "dataset",
    "Task": "dataset",
    "hold_out": "splitting",
    "load": "catalogue",
    "load_table": "table",
    "read_table": "table",
    "with_computed_features": "features",
    "with_features": "features",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
