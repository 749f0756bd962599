"""New inputs for a trained network from a file: a table, NumPy arrays or MNIST's own format."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcjax.config import UsageError
from fcjax.datasets import DataError, read_table
from fcjax.datasets.idx import IMAGES, parse_idx
from fcjax.prediction import Run

__all__ = ["read_inputs"]


def read_inputs(run: Run, file: Path) -> NDArray[Any]:
    """The samples in ``file``, as ``run.predict`` takes them.

    Args:
        run: of a table: any file with the same columns. Of images or prices: ``.npy``, ``.npz`` (its array ``inputs``,
            or the only one), ``.csv`` with one column per feature in their order, or an IDX file of images.
        file: CSV, Parquet, NPZ, NPY or IDX.

    Raises:
        UsageError, DataError: the file is absent, damaged, or of another shape.
    """
    if not file.is_file():
        raise UsageError(f"{file}: expected a file, found {'a folder' if file.is_dir() else 'nothing'}")
    if run.preprocessing is not None:
        return run.preprocessing.inputs(run.preprocessing.read(file))
    if file.suffix in (".npy", ".npz"):
        return _numpy(file)
    if file.suffix == ".csv":
        return _columns(file)
    if len(run.input_shape) == 2:
        return parse_idx(file.read_bytes(), str(file), IMAGES, run.input_shape)
    raise UsageError(f"{file}: expected a file name that ends in .csv, .npy or .npz")


def _numpy(file: Path) -> NDArray[Any]:
    try:
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        names = content.files
        if "inputs" not in names and len(names) != 1:
            raise UsageError(f"{file}: expected an array called inputs, found {', '.join(names)}")
        return np.asarray(content["inputs" if "inputs" in names else names[0]])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{file}: not a whole NumPy file ({error})") from None


def _columns(file: Path) -> NDArray[np.float32]:
    table = read_table(file)
    texts = [name for name, column in table.columns.items() if column.numbers is None]
    if texts:
        raise DataError(f"{file}: expected columns of numbers, found text in {', '.join(texts)}")
    return np.stack([np.asarray(column.numbers, np.float32) for column in table.columns.values()], axis=1)
