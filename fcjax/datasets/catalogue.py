"""The built-in datasets by name."""

from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path

from fcjax.datasets.california import load_california
from fcjax.datasets.dataset import DataError, Dataset
from fcjax.datasets.digits import load_digits
from fcjax.datasets.hedonic import load_housing
from fcjax.datasets.mnist import load_mnist

__all__ = ["DATASETS", "load"]

EMBEDDED: dict[str, Callable[[int], Dataset]] = {"digits": load_digits, "housing": load_housing}
FROM_FILES: dict[str, Callable[[Path | None], Dataset]] = {
    "mnist": partial(load_mnist, "mnist"),
    "fashion": partial(load_mnist, "fashion"),
    "california": load_california,
}
DATASETS = (*EMBEDDED, *FROM_FILES)


def load(name: str, data_dir: str | PathLike[str] | None = None, seed: int = 0) -> Dataset:
    """The dataset called ``name``.

    Args:
        name: one of ``DATASETS``.
        data_dir: a folder that holds the original files; None downloads what is not embedded, once.
        seed: draws the digits' test part and the synthetic houses; the others have fixed parts.

    Raises:
        DataError: an unknown name; a file that is missing or damaged.
    """
    if name in EMBEDDED:
        return EMBEDDED[name](seed)
    if name in FROM_FILES:
        return FROM_FILES[name](None if data_dir is None else Path(data_dir).expanduser())
    raise DataError(f"dataset: expected one of {', '.join(DATASETS)}; found {name!r}")
