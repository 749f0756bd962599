"""What a Dataset guarantees: every part is whole, finite and of one kind; and scales that invert."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fcjax.datasets import DATASETS, DataError, Dataset, Scaling, Split, hold_out, load


def regression(rows: int = 7, features: int = 3, outputs: int = 1) -> Split:
    rng = np.random.default_rng(rows)
    return Split(
        rng.standard_normal((rows, features)).astype(np.float32), rng.random((rows, outputs)).astype(np.float32)
    )


def labelled(rows: int = 12, classes: int = 3) -> Split:
    return Split(np.arange(rows * 6, dtype=np.uint8).reshape(rows, 2, 3), np.arange(rows, dtype=np.int32) % classes)


def test_parts_come_in_order_and_without_the_missing_one() -> None:
    whole = Dataset("d", "regression", regression(), regression(5), regression(4))
    assert [(name, len(split)) for name, split in whole.parts().items()] == [
        ("train", 7),
        ("validation", 4),
        ("test", 5),
    ]
    assert list(Dataset("d", "classification", labelled(), labelled(), classes=3).parts()) == ["train", "test"]


def with_nan(split: Split) -> Split:
    inputs = split.inputs.copy()
    inputs[2, 1] = np.nan
    return Split(inputs, split.targets)


HOUSES, LETTERS = regression(), labelled()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "ranking"}, "expected task classification or regression, found 'ranking'"),
        ({"classes": 3}, "a number of classes in classification only, found 3"),
        ({"train": with_nan(HOUSES)}, r"train inputs: expected finite numbers, found nan at index \(2, 1\)"),
        ({"test": with_nan(HOUSES)}, "d, test inputs: expected finite numbers"),
        ({"validation": regression(features=4)}, r"validation inputs: expected rows of shape \(3,\) and float32"),
        ({"test": regression(outputs=2)}, r"test targets: expected rows of shape \(1,\)"),
        ({"test": Split(HOUSES.inputs, regression(6).targets)}, "d, test: found 7 inputs, 6 targets"),
        (
            {"train": Split(HOUSES.inputs, HOUSES.targets[:, 0])},
            r"float32 of shape \(n, outputs\), found float32 \(7,\)",
        ),
        ({"train": Split(HOUSES.inputs.astype(float), HOUSES.targets)}, "expected uint8 or float32"),
        ({"train": regression(0)}, "at least one row"),
    ],
)
def test_a_regression_that_is_not_whole_is_refused(change: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {"name": "d", "task": "regression", "train": HOUSES, "test": HOUSES}
    Dataset(**whole)
    with pytest.raises(DataError, match=message):
        Dataset(**whole | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": None}, "a number of classes in classification only, found None"),
        ({"train": labelled(classes=4)}, "train targets: expected labels 0 to 2, found 3 in row 3"),
        ({"test": Split(LETTERS.inputs, -LETTERS.targets)}, "test targets: expected labels 0 to 2, found -1 in row 1"),
        ({"train": Split(LETTERS.inputs, LETTERS.targets.astype(np.int64))}, "expected int32 labels"),
        ({"test": HOUSES}, "test targets: expected int32 labels"),
    ],
)
def test_a_classification_that_is_not_whole_is_refused(change: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {"name": "d", "task": "classification", "train": LETTERS, "test": LETTERS, "classes": 3}
    Dataset(**whole)
    with pytest.raises(DataError, match=message):
        Dataset(**whole | change)


def test_scaling_standardises_each_column_and_inverts() -> None:
    x = np.random.default_rng(0).normal([5.0, -300.0, 2.0], [0.1, 40.0, 1.0], (500, 3)).astype(np.float32)
    x[:, 2] = 0.1  # constant, at a value that float32 can't hold exactly
    scaling = Scaling.fit(x)
    z = scaling.apply(x)
    assert z.dtype == np.float32
    # float32 rounds x itself to 6e-8 * |x|/std = 3e-6 standard deviations in the first column.
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(z[:, :2].std(axis=0), 1, rtol=1e-5)
    assert scaling.std[2] == 1
    np.testing.assert_allclose(scaling.inverse(z), x, rtol=1e-6)


def test_pixel_scaling_is_that_of_all_pixels_together() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2050, 4, 3), np.uint8)
    scaling = Scaling.fit_pixels(images)
    assert scaling.mean.shape == ()
    np.testing.assert_allclose([scaling.mean, scaling.std], [images.mean(), images.std()], rtol=1e-6)  # float32
    assert scaling.apply(images).dtype == np.float32  # not float64, and no wrap-around of uint8
    np.testing.assert_allclose(scaling.apply(images).mean(), 0, atol=1e-4)
    assert Scaling.fit_pixels(np.full((3, 2, 2), 9, np.uint8)).std == 1


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (np.nan, 1.0), (0.0, np.inf), ([0, 0], [1, 1, 1])])
def test_a_scaling_that_does_not_invert_is_refused(mean: object, std: object) -> None:
    with pytest.raises(DataError, match="scaling: expected"):
        Scaling(mean, std)  # type: ignore[arg-type]


def test_hold_out_takes_from_the_training_part_in_proportion() -> None:
    whole = Dataset("d", "classification", labelled(42), labelled(), classes=3)
    cut = hold_out(whole, 12, seed=1)
    assert cut.validation is not None
    assert np.bincount(cut.validation.targets).tolist() == [4, 4, 4]
    together = np.concatenate([cut.train.inputs, cut.validation.inputs])
    assert sorted(together[:, 0, 0]) == sorted(whole.train.inputs[:, 0, 0])
    with pytest.raises(DataError, match="validation part of 12 rows already"):
        hold_out(cut, 3)


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(DataError, match=r"digits, housing, mnist, fashion, california; found 'minst'"):
        load("minst")
    assert "digits" in DATASETS


def test_importing_the_package_is_light() -> None:
    code = """
import sys, fcjax.datasets as d
print([m for m in ("numpy", "jax", "sklearn", "pooch") if m in sys.modules])
d.load("housing")
print([m for m in ("jax", "sklearn", "torch", "pooch", "pyarrow") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["[]", "[]"]
