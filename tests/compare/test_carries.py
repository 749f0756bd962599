"""Arrays that Flax hands on in another order than torch: a cell's input and its state."""

import numpy as np
import torch

from compare.carries import in_torch_order, recurrent_modules
from compare.legs.watch import Checkpoint

RNG = np.random.default_rng(0)
X, H, C = (RNG.standard_normal((3, 4)) for _ in range(3))
WIDE = RNG.standard_normal((3, 5))
PAIRS = {"cell": "step"}


def ordered(
    ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...], recurrent: bool = True
) -> tuple[np.ndarray, ...]:
    reference = [Checkpoint("cell", "input", ours)]
    found = [Checkpoint("step", "input", theirs, tuple(2 * array for array in theirs))]
    (checkpoint,) = in_torch_order(reference, found, PAIRS, frozenset({"cell"} if recurrent else ()))
    assert len(checkpoint.gradients) == (len(theirs) if len(ours) == len(theirs) else 0)
    for array, gradient in zip(checkpoint.arrays, checkpoint.gradients, strict=False):
        np.testing.assert_array_equal(gradient, 2 * array)  # they go together
    return checkpoint.arrays


def test_a_cells_arrays_are_brought_into_torchs_order() -> None:
    for found, expected in zip(ordered((X, H, C), (C + 1e-9, H, X)), (X, H, C), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-8)
    assert [array.shape for array in ordered((WIDE, H, C), (C, H, WIDE))] == [(3, 5), (3, 4), (3, 4)]
    assert len(ordered((H, C), (C, H, H))) == 2  # a Flax cell returns its state twice


def test_shapes_that_differ_show_another_order_anywhere() -> None:
    found = ordered((WIDE, X), (X, WIDE), recurrent=False)
    assert [array.shape for array in found] == [(3, 5), (3, 4)]


def test_exchanged_arguments_of_other_modules_stay_exchanged() -> None:
    found = ordered((X, H), (H, X), recurrent=False)
    np.testing.assert_array_equal(found[0], H)


def test_arrays_that_fit_nowhere_are_left() -> None:
    found = ordered((X, H), (WIDE, H))
    assert [array.shape for array in found] == [(3, 5), (3, 4)]


def test_recurrent_modules_are_cells_and_layers() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.LSTMCell(2, 3), "b": torch.nn.GRU(2, 3), "c": torch.nn.Linear(2, 3)})
    assert recurrent_modules(model) == {"a", "b"}
