"""A case loses its gradients and nothing that is known of them; they can be computed again."""

from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx

from compare.adequacy import reached_rows
from compare.cases import make_cases
from compare.checking import _legs
from compare.checks.gradients import check_gradients, gradient_flow
from compare.checks.precision import check_precision
from compare.condensing import condensed
from compare.evidence import Evidence, Legs, gather, restored
from compare.legs.flax_function import flax_function
from compare.legs.run import Case
from compare.mapping.proposal import propose_mapping
from compare.port import Port
from compare.profile import gradient_norms, worst_array
from compare.redraw import given_weights
from compare.structure import as_call

pytestmark = pytest.mark.usefixtures("small_programs")


def gathered(seeded: Any, rows: Any, flax_model: nnx.Module) -> tuple[Legs, tuple[Evidence, ...]]:
    port = Port(seeded(lambda: torch.nn.Linear(3, 5)), flax_model, rows(4, 3))
    function = flax_function(flax_model, "eval")
    legs = _legs(port, function, propose_mapping(port.torch_model, function.shapes, None))
    return legs, gather(legs, make_cases(port, legs.torch64), "eval", 0).evidence


class Twice(nnx.Linear):
    def __call__(self, x: Any) -> Any:  # type: ignore[override]
        return 2 * super().__call__(x)


def test_agreement_leaves_what_was_found(seeded: Any, rows: Any) -> None:
    legs, whole = gathered(seeded, rows, nnx.Linear(3, 5, rngs=nnx.Rngs(0)))
    light = [condensed(item) for item in whole]
    assert all(item.condensed and not item.flax.parameter_gradients for item in light)
    again = restored(legs, light[0])
    for ours, theirs in ((again.reference, whole[0].reference), (again.flax, whole[0].flax)):
        for name in ("weight", "bias"):
            again_found, found = (np.asarray(run.parameter_gradients[name]) for run in (ours, theirs))
            assert np.array_equal(again_found, found)  # the same program again
    assert check_gradients(light, True) == check_gradients(whole, True)
    assert check_precision(light, True) == check_precision(whole, True)
    assert gradient_flow(light) == gradient_flow(whole)
    assert gradient_norms(light[0]) == gradient_norms(whole[0])
    assert set(reached_rows(light[0])) == {"weight", "bias"}


def test_a_case_that_differs_is_known_to_do_so(seeded: Any, rows: Any) -> None:
    _, whole = gathered(seeded, rows, Twice(3, 5, rngs=nnx.Rngs(0)))
    light = [condensed(item) for item in whole]
    assert check_gradients(light, True) == check_gradients(whole, True)
    assert check_gradients(light, True).status == "failed"
    drawn = worst_array([item for item in light if item.case.cotangents])
    assert drawn is not None
    assert drawn == worst_array(whole)


class TorchRecurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


class FlaxRecurrent(nnx.Module):
    def __init__(self) -> None:
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)))

    def __call__(self, x: Any) -> Any:
        return self.rnn(x)


def test_a_model_that_cannot_be_traced_in_64_bit_mode_is_watched_all_the_same(seeded: Any, rows: Any) -> None:
    """``nnx.RNN`` carries float32 through its scan, whatever the arguments are."""
    port = Port(seeded(TorchRecurrent), FlaxRecurrent(), rows(2, 3, 3))
    function = flax_function(port.flax_model, "eval")
    legs = _legs(port, function, propose_mapping(port.torch_model, function.shapes, None))
    case = Case("given weights, given inputs", given_weights(port.torch_model), as_call(rows(2, 3, 3)))
    last = [point for point in legs.flax64.trace(case) if point.module == "rnn"][-1]
    (expected,) = legs.torch64.run(case).outputs.values()
    assert np.abs(last.arrays[0] - expected).max() < 1e-12  # float64, of numbers below one
    assert "rnn" in legs.flax64.calls(case)
