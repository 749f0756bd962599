"""MNIST and Fashion-MNIST: four IDX files each, from a local folder or downloaded."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError, Dataset, Scaling, Split
from fcjax.datasets.idx import IMAGES, LABELS, parse_idx
from fcjax.datasets.local import find_file, read_bytes

__all__ = ["FILES", "load_mnist"]

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def load_mnist(name: Literal["mnist", "fashion"], data_dir: Path | None = None) -> Dataset:
    """The 60,000 training and 10,000 test images, uint8 of 28x28, with labels 0 to 9.

    Args:
        name: ``"mnist"`` (handwritten digits) or ``"fashion"`` (clothes).
        data_dir: a folder with the four files, gzipped or not, or one that holds such a folder called ``name``; None
            downloads them once.

    Raises:
        DataError: a file is missing or damaged, or images and labels don't belong together.
    """
    train, test = (_load_part(name, files, data_dir) for files in FILES.values())
    return Dataset(
        name=name,
        task="classification",
        train=train,
        test=test,
        classes=10,
        input_scaling=Scaling.fit_pixels(train.inputs),
    )


def _load_part(name: str, files: tuple[str, str], data_dir: Path | None) -> Split:
    image_file, label_file = (_locate(name, file, data_dir) for file in files)
    images = parse_idx(read_bytes(image_file), str(image_file), IMAGES, (28, 28))
    labels = parse_idx(read_bytes(label_file), str(label_file), LABELS)
    if len(images) != len(labels):
        raise DataError(
            f"{label_file}: expected {len(images)} labels, as many as {image_file} has images; found {len(labels)}"
        )
    _check_labels(labels, label_file)
    return Split(images, labels.astype(np.int32))


def _check_labels(labels: NDArray[np.uint8], file: Path) -> None:
    outside = np.flatnonzero(labels > 9)
    if outside.size:
        raise DataError(f"{file}: expected labels 0 to 9, found {labels[outside[0]]} at position {outside[0]}")


def _locate(name: str, file: str, data_dir: Path | None) -> Path:
    if data_dir is not None:
        return find_file(data_dir, name, (file, file.removesuffix(".gz")))
    raise DataError(f"{name}: expected --data-dir, a folder with {file}")
