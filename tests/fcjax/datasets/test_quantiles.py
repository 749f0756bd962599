"""Features by rank: the scores by hand, fitted on the training part alone, and the same for new inputs."""

import dataclasses
import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fcjax.cli import main
from fcjax.datasets import DataError, Dataset, Quantiles, Split, by_quantiles, load, with_computed_features
from fcjax.prediction import load_run

RNG = np.random.default_rng(0)


def score(rank: float) -> float:
    return NormalDist().inv_cdf(rank)


def test_scores_by_hand() -> None:
    # Sorted 1, 2, 2, 3: the ranks are the middles 1/8, 1/2 and 7/8.
    x = np.array([[3.0], [2.0], [1.0], [2.0]])
    found = Quantiles.fit(x).apply([[1.0], [2.0], [3.0], [1.5], [-9.0], [99.0]])
    expected = [score(1 / 8), 0, score(7 / 8), score(1 / 8) / 2, score(1 / 8), score(7 / 8)]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)  # rounded to float32
    assert found.dtype == np.float32


def test_a_skewed_column_becomes_normal_and_a_standardised_one_does_not() -> None:
    x = np.exp(2 * RNG.normal(size=(20_000, 1)))
    z = Quantiles.fit(x).apply(x)[:, 0]
    shares = [float((z < threshold).mean()) for threshold in (-2, -1, 0, 1, 2)]
    expected = [NormalDist().cdf(threshold) for threshold in (-2, -1, 0, 1, 2)]
    # 667 knots between which lines stand for curves: shares are right to one row in a hundred.
    np.testing.assert_allclose(shares, expected, atol=0.01)
    standard = (x[:, 0] - x.mean()) / x.std()
    assert abs(float((standard < -1).mean()) - expected[1]) > 0.1


@settings(max_examples=25)
@given(arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(0, 8)))
def test_a_rising_change_of_unit_changes_nothing(x: np.ndarray) -> None:
    plain = Quantiles.fit(x).apply(x)  # at most 9 different values: each is a knot
    np.testing.assert_array_equal(plain, Quantiles.fit(np.exp(x)).apply(np.exp(x)))
    assert np.isfinite(plain).all()
    for column, scores in zip(x.T, plain.T, strict=True):
        assert (np.diff(scores[np.argsort(column, kind="stable")]) >= 0).all()
        if column.min() == column.max():
            assert (scores == 0).all()


def test_the_test_part_is_not_looked_at() -> None:
    train = Split(RNG.normal(size=(50, 2)).astype(np.float32), np.zeros((50, 1), np.float32))
    plain = Dataset("plane", "regression", train, train)
    other = dataclasses.replace(plain, test=dataclasses.replace(train, inputs=train.inputs * 7 + 3))
    a, b = (with_computed_features(by_quantiles(dataset)) for dataset in (plain, other))
    np.testing.assert_array_equal(a.train.inputs, b.train.inputs)
    assert a.input_scaling is None
    assert (a.test.inputs != b.test.inputs).any()


def test_json_brings_every_number_back() -> None:
    quantiles = Quantiles.fit(RNG.normal(size=(100, 3)))
    again = Quantiles(**json.loads(json.dumps(quantiles.to_json())))
    for name in ("knots", "scores"):
        for before, after in zip(getattr(quantiles, name), getattr(again, name), strict=True):
            np.testing.assert_array_equal(before, after)


def test_what_is_no_quantile() -> None:
    rise = "expected finite numbers that rise"
    for knots in ([0.0, 0.0], [1.0, 0.0], [0.0, float("nan")], []):
        with pytest.raises(DataError, match=f"quantiles, knots of feature 0: {rise}"):
            Quantiles((np.array(knots),), (np.array([0.0, 1.0]),))
    with pytest.raises(DataError, match=r"expected a score for each knot, found \(2,\) for \(1,\)"):
        Quantiles((np.zeros(1),), (np.array([0.0, 1.0]),))
    with pytest.raises(DataError, match=r"expected shape \(rows, 2\), found \(5, 3\)"):
        Quantiles.fit(np.zeros((4, 2))).apply(np.zeros((5, 3)))
    with pytest.raises(DataError, match=r"digits: expected columns of numbers for quantile features"):
        by_quantiles(load("digits"))


def test_a_run_keeps_them(tmp_path: Path) -> None:
    flags = ["--features", "quantile", "--epochs", "1", "--batch-size", "512", "--devices", "1", "--no-cache"]
    main(["train", "housing", *flags, "--run-dir", str(tmp_path / "run")])
    run, dataset = load_run(tmp_path / "run"), load("housing")
    assert isinstance(run.input_scaling, Quantiles)
    error = run.predict(dataset.test.inputs) - dataset.test.targets
    measured = json.loads((tmp_path / "run" / "summary.json").read_text())["test"]["rmse"][0]
    # float32 sums of 4,096 squares, added up in another order
    np.testing.assert_allclose(np.sqrt(np.square(error, dtype=np.float64).mean()), measured, rtol=1e-5)
    standard = dataclasses.replace(run, input_scaling=dataset.input_scaling)
    error = standard.predict(dataset.test.inputs) - dataset.test.targets
    assert abs(np.sqrt(np.square(error).mean()) / measured - 1) > 1e-3
