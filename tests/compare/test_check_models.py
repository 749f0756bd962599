"""Parameters that one side lacks, shapes, random references, and models that are left as they were."""

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import compare
from tests.compare.applied import Applied, TorchApplied

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")

Array = jax.Array
RNGS = nnx.Rngs(0)


class TorchMasked(nn.Module):
    """A layer with a buffer that is no parameter."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)
        self.register_buffer("mask", torch.tensor([True, False, True]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.mask


class FlaxMasked(nnx.Module):
    def __init__(self, kind: Callable[[Array], Any], extra: bool = False, bias: bool = True, features: int = 5) -> None:
        self.fc = nnx.Linear(features, 3, use_bias=bias, rngs=RNGS)
        self.mask = kind(jnp.array([1.0, 1.0, 1.0]) > 0)
        if extra:
            self.gain = nnx.Param(jnp.ones(3))

    def __call__(self, x: Array) -> Array:
        y = self.fc(x) * self.mask[...]
        return y * self.gain[...] if hasattr(self, "gain") else y


def failed(report: compare.Report) -> set[str]:
    assert not report.passed
    return {check.name for check in report.checks if check.status == "failed"}


def test_a_buffer_in_its_place_passes(seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(TorchMasked), FlaxMasked(nnx.Variable), rows(4, 5))
    assert report.passed, report.text()
    assert report.numbers["parameters"]["flax"] == 18


def test_a_buffer_among_the_parameters_fails(seeded: Any, rows: Any) -> None:
    port = FlaxMasked(lambda mask: nnx.Param(mask.astype(float)))
    report = compare.check(seeded(TorchMasked), port, rows(4, 5))
    assert "parameters" in failed(report)
    assert "torch 18, flax 21" in report.check("parameters").detail
    assert "a buffer in torch (mask), a parameter in Flax" in report.text()


def test_an_extra_parameter_fails(seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(TorchMasked), FlaxMasked(nnx.Variable, extra=True), rows(4, 5))
    assert {"weights", "parameters"} <= failed(report)
    assert "gain: Flax has it, shape (3,)" in report.text()


def test_a_missing_parameter_fails(seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(TorchMasked), FlaxMasked(nnx.Variable, bias=False), rows(4, 5))
    assert {"weights", "parameters", "outputs"} <= failed(report)
    assert "fc.bias: torch has it, shape (3,)" in report.text()


def test_a_misshapen_parameter_fails(seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(TorchMasked), FlaxMasked(nnx.Variable, features=4), rows(4, 5))
    assert "weights" in failed(report)
    assert "fc.kernel: expected shape (5, 3) from fc.weight, found (4, 3)" in report.text()


def test_weights_as_they_stand_are_compared(seeded: Any, rows: Any) -> None:
    model, port = seeded(TorchMasked), FlaxMasked(nnx.Variable)
    report = compare.check(model, port, rows(4, 5), weights=None)
    assert failed(report) == {"weights"}  # the code is right, the values are not
    from compare.conversion import convert

    convert(model, port)
    assert compare.check(model, port, rows(4, 5), weights=None).passed
    port.fc.kernel[...] = port.fc.kernel[...].at[0, 0].multiply(1.000001)
    assert failed(compare.check(model, port, rows(4, 5), weights=None)) == {"weights"}


def test_another_shape_of_the_same_numbers_fails(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: TorchApplied(lambda y: y[:, :1]))
    assert compare.check(model, Applied(lambda y: y[:, :1]), rows(4, 5)).passed
    report = compare.check(model, Applied(lambda y: y[:, 0]), rows(4, 5))
    assert "outputs" in failed(report)
    assert "expected shape (4, 1), found (4,)" in report.text()


def test_one_output_more_or_less_fails(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: TorchApplied(lambda y: (y, 2 * y)))
    assert compare.check(model, Applied(lambda y: (y, 2 * y)), rows(4, 5)).passed
    for function in (lambda y: (y,), lambda y: (y, 2 * y, 3 * y)):
        assert "outputs" in failed(compare.check(model, Applied(function), rows(4, 5)))


def test_outputs_under_names_are_those_of_a_tuple_in_order(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: TorchApplied(lambda y: (y, 2 * y)))
    assert compare.check(model, Applied(lambda y: {"a": y, "b": 2 * y}), rows(4, 5)).passed
    assert "outputs" in failed(compare.check(model, Applied(lambda y: {"a": 2 * y, "b": y}), rows(4, 5)))


def test_names_that_contradict_the_order_are_other_outputs(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: TorchApplied(lambda y: {"start": y, "end": 2 * y}))
    assert compare.check(model, Applied(lambda y: {"start_logits": y, "end_logits": 2 * y}), rows(4, 5)).passed
    exchanged = Applied(lambda y: {"end_logits": y, "start_logits": 2 * y})
    assert "outputs" in failed(compare.check(model, exchanged, rows(4, 5)))


def test_a_mask_or_a_limit_that_only_probes_reach_is_no_choice_among_equals(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: TorchApplied(lambda y: (y, y > 50, y.masked_fill(y > 50, -torch.inf))))
    right = Applied(lambda y: (y, y > 50, jnp.where(y > 50, -jnp.inf, y)))
    assert compare.check(model, right, rows(4, 5)).passed
    unmasked = Applied(lambda y: (y, y > 50, y))
    assert "outputs" in failed(compare.check(model, unmasked, rows(4, 5)))
    unlimited = Applied(lambda y: (y, y > 1e9, jnp.where(y > 50, -jnp.inf, y)))
    assert "outputs" in failed(compare.check(model, unlimited, rows(4, 5)))


def test_integers_and_decisions_are_compared_exactly(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: TorchApplied(lambda y: (y, y.argmax(dim=1), y > 0)))
    assert compare.check(model, Applied(lambda y: (y, y.argmax(axis=1), y > 0)), rows(4, 5)).passed
    wrong: list[Callable[[Array], Any]] = [
        lambda y: (y, y.argmin(axis=1), y > 0),
        lambda y: (y, y.argmax(axis=1).astype(float), y > 0),
        lambda y: (y, y.argmax(axis=1), y >= 0.5),
    ]
    for function in wrong:
        assert "outputs" in failed(compare.check(model, Applied(function), rows(4, 5)))


def test_nan_passes_on_no_side_alone(seeded: Any, rows: Any) -> None:
    both = seeded(lambda: TorchApplied(lambda y: torch.log(y)))
    x = rows(8, 5)
    torch_nan = compare.check(both, Applied(lambda y: jnp.log(jnp.abs(y))), x)
    flax_nan = compare.check(seeded(lambda: TorchApplied(lambda y: torch.log(y.abs()))), Applied(jnp.log), x)
    assert "outputs" in failed(torch_nan)
    assert "outputs" in failed(flax_nan)
    assert compare.check(both, Applied(jnp.log), x).check("outputs").status == "passed"  # at the same places


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_random_reference_is_wrong_usage_not_a_verdict(seeded: Any, rows: Any, mode: Any) -> None:
    model = seeded(lambda: TorchApplied(lambda y: y + 1e-6 * torch.randn_like(y)))
    with pytest.raises(compare.UsageError, match="random numbers of its own"):
        compare.check(model, Applied(lambda y: y), rows(4, 5), mode=mode)


def _state(model: nn.Module, port: nnx.Module) -> list[Any]:
    kept = [copy.deepcopy(model.state_dict()), [p.grad for p in model.parameters()], model.training]
    flax = [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(port, nnx.Not(nnx.RngState)))]
    modes = [getattr(module, "deterministic", None) for _, module in nnx.iter_modules(port)]
    switches = [torch.get_default_dtype(), jax.config.read("jax_enable_x64"), torch.is_grad_enabled()]
    numbers = [torch.get_rng_state()]
    return [*kept, flax, modes, switches, numbers, [len(m._forward_hooks) for m in model.modules()]]


class Noisy(nnx.Module):
    """Batch norm and dropout with state of its own."""

    def __init__(self, fail: bool = False, epsilon: float = 1e-5) -> None:
        self.fc, self.dropout = nnx.Linear(5, 3, rngs=RNGS), nnx.Dropout(0.5, rngs=nnx.Rngs(3))
        self.norm = nnx.BatchNorm(3, epsilon=epsilon, use_fast_variance=False, momentum=0.9, rngs=RNGS)
        self.fail = fail

    def __call__(self, x: Array) -> Array:
        if self.fail:
            raise RuntimeError("on purpose")
        return self.dropout(self.norm(self.fc(x)))


class TorchNoisy(nn.Module):
    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.fc, self.norm, self.dropout = nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.fail = fail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.rand(1)
        if self.fail and x.dtype == torch.float64:
            raise RuntimeError("on purpose")
        return self.dropout(self.norm(self.fc(x)))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("outcome", ["passed", "failed", "flax raises", "torch raises"])
def test_check_changes_neither_model_nor_any_switch(seeded: Any, rows: Any, mode: Any, outcome: str) -> None:
    model = seeded(lambda: TorchNoisy(fail=outcome == "torch raises"))
    port = Noisy(fail=outcome == "flax raises", epsilon=1e-2 if outcome == "failed" else 1e-5)
    before = _state(model, port)
    if outcome == "torch raises":
        with pytest.raises(compare.UsageError, match="RuntimeError: on purpose"):
            compare.check(model, port, rows(6, 5), mode=mode)
    else:
        report = compare.check(model, port, rows(6, 5), mode=mode)
        assert report.passed == (outcome == "passed"), report.text()
    assert_same(before, _state(model, port))


def assert_same(before: Any, after: Any) -> None:
    for left, right in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.array_equal(np.asarray(left), np.asarray(right)) if hasattr(left, "shape") else left == right
