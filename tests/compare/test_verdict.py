"""The one place that judges numbers: NaN, shapes, indices, and allowances that grow with the conditioning."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compare.legs.run import Case
from compare.legs.torch_leg import TorchLeg
from compare.result import Leaf
from compare.structure import Call
from compare.verdict import (
    SAMENESS_FACTOR,
    compare_arrays,
    largest_relative,
    own_rounding,
    spread,
    unit_roundoff,
    worst,
)

FINITE = st.floats(-1e6, 1e6)
MATRICES = arrays(np.float64, (3, 4), elements=FINITE)


@given(MATRICES, st.integers(0, 2), st.integers(0, 3), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_non_finite_number_on_one_side_never_agrees(array: np.ndarray, i: int, j: int, bad: float) -> None:
    spoiled = array.copy()
    spoiled[i, j] = bad
    for left, right in ((array, spoiled), (spoiled, array)):
        leaf = compare_arrays("x", left, right, np.inf)
        assert not leaf.agrees
        assert str([i, j]) in leaf.detail
    assert compare_arrays("x", spoiled, spoiled.copy(), 0.0).agrees  # at the same places on both sides


def test_infinities_of_other_sign_and_nan_allowances_never_agree() -> None:
    assert not compare_arrays("x", np.array([np.inf]), np.array([-np.inf]), np.inf).agrees
    assert not compare_arrays("x", np.array([1.0]), np.array([1.0]), np.nan).agrees
    assert not Leaf("x", np.nan, np.inf).agrees
    assert Leaf("x", 0.0, 0.0).agrees


@given(MATRICES, st.integers(0, 2), st.integers(0, 3), st.floats(1e-3, 1e3))
def test_the_index_is_that_of_the_largest_difference(array: np.ndarray, i: int, j: int, by: float) -> None:
    moved = array + by / 4
    moved[i, j] = array[i, j] + by
    leaf = compare_arrays("x", array, moved, by / 2)
    assert leaf.index == (i, j)
    assert not leaf.agrees
    assert leaf.error == pytest.approx(by, rel=1e-6)  # 1e6 + 1e-3 keeps seven digits of what was added


def test_shapes_come_first() -> None:
    leaf = compare_arrays("x", np.full((4, 1), np.nan), np.full(4, np.nan), np.inf)
    assert leaf.detail == "expected shape (4, 1), found (4,)"
    assert not leaf.agrees
    assert compare_arrays("x", np.zeros((0, 3)), np.zeros((0, 3)), 0.0).agrees


def test_integers_are_no_floats() -> None:
    leaf = compare_arrays("x", np.array([1, 2]), np.array([1.0, 2.0]), 0.0)
    assert "expected dtype int64, found float64" in leaf.detail
    assert compare_arrays("x", np.array([1, 2]), np.array([1, 2], np.int32), 0.0).agrees


def test_worst_keeps_the_leaf_that_disagrees_most() -> None:
    mild, grave, nan = Leaf("x", 2.0, 1.0), Leaf("x", 1.0, 1e-9), Leaf("x", np.nan, 1.0)
    assert worst([mild, grave, mild])["x"] is grave
    assert worst([mild, nan, grave])["x"] is nan
    assert np.isnan(largest_relative([mild, nan]))


def test_a_perturbed_run_that_overflows_allows_anything_finite() -> None:
    assert spread(np.array([1.0, 2.0]), [np.array([1.0, np.inf])], "float64") == np.inf
    assert spread(np.array([1.0, np.nan]), [np.array([1.5, 9.0])], "float64") == 0.5
    assert spread(np.array([1.0]), [], "float64") == 4 * unit_roundoff("float64")


def test_own_rounding_scales_a_float32_error_to_float64() -> None:
    exact = np.array([1.0, 3.0])
    assert own_rounding(exact, exact + 2.0**-20) == 2.0**-49
    assert own_rounding(exact, np.array([np.nan, 3.0])) == 0.0
    assert own_rounding(exact, None) == 0.0


class Solve(torch.nn.Module):
    """``A^-1 x``."""

    def __init__(self, matrix: np.ndarray) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.from_numpy(matrix))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(self.matrix, x)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10_000))
def test_the_allowance_follows_the_conditioning(exponent: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    smallest = 10.0**-exponent
    left, right = (np.linalg.qr(random.standard_normal((5, 5)))[0] for _ in range(2))
    matrix = left * np.array([1.0, 0.9, 0.8, 0.7, smallest]) @ right
    x = left @ np.ones(5)  # every singular vector takes part, so that the solution grows with the condition number
    leg, case = TorchLeg(Solve(matrix), "float64"), Case("given", {"matrix": matrix}, Call((x,)))
    reference = leg.run(case).outputs[""]
    # The smallest pivot is known to one rounding, and a move often leaves it where it was: three in a row, once in 200.
    allowed = spread(reference, [leg.run(case, perturbation=seed + k).outputs[""] for k in range(9)], "float64")
    relative = allowed / np.abs(reference).max() / unit_roundoff("float64")
    # 25 entries of about 0.3, each moved by about one rounding, move the smallest singular value by a fraction of one.
    assert 0.005 < relative * smallest < 10

    room = SAMENESS_FACTOR * allowed
    assert compare_arrays("y", reference, np.linalg.inv(matrix) @ x, room).agrees  # another right way
    mistaken = matrix + 2 * SAMENESS_FACTOR * 10 * unit_roundoff("float64") * np.outer(left[:, 4], right[4])
    assert not compare_arrays("y", reference, np.linalg.solve(mistaken, x), room).agrees
