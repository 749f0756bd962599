"""MNIST and Fashion-MNIST: four IDX files each, from a local folder or downloaded."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError, Dataset, Scaling, Split
from fcjax.datasets.download import RemoteFile, fetch
from fcjax.datasets.idx import IMAGES, LABELS, parse_idx
from fcjax.datasets.local import find_file, read_bytes

__all__ = ["FILES", "load_mnist"]

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}

MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion": (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}

SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion": {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}


def load_mnist(name: Literal["mnist", "fashion"], data_dir: Path | None = None) -> Dataset:
    """The 60,000 training and 10,000 test images, uint8 of 28x28, with labels 0 to 9.

    Args:
        name: ``"mnist"`` (handwritten digits) or ``"fashion"`` (clothes).
        data_dir: a folder with the four files, gzipped or not, or one that holds such a folder called ``name``; None
            downloads them once, 11 MB or 30 MB.

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
    urls = tuple(mirror + file for mirror in MIRRORS[name])
    return fetch(RemoteFile(file, SHA256[name][file], urls), name)
