"""Islands of lower precision in the torch model are lifted, and hide nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import compare

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")


class TorchIslands(torch.nn.Module):
    """Integer images cast by float(), an RMSNorm that upcasts, a float32 table and a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(6, 5)
        self.gain = torch.nn.Parameter(torch.rand(5) + 0.5)
        self.shift = torch.tensor([0.5, -0.25, 1.0, 2.0, 0.125])  # neither parameter nor buffer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.fc(images.float() / 255)
        y = x.to(torch.float32)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        table = torch.arange(5, dtype=torch.float32) / 4
        return self.gain * y.type_as(x) + self.shift * table


class FlaxIslands(nnx.Module):
    def __init__(self, epsilon: float) -> None:
        self.fc = nnx.Linear(6, 5, rngs=nnx.Rngs(0))
        self.gain = nnx.Param(jnp.ones(5))
        self.epsilon = epsilon

    def __call__(self, images: jax.Array) -> jax.Array:
        y = self.fc(images.astype(jnp.float32) / 255).astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + self.epsilon)
        return self.gain[...] * y + jnp.array([0.5, -0.25, 1.0, 2.0, 0.125]) * jnp.arange(5.0) / 4


IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6)).astype(np.uint8)


def test_a_right_port_with_islands_passes(seeded: Any) -> None:
    report = compare.check(seeded(TorchIslands), FlaxIslands(1e-6), IMAGES)
    assert report.passed, report.text()


def test_an_epsilon_behind_an_island_is_caught(seeded: Any) -> None:
    assert compare.check(seeded(TorchIslands), FlaxIslands(1.1e-6), IMAGES).status == "failed"


def test_an_epsilon_that_depends_on_the_dtype_is_float32s(seeded: Any, rows: Any) -> None:
    class Net(nnx.Module):
        def __init__(self, epsilon: float) -> None:
            self.norm = nnx.RMSNorm(7, epsilon=epsilon, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(x)

    class TorchNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.RMSNorm(7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x)

    right = float(np.finfo(np.float32).eps)
    assert compare.check(seeded(TorchNet), Net(right), rows(4, 7)).check("outputs").status == "passed"
    assert compare.check(seeded(TorchNet), Net(1e-6), rows(4, 7)).check("outputs").status == "failed"
