"""The embedded digits: real scans, enlarged by a true interpolation, split in proportion."""

import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits

from fcjax.datasets import load
from fcjax.datasets.digits import enlarge


def test_shapes_shares_and_every_scan_once() -> None:
    digits = load("digits")
    train, test = digits.train, digits.test
    assert (train.inputs.shape, train.inputs.dtype) == ((1437, 28, 28), np.uint8)
    assert (test.inputs.shape, test.targets.dtype) == ((360, 28, 28), np.int32)
    labels = np.concatenate([train.targets, test.targets])
    scans, expected = sklearn_digits(return_X_y=True)
    assert np.bincount(labels).tolist() == np.bincount(expected).tolist()
    assert np.ptp(np.bincount(test.targets) / np.bincount(labels)) < 0.01
    # The centre of each block of 3x3 is the coarse pixel itself, so every scan can be found again.
    centres = np.concatenate([train.inputs, test.inputs])[:, 3:-2:3, 3:-2:3].reshape(-1, 64)
    assert sorted(map(bytes, centres)) == sorted(map(bytes, np.floor(scans / 16 * 255 + 0.5).astype(np.uint8)))


def test_the_seed_draws_the_test_part() -> None:
    first, again, other = load("digits", seed=1), load("digits", seed=1), load("digits", seed=2)
    assert (first.test.inputs == again.test.inputs).all()
    assert first.test.inputs.sum(dtype=np.int64) == 16114953  # the same pixels on every platform
    assert (first.test.targets != other.test.targets).any()


def test_scaling_is_fitted_on_the_training_part() -> None:
    digits = load("digits")
    assert digits.input_scaling is not None
    assert digits.input_scaling.mean == pytest.approx(digits.train.inputs.mean(), rel=1e-6)  # float32
    both = np.concatenate([digits.train.inputs, digits.test.inputs])
    assert digits.input_scaling.mean != pytest.approx(both.mean(), rel=1e-6)  # the twin: not on all rows


def test_enlarging_is_linear_between_the_centres() -> None:
    """A ramp stays a ramp, with three steps for one; rows and columns are not exchanged."""
    ramp = np.tile(np.arange(4), (4, 1))[None]  # rises along columns
    large = enlarge(ramp, white=3, factor=3, border=2)[0]
    assert large.shape == (16, 16)
    inside = large[2:-2, 2:-2].astype(int)
    assert (inside == inside[0]).all()
    assert inside[0].tolist() == [0, 0, 28, 57, 85, 113, 142, 170, 198, 227, 255, 255]
    assert large[:2].max() == large[:, -2:].max() == 0
    nearest = np.repeat(85 * ramp[0, 0], 3)
    assert (nearest != inside[0]).any()  # the twin: plain repetition of pixels would be told apart
