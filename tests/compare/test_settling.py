"""A square matrix of the user's own: the computations decide which way round it is stored."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import compare


class TorchSquare(torch.nn.Module):
    """Two square matrices: one that is multiplied from the right, one in torch's own habit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = torch.nn.Parameter(torch.randn(5, 5))
        self.weight = torch.nn.Parameter(torch.randn(5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.mix) @ self.weight.T


class FlaxSquare(nnx.Module):
    """The port, which stores each matrix either way round."""

    def __init__(self, mix_as_torch: bool, kernel_as_torch: bool) -> None:
        self.as_torch = (mix_as_torch, kernel_as_torch)
        self.mix = nnx.Param(jax.numpy.zeros((5, 5)))
        self.kernel = nnx.Param(jax.numpy.zeros((5, 5)))

    def __call__(self, x: jax.Array) -> jax.Array:
        mix = self.mix[...] if self.as_torch[0] else self.mix[...].T
        kernel = self.kernel[...].T if self.as_torch[1] else self.kernel[...]
        return jax.numpy.tanh(x @ mix) @ kernel


INPUTS = np.random.default_rng(0).normal(size=(4, 5))


@pytest.mark.parametrize("mix_as_torch", [True, False])
@pytest.mark.parametrize("kernel_as_torch", [True, False])
def test_either_way_round_is_a_right_port(mix_as_torch: bool, kernel_as_torch: bool) -> None:
    report = compare.check(TorchSquare(), FlaxSquare(mix_as_torch, kernel_as_torch), INPUTS)
    assert report.passed, report.text()


def test_a_mistake_elsewhere_is_not_settled_away() -> None:
    class Wrong(FlaxSquare):
        def __call__(self, x: jax.Array) -> jax.Array:
            return super().__call__(x) + 1e-6 * x

    assert not compare.check(TorchSquare(), Wrong(True, True), INPUTS).passed


def test_a_convention_is_not_undecided(linear_net: Callable[[bool], nnx.Module]) -> None:
    torch_model = torch.nn.Sequential(torch.nn.Linear(5, 5))
    assert compare.check(torch_model, linear_net(False), INPUTS, mapping=MAPPING).passed
    assert not compare.check(torch_model, linear_net(True), INPUTS, mapping=MAPPING).passed


MAPPING = {"0.weight": "layer.kernel", "0.bias": "layer.bias"}


@pytest.fixture
def linear_net() -> Callable[[bool], nnx.Module]:
    """A linear layer that uses its kernel untransposed if told so: a mistake that no shape shows."""

    class Net(nnx.Module):
        def __init__(self, untransposed: bool) -> None:
            self.untransposed = untransposed
            self.layer = nnx.Linear(5, 5, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            kernel = self.layer.kernel[...]
            y = x @ (kernel.T if self.untransposed else kernel)
            assert self.layer.bias is not None
            return y + self.layer.bias[...]

    return Net
