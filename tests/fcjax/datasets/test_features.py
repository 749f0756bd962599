"""Features by rank and in pieces: both by hand, fitted on the training part alone, and the same for new inputs."""

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
from fcjax.datasets import (
    DataError,
    Dataset,
    Pieces,
    Quantiles,
    Scaling,
    Split,
    load,
    with_computed_features,
    with_features,
)
from fcjax.datasets.features import from_json
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


def test_pieces_by_hand() -> None:
    pieces = Pieces(((-1.0, 0.0, 2.0), (0.0, 1.0)))
    found = pieces.apply([[-0.5, 0.3], [1.0, -2.0], [9.0, 9.0], [-9.0, 1.0]])
    expected: list[list[float]] = [[0.5, 0, 0.3], [1, 0.5, 0], [1, 1, 1], [0, 0, 1]]  # level outside the bins
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # rounded to float32


def test_bins_hold_equally_many_rows() -> None:
    x = np.stack([np.arange(100.0), np.arange(100) % 2, np.full(100, 7.0), np.r_[np.zeros(90), 1:11]], axis=1)
    edges = Pieces.fit(x, 4).edges
    assert edges[0] == (0, 24, 49, 74, 99)
    assert edges[1:] == ((0, 1), (7, 8), (0, 10))  # equal quantiles are one edge


@pytest.mark.parametrize("kind", ["quantile", "pieces"])
def test_the_test_part_is_not_looked_at(kind: str) -> None:
    train = Split(RNG.normal(size=(50, 2)).astype(np.float32), np.zeros((50, 1), np.float32))
    plain = Dataset("plane", "regression", train, train)
    other = dataclasses.replace(plain, test=dataclasses.replace(train, inputs=train.inputs * 7 + 3))
    a, b = (with_computed_features(with_features(dataset, kind, 5)) for dataset in (plain, other))
    np.testing.assert_array_equal(a.train.inputs, b.train.inputs)
    assert a.input_scaling is None
    assert (a.test.inputs != b.test.inputs).any()


def test_json_brings_every_number_back() -> None:
    x = RNG.normal(size=(100, 3))
    for before in (Quantiles.fit(x), Pieces.fit(x, 7), Scaling.fit(x)):
        after = from_json(json.loads(json.dumps(before.to_json())))
        assert type(after) is type(before)
        np.testing.assert_array_equal(after.apply(x), before.apply(x))
    with pytest.raises(DataError, match=r"expected a scaling, quantiles or pieces, found the fields \['knots'\]"):
        from_json({"knots": []})


def test_what_is_no_quantile() -> None:
    rise = "expected finite numbers that rise"
    for knots in ([0.0, 0.0], [1.0, 0.0], [0.0, float("nan")], []):
        with pytest.raises(DataError, match=f"quantiles, knots of feature 0: {rise}"):
            Quantiles((np.array(knots),), (np.array([0.0, 1.0]),))
    with pytest.raises(DataError, match=r"expected a score for each knot, found \(2,\) for \(1,\)"):
        Quantiles((np.zeros(1),), (np.array([0.0, 1.0]),))
    with pytest.raises(DataError, match=r"expected shape \(rows, 2\), found \(5, 3\)"):
        Quantiles.fit(np.zeros((4, 2))).apply(np.zeros((5, 3)))
    for edges in ((1.0,), (1.0, 1.0), (2.0, 1.0), (0.0, float("inf"))):
        with pytest.raises(DataError, match="pieces, feature 0: expected at least two finite edges that rise"):
            Pieces((edges,))
    with pytest.raises(DataError, match=r"pieces: expected shape \(rows, 1\), found \(5, 3\)"):
        Pieces(((0.0, 1.0),)).apply(np.zeros((5, 3)))
    with pytest.raises(DataError, match=r"features: expected columns of numbers with pieces, found digits"):
        with_features(load("digits"), "pieces", 4)


@pytest.mark.parametrize(("name", "kind"), [("quantile", Quantiles), ("pieces", Pieces)])
def test_a_run_keeps_them(name: str, kind: type, tmp_path: Path) -> None:
    flags = ["--features", name, "--epochs", "1", "--batch-size", "512", "--devices", "1", "--no-cache"]
    main(["train", "housing", *flags, "--run-dir", str(tmp_path / "run")])
    run, dataset = load_run(tmp_path / "run"), load("housing")
    assert isinstance(run.input_scaling, kind)
    error = run.predict(dataset.test.inputs) - dataset.test.targets
    measured = json.loads((tmp_path / "run" / "summary.json").read_text())["test"]["rmse"][0]
    # float32 sums of 4,096 squares, added up in another order
    np.testing.assert_allclose(np.sqrt(np.square(error, dtype=np.float64).mean()), measured, rtol=1e-5)
    assert abs(run.predict(dataset.test.inputs * 1.1) - run.predict(dataset.test.inputs)).max() > 1e-3
