"""Each mistake in a port fails the check that it should; the same port without it passes."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

import compare

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")

Array = jax.Array


class TorchDense(nn.Module):
    """5-7-7-7-3 with every kind of step that ports get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.fc4 = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(self.fc1(x))
        h = h + F.leaky_relu(self.fc2(h), 0.01)
        h = F.relu(self.fc3(h))
        return F.log_softmax(0.5 * self.fc4(h), dim=-1)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of the port, right by default."""

    first: Callable[..., Array] = lambda fc, x: fc(x)
    gelu: Callable[[Array], Array] = lambda x: jax.nn.gelu(x, approximate=False)
    leaky: Callable[[Array], Array] = lambda x: jax.nn.leaky_relu(x, 0.01)
    residual: Callable[[Array, Array], Array] = lambda x, y: x + y
    relu: Callable[[Array], Array] = jax.nn.relu
    order: tuple[str, str] = ("fc2", "fc3")
    head: Callable[[Array], Array] = lambda y: jax.nn.log_softmax(0.5 * y, axis=-1)


class FlaxDense(nnx.Module):
    """The port, with the steps it is given."""

    def __init__(self, steps: Steps) -> None:
        rngs = nnx.Rngs(0)
        self.steps = steps
        self.fc1, self.fc2 = nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 7, rngs=rngs)
        self.fc3, self.fc4 = nnx.Linear(7, 7, rngs=rngs), nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        steps = self.steps
        h = steps.gelu(steps.first(self.fc1, x))
        h = steps.residual(h, steps.leaky(getattr(self, steps.order[0])(h)))
        h = steps.relu(getattr(self, steps.order[1])(h))
        return steps.head(self.fc4(h))


@jax.custom_vjp
def _clipped(x: Array) -> Array:
    return x


_clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.01, 0.01),))


DENSE_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "dropped bias": ({"first": lambda fc, x: x @ fc.kernel[...]}, "outputs"),
    "doubled bias": ({"first": lambda fc, x: fc(x) + fc.bias[...]}, "outputs"),
    "tanh form of GELU": ({"gelu": lambda x: jax.nn.gelu(x, approximate=True)}, "outputs"),
    "slope of leaky ReLU": ({"leaky": lambda x: jax.nn.leaky_relu(x, 0.011)}, "outputs"),
    "missing ReLU": ({"relu": lambda x: x}, "outputs"),
    "missing residual": ({"residual": lambda x, y: y}, "outputs"),
    "residual of the wrong branch": ({"residual": lambda x, y: y + y}, "outputs"),
    "swapped layers of equal shape": ({"order": ("fc3", "fc2")}, "outputs"),
    "softmax for log_softmax": ({"head": lambda y: jax.nn.softmax(0.5 * y, axis=-1)}, "outputs"),
    "softmax over the batch": ({"head": lambda y: jax.nn.log_softmax(0.5 * y, axis=0)}, "outputs"),
    "missing output scale": ({"head": lambda y: jax.nn.log_softmax(y, axis=-1)}, "outputs"),
    "stop_gradient": ({"residual": lambda x, y: jax.lax.stop_gradient(x) + y}, "gradients"),
    "half a gradient": ({"residual": lambda x, y: (x + jax.lax.stop_gradient(x)) / 2 + y}, "gradients"),
    "clipped gradient": ({"relu": lambda x: _clipped(jax.nn.relu(x))}, "gradients"),
    "naive logarithm of softmax": ({"head": lambda y: jnp.log(jax.nn.softmax(0.5 * y, axis=-1))}, "precision"),
    "transposed output": ({"head": lambda y: jax.nn.log_softmax(0.5 * y, axis=-1).T}, "outputs"),
    "NaN on one side": ({"head": lambda y: jax.nn.log_softmax(0.5 * y, axis=-1).at[0, 1].set(jnp.nan)}, "outputs"),
}


@pytest.fixture(scope="module")
def dense(seeded: Any, rows: Any) -> tuple[nn.Module, np.ndarray]:
    return seeded(TorchDense), rows(4, 5)


def test_the_right_dense_port_passes(dense: Any) -> None:
    report = compare.check(dense[0], FlaxDense(Steps()), dense[1])
    assert report.passed, report.text()


@pytest.mark.parametrize("mistake", DENSE_MISTAKES)
def test_a_mistake_in_a_dense_port_fails(dense: Any, mistake: str) -> None:
    change, check = DENSE_MISTAKES[mistake]
    report = compare.check(dense[0], FlaxDense(Steps(**change)), dense[1])
    assert_fails(report, check)


def assert_fails(report: compare.Report, check: str) -> None:
    """The named check fails; where it is not about outputs, these agree."""
    assert report.check(check).status == "failed", report.text()
    assert not report.passed
    assert report.status == "failed"
    if check in ("gradients", "precision", "statistics"):
        assert report.check("outputs").status == "passed", report.text()
    with pytest.raises(AssertionError, match=check):
        report.raise_for_failure()


MAPPINGS: dict[str, Mapping[str, Any]] = {
    "square kernel untransposed": {"fc2.weight": ("fc2.kernel", lambda w: w)},
    "kernels of two layers exchanged": {"fc2.weight": "fc3.kernel", "fc3.weight": "fc2.kernel"},
    "biases of two layers exchanged": {"fc1.bias": "fc2.bias", "fc2.bias": "fc1.bias"},
    "scaled kernel": {"fc1.weight": ("fc1.kernel", lambda w: 1.0000001 * w.T)},
}


@pytest.mark.parametrize("mistake", MAPPINGS)
def test_a_wrong_mapping_fails(dense: Any, mistake: str) -> None:
    report = compare.check(dense[0], FlaxDense(Steps()), dense[1], mapping=MAPPINGS[mistake])
    assert_fails(report, "outputs")


def test_a_right_mapping_by_functions_passes(dense: Any) -> None:
    mapping = {"fc2.weight": ("fc2.kernel", lambda w: w.T), "fc1.bias": "fc1.bias"}
    report = compare.check(dense[0], FlaxDense(Steps()), dense[1], mapping=mapping)
    assert report.passed, report.text()


class FlaxNorm(nnx.Module):
    """LayerNorm, then a head."""

    def __init__(self, **settings: Any) -> None:
        self.norm = nnx.LayerNorm(6, rngs=nnx.Rngs(0), **{"epsilon": 1e-5, "use_fast_variance": False, **settings})
        self.fc = nnx.Linear(6, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        return self.fc(self.norm(x))


def _torch_norm(seeded: Any) -> nn.Module:
    model = seeded(lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3)))
    return nn.Sequential(OrderedDict(norm=model[0], fc=model[1]))


def test_a_fast_variance_fails_where_the_users_own_inputs_have_a_large_mean(seeded: Any, rows: Any) -> None:
    model, port = _torch_norm(seeded), FlaxNorm(use_fast_variance=True)
    assert_fails(compare.check(model, port, 300 + rows(4, 6)), "precision")
    report = compare.check(model, port, rows(4, 6))
    assert report.passed, report.text()
    assert report.check("precision").status == "noted"
    assert "fast_variance" in [cause.name for cause in report.causes]
    assert_fails(compare.check(model, port, rows(4, 6), strict=True), "precision")


@pytest.mark.parametrize(
    ("settings", "check"),
    [
        ({}, None),
        ({"epsilon": 1e-6}, "outputs"),
        ({"epsilon": 1e-12}, "outputs"),
    ],
    ids=["right", "epsilon 1e-6", "epsilon 1e-12"],
)
def test_layer_norm(seeded: Any, rows: Any, settings: dict[str, Any], check: str | None) -> None:
    report = compare.check(_torch_norm(seeded), FlaxNorm(**settings), rows(4, 6))
    if check is None:
        assert report.passed, report.text()
    else:
        assert_fails(report, check)


class FlaxGate(nnx.Module):
    """A ReLU on the inputs themselves, so that probes reach its kink."""

    def __init__(self, relu: Callable[[Array], Array]) -> None:
        self.relu, self.fc = relu, nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        return self.fc(self.relu(x))


class TorchGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.relu(x))


def test_another_gradient_at_zero_is_noted_and_fails_only_when_strict(seeded: Any, rows: Any) -> None:
    model, x = seeded(TorchGate), rows(4, 5)
    maximum = FlaxGate(lambda x: jnp.maximum(x, 0.0))
    report = compare.check(model, maximum, x)
    assert report.check("gradients").status == "noted", report.text()
    assert "only at ties" in report.check("gradients").detail
    assert report.passed
    assert_fails(compare.check(model, maximum, x, strict=True), "gradients")
    right = compare.check(model, FlaxGate(jax.nn.relu), x, strict=True)
    assert right.check("gradients").status == "passed", right.text()


def test_an_expected_failure_is_a_note_with_its_reason(seeded: Any, rows: Any) -> None:
    model, x = seeded(TorchGate), rows(4, 5)
    wrong = FlaxGate(lambda x: x)
    excused = {"outputs": "the port is linear on purpose", "gradients": "likewise", "precision": "likewise"}
    report = compare.check(model, wrong, x, expected_failures=excused)
    assert report.check("outputs").status == "noted"
    assert "linear on purpose" in report.check("outputs").detail
    assert_fails(compare.check(model, wrong, x), "outputs")
