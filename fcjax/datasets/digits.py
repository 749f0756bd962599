"""Handwritten digits that come with scikit-learn: real scans, no download."""

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import Dataset, Scaling, Split
from fcjax.datasets.splitting import split_rows

__all__ = ["enlarge", "load_digits"]

TEST_ROWS = 360


def load_digits(seed: int = 0) -> Dataset:
    """1,797 handwritten digits of 43 people, 8x8 with 17 grey values, enlarged to MNIST's 28x28 uint8.

    Args:
        seed: draws the 360 test rows, stratified.

    Source: the test set of the UCI "Optical Recognition of Handwritten Digits", as scikit-learn ships it.
    """
    from sklearn.datasets import load_digits as sklearn_digits  # a slow import

    scans, labels = sklearn_digits(return_X_y=True)
    images = enlarge(scans.astype(np.int64).reshape(-1, 8, 8))
    rows = split_rows(len(images), validation=0, test=TEST_ROWS, seed=seed, labels=labels)
    everything = Split(images, labels.astype(np.int32))
    train = everything.rows(rows.train)
    return Dataset(
        name="digits",
        task="classification",
        train=train,
        test=everything.rows(rows.test),
        classes=10,
        input_scaling=Scaling.fit_pixels(train.inputs),
    )


def enlarge(scans: NDArray[np.integer], white: int = 16, factor: int = 3, border: int = 2) -> NDArray[np.uint8]:
    """Enlarges images by bilinear interpolation, and frames them with a black border.

    With the matrix ``A`` of the one-dimensional interpolation, the image ``X`` becomes ``255 A X Aᵀ / white``. All
    of it is done in integers, halves rounded up, so that the pixels are the same on every platform.

    Args:
        scans: integers of shape ``(n, size, size)``, 0 to ``white``.
        white: the value that becomes 255.
        factor: how many pixels each pixel becomes along an axis.
        border: width of the border.

    Returns:
        uint8 of shape ``(n, out, out)`` with ``out = factor * size + 2 * border``.
    """
    size, unit = scans.shape[-1], 2 * factor
    # Centres of the fine pixels in units of 1/(2 factor) coarse ones; the outermost hold the edge's value.
    centre = np.clip(2 * np.arange(factor * size) + 1 - factor, 0, unit * (size - 1))
    # A hat of width 2 around every coarse pixel: at each centre the weights sum to ``unit``.
    weights = np.maximum(0, unit - np.abs(centre[:, None] - unit * np.arange(size)))  # (out - 2 border, size)
    large = weights @ scans.astype(np.int64) @ weights.T
    whole = white * unit**2
    grey = (2 * 255 * large + whole) // (2 * whole)
    return np.pad(grey, ((0, 0), (border, border), (border, border))).astype(np.uint8)
