"""Metrics: masked sums on the device, figures on the host, against plain NumPy."""

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from fcjax.config import UsageError
from fcjax.datasets import Dataset, Scaling, Split
from fcjax.metrics import describe, figures, measure
from fcjax.run_directory import RunDirectory

RNG = np.random.default_rng(0)


def regression(targets: np.ndarray) -> Dataset:
    split = Split(np.zeros((len(targets), 2), np.float32), targets)
    return Dataset("prices", "regression", split, split, target_scaling=Scaling.fit(targets))


def test_accuracy_counts_real_rows_only() -> None:
    outputs = jnp.array([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0], [9.0, 0.0]])
    labels = jnp.array([0, 1, 1, 0])
    losses = jnp.array([1.0, 2.0, 3.0, jnp.nan])  # a padded row may hold anything
    sums = measure("classification", outputs, labels, losses, jnp.array([True, True, True, False]))
    split = Split(np.zeros((3, 2), np.float32), np.zeros(3, np.int32))
    dataset = Dataset("three", "classification", split, split, classes=2)
    assert figures(sums, dataset, split.targets) == {"loss": 2.0, "accuracy": 2 / 3}


def test_without_the_mask_the_figures_are_others() -> None:
    outputs, labels, losses = jnp.eye(2), jnp.array([0, 0]), jnp.array([1.0, 5.0])
    masked = measure("classification", outputs, labels, losses, jnp.array([True, False]))
    assert (int(masked["count"]), int(masked["correct"]), float(masked["loss"])) == (1, 1, 1.0)
    bare = measure("classification", outputs, labels, losses, jnp.array([True, True]))
    assert (int(bare["count"]), int(bare["correct"]), float(bare["loss"])) == (2, 1, 6.0)


def test_regression_figures_are_in_the_targets_own_unit() -> None:
    targets = (RNG.normal(300, 90, size=(40, 2)) * [1, 5]).astype(np.float32)
    predictions = targets + RNG.normal(0, 20, size=targets.shape).astype(np.float32)
    dataset = regression(targets)
    assert dataset.target_scaling is not None
    scaled = [jnp.asarray(dataset.target_scaling.apply(values)) for values in (predictions, targets)]
    sums = measure("regression", scaled[0], scaled[1], jnp.zeros(40), jnp.ones(40, bool))
    found = figures(sums, dataset, targets)
    error = predictions.astype(np.float64) - targets
    # Scaling to and fro in float32 rounds numbers of about 1000 to about 1e-4.
    np.testing.assert_allclose(found["rmse"], np.sqrt((error**2).mean()), rtol=1e-5)
    np.testing.assert_allclose(found["mae"], np.abs(error).mean(), rtol=1e-5)
    r2 = 1 - (error**2).sum(axis=0) / ((targets - targets.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=0)
    np.testing.assert_allclose(found["r2"], r2.mean(), rtol=1e-5)


def test_figures_are_described_in_words() -> None:
    assert describe({"loss": 0.1, "accuracy": 0.98314}) == "accuracy 98.31 %"
    assert describe({"loss": 0.1, "rmse": 20.456, "mae": 3.0, "r2": 0.9}) == "RMSE 20.46"


def test_a_target_that_never_varies_has_no_r2() -> None:
    targets = np.full((3, 1), 0.1, np.float32)
    dataset = regression(np.arange(6, dtype=np.float32).reshape(3, 2)[:, :1])
    sums = measure("regression", jnp.zeros((3, 1)), jnp.zeros((3, 1)), jnp.zeros(3), jnp.ones(3, bool))
    assert set(figures(sums, dataset, targets)) == {"loss", "rmse", "mae"}
    assert "r2" in figures(sums, dataset, np.array([[0.1], [0.1], [0.2]], np.float32))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_never_written(wrong: float, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    line = {"epoch": 3, "train": {"loss": [0.1]}, "test": {"accuracy": [0.5, wrong]}}
    for write, name in ((directory.append_metrics, "metrics.jsonl"), (directory.write_summary, "summary.json")):
        with pytest.raises(UsageError, match=f"{name}: expected finite figures, found others under test; a lower"):
            write(line)
        assert not (tmp_path / name).exists()
    directory.append_metrics(line | {"test": {}})
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    (tmp_path / "summary.json").mkdir()  # no file that could be deleted
    with pytest.raises(UsageError, match=r"summary\.json: can't be written: "):
        directory.rewind({}, {}, [])
