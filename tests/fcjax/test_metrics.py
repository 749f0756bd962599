"""Metrics: masked sums on the device, figures on the host, against plain NumPy."""

import jax.numpy as jnp
import numpy as np

from fcjax.datasets import Dataset, Scaling, Split
from fcjax.metrics import describe, figures, measure

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
