"""What lives at once during a check, in units of the model's float32 weights; large models are checked with less."""

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import compare
import compare.checking
from compare.case_weights import Held
from compare.legs import torch_leg
from compare.legs.flax_leg import FlaxLeg
from compare.legs.run import Case, Run
from compare.legs.torch_leg import TorchLeg
from compare.redraw import given_weights
from compare.structure import Call

pytestmark = pytest.mark.usefixtures("small_programs")


class TorchNet(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.fc1 = torch.nn.LayerNorm(width), torch.nn.Linear(width, 2 * width)
        self.fc2 = torch.nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h: torch.Tensor = self.fc2(torch.tanh(self.fc1(self.norm(x))))
        return h


class FlaxNet(nnx.Module):
    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        rngs = nnx.Rngs(0)
        self.norm = nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.fc2(jax.numpy.tanh(self.fc1(self.norm(x))))


class Ledger:
    """Counts the bytes of weights and gradients that live after each run of a leg, beyond what lived before."""

    def __init__(self) -> None:
        self.before = self._on_device()
        self.most = 0
        self._legs: list[TorchLeg] = []
        self._arrays: list[weakref.ref[np.ndarray]] = []

    @staticmethod
    def _on_device() -> int:
        return sum(array.nbytes for array in jax.live_arrays())

    def loaded(self) -> int:
        """Of the torch legs' parameters."""
        parameters = [parameter for leg in self._legs for parameter in leg.model.parameters()]
        return sum(parameter.untyped_storage().nbytes() for parameter in parameters)

    def look(self, leg: TorchLeg | FlaxLeg, run: Run) -> None:
        if isinstance(leg, TorchLeg):
            self._legs += [leg] if leg not in self._legs else []
            self.note([gradient for gradient in run.parameter_gradients.values() if isinstance(gradient, np.ndarray)])
        arrays = [array for ref in self._arrays if (array := ref()) is not None]

        self.most = max(self.most, self._on_device() - self.before + self.loaded() + sum(a.nbytes for a in arrays))

    def note(self, arrays: list[np.ndarray]) -> None:
        self._arrays += [weakref.ref(array) for array in arrays]


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Kept while legs run and weights are drawn."""
    kept = Ledger()

    def watched(run: Callable[..., Run]) -> Callable[..., Run]:
        def wrapped(leg: Any, *args: Any, **kwargs: Any) -> Run:
            found = run(leg, *args, **kwargs)
            kept.look(leg, found)
            return found

        return wrapped

    def held(self: Held, arrays: Any, make: Callable[..., None] = Held.__init__) -> None:
        make(self, arrays)
        kept.note(
            [a for a in self.narrow.kept.values() if isinstance(a, np.ndarray) and a.base is None]
        )  # the user's own are views

    monkeypatch.setattr(TorchLeg, "run", watched(TorchLeg.run))
    monkeypatch.setattr(FlaxLeg, "run", watched(FlaxLeg.run))
    monkeypatch.setattr(Held, "__init__", held)
    return kept


@pytest.mark.parametrize("wasteful", [False, True], ids=["as it is", "gradients kept"])
def test_a_check_holds_at_most_six_times_the_weights(
    seeded: Any, rows: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, wasteful: bool
) -> None:
    """The torch leg in float64 and the redrawn weights make three, the gradients of both sides two each."""
    if wasteful:
        monkeypatch.setattr(compare.checking, "condensed", lambda item: item)
    model = seeded(lambda: TorchNet(128))
    ledger.before += 4 * sum(parameter.numel() for parameter in model.parameters())  # of the Flax model below
    report = compare.check(model, FlaxNet(128), rows(4, 128))
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert report.passed, report.text()
    assert (ledger.most <= 6 * weights) is not wasteful, ledger.most / weights
    assert ledger.most > 3 * weights  # what must be there was seen


def test_a_leg_that_waits_holds_no_weights(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: TorchNet(6))
    leg = TorchLeg(model, "float64")
    case = Case("", given_weights(model), Call((rows(4, 6),)), {"": rows(4, 6, seed=1)})
    first = leg.run(case)
    leg.unload()
    assert sum(parameter.untyped_storage().nbytes() for parameter in leg.model.parameters()) <= 8 * 6
    again = leg.run(case)
    assert np.array_equal(first.outputs[""], again.outputs[""])
    one, other = (np.asarray(run.parameter_gradients["fc1.weight"]) for run in (first, again))
    assert np.array_equal(one, other)
    shown = leg.run(case, reduce=lambda field, path, array: array.shape)
    assert dataclasses.asdict(shown)["parameter_gradients"]["fc1.weight"] == (12, 6)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-6])
def test_a_large_model_is_checked_with_less_and_the_report_says_so(
    seeded: Any, rows: Any, monkeypatch: pytest.MonkeyPatch, epsilon: float
) -> None:
    monkeypatch.setattr(torch_leg, "_LARGE", 1)
    report = compare.check(seeded(lambda: TorchNet(6)), FlaxNet(6, epsilon), rows(4, 6))
    assert "gradients and float32 on given and redrawn weights alone" in report.settings["large model"]
    if epsilon == 1e-5:
        assert report.passed, report.text()
        assert "over 2 cases" in report.check("gradients").detail
        return
    assert report.status == "failed"
    assert report.first_divergence is not None
    assert report.first_divergence.module == "norm"
    assert "norm_epsilon" in [cause.name for cause in report.causes], report.causes
