"""Where and what: each planted mistake is found at its place and named; two at once are both named."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

import compare


class TorchBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1 = torch.nn.Linear(7, 6)
        self.norm = torch.nn.LayerNorm(6)
        self.fc2 = torch.nn.Linear(6, 6)
        self.fc3 = torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(self.norm(self.fc1(x)))
        h = h + F.relu(self.fc2(h))
        return F.log_softmax(self.fc3(h), dim=-1)


class FlaxBlock(nnx.Module):
    """The port, with the mistakes that it is told to make."""

    def __init__(self, *mistakes: str) -> None:
        rngs = nnx.Rngs(0)
        self.mistakes = mistakes
        self.fc1 = nnx.Linear(7, 6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, epsilon=1e-6 if "epsilon" in mistakes else 1e-5, rngs=rngs)
        self.fc2 = nnx.Linear(6, 6, rngs=rngs)
        self.fc3 = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        makes = self.mistakes.__contains__
        h = jax.nn.gelu(self.norm(self.fc1(x)), approximate=makes("tanh"))
        h = jax.lax.stop_gradient(h) if makes("stop") else h
        bias: Any = self.fc2.bias
        branch = h @ self.fc2.kernel[...].T + bias[...] if makes("transposed") else self.fc2(h)
        branch = branch if makes("no relu") else jax.nn.relu(branch)
        h = branch if makes("no skip") else h + branch
        y = self.fc3(h)
        if makes("softmax"):
            return jax.nn.softmax(y)
        return jax.nn.log_softmax(y, axis=0 if makes("axis") else -1)


INPUTS = np.random.default_rng(0).normal(size=(5, 7))


def examined(*mistakes: str) -> compare.Report:
    return compare.check(TorchBlock(), FlaxBlock(*mistakes), INPUTS)


@pytest.mark.parametrize(
    ("mistake", "direction", "where", "module", "cause"),
    [
        ("epsilon", "forward", "inside", "norm", "norm_epsilon"),
        ("tanh", "forward", "before", "fc2", "gelu_approximation"),
        ("no relu", "forward", "before", "fc3", "activation_missing"),
        ("no skip", "forward", "before", "fc3", "term_missing"),
        ("transposed", "forward", "before", "fc3", "kernel_not_transposed"),
        ("softmax", "forward", "inside", "", "softmax_for_log_softmax"),
        ("axis", "forward", "inside", "", "softmax_axis"),
        ("stop", "backward", "before", "fc2", "gradient_stopped"),
    ],
)
def test_a_mistake_is_found_at_its_place_and_named(
    mistake: str, direction: str, where: str, module: str, cause: str
) -> None:
    report = examined(mistake)
    place = report.first_divergence
    assert not report.passed
    assert place is not None
    assert (place.direction, place.where, place.module) == (direction, where, module)
    assert report.causes[0].name == cause
    assert "nothing else differs" in report.causes[0].evidence


def test_a_right_port_has_no_divergence_and_no_cause() -> None:
    report = examined()
    assert report.passed
    assert report.first_divergence is None
    assert report.causes == ()


def test_one_mistake_does_not_hide_those_behind_it() -> None:
    causes = [cause.name for cause in examined("epsilon", "tanh", "axis").causes]
    assert causes == ["norm_epsilon", "gelu_approximation", "softmax_axis"]


def test_what_fits_no_hypothesis_is_located_and_nothing_is_accused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compare.search._MOST_RERUNS", 400)  # an eighth of the search finds nothing either

    class Odd(FlaxBlock):
        def __call__(self, x: jax.Array) -> jax.Array:
            return super().__call__(x) + 0.01 * x[:, :4] ** 3

    report = compare.check(TorchBlock(), Odd(), INPUTS)
    assert report.first_divergence is not None
    assert report.first_divergence.module == ""
    assert report.causes == ()


def test_a_search_that_breaks_off_leaves_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no hooks here")

    monkeypatch.setattr("compare.checking.diagnose", broken)
    report = examined("epsilon")
    assert report.status == "failed"
    assert "no hooks here" in report.settings["diagnosis"]
