"""bfloat16 where both sides use it, and tables that one side holds in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

import compare

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")

RNGS = nnx.Rngs(0)


class TorchNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.log_softmax(self.fc2(0.1 * F.silu(self.norm(self.fc1(x)))), -1)


class FlaxNet(nnx.Module):
    def __init__(self, epsilon: float, **dtypes: Any) -> None:
        self.fc1, self.fc2 = nnx.Linear(6, 9, rngs=RNGS, **dtypes), nnx.Linear(9, 4, rngs=RNGS, **dtypes)
        self.norm = nnx.LayerNorm(9, epsilon=epsilon, use_fast_variance=False, rngs=RNGS, **dtypes)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(self.fc2(0.1 * jax.nn.silu(self.norm(self.fc1(x)))))


BOTH = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}


def test_bfloat16_on_both_sides(seeded: Any, rows: Any) -> None:
    model = seeded(TorchNet).bfloat16()
    report = compare.check(model, FlaxNet(1e-5, **BOTH), rows(4, 6))
    assert report.passed, report.text()
    assert report.check("precision").status == "passed"
    wrong = compare.check(model, FlaxNet(1e-6, **BOTH), rows(4, 6))
    assert wrong.check("outputs").status == "failed", wrong.text()
    assert {leaf.constants for leaf in wrong.check("outputs").leaves} == {False}


def test_bfloat16_in_flax_alone_is_less_accurate(seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(TorchNet), FlaxNet(1e-5, **BOTH), rows(4, 6))
    assert report.check("precision").status == "failed", report.text()


class TorchSines(nn.Module):
    """Positions by a table of sines, built once."""

    def __init__(self) -> None:
        super().__init__()
        frequencies = 10000.0 ** (-torch.arange(0, 6, 2) / 6)
        angles = 30 * torch.arange(7)[:, None] * frequencies
        self.table: torch.Tensor
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], 1))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x + self.table)


class FlaxSines(nnx.Module):
    """The same on each call."""

    def __init__(self, base: float) -> None:
        self.base, self.fc = base, nnx.Linear(6, 4, rngs=RNGS)

    def __call__(self, x: jax.Array) -> jax.Array:
        frequencies = self.base ** (-jnp.arange(0, 6, 2) / 6)
        angles = 30 * jnp.arange(7)[:, None] * frequencies
        return self.fc(x + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], 1))


def test_a_table_that_rounds_on_one_side_alone(seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(TorchSines), FlaxSines(10000.0), rows(2, 7, 6))
    assert report.check("outputs").status == "constants", report.text()
    assert "buffer table" in report.check("outputs").detail
    wrong = compare.check(seeded(TorchSines), FlaxSines(10001.0), rows(2, 7, 6))
    assert wrong.check("outputs").status == "failed"


class TorchHard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 9), nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.hardsigmoid(self.fc1(x)))


class FlaxHard(nnx.Module):
    def __init__(self, slope: float) -> None:
        self.fc1, self.fc2, self.slope = nnx.Linear(6, 9, rngs=RNGS), nnx.Linear(9, 4, rngs=RNGS), slope

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jnp.clip(self.fc1(x) * self.slope + 0.5, 0, 1))


def test_a_constant_that_torch_holds_in_float32_is_conceded(seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(TorchHard), FlaxHard(1 / 6), rows(4, 6))
    assert report.passed, report.text()
    assert "1/6" in report.check("gradients").detail
    assert compare.check(seeded(TorchHard), FlaxHard(0.2), rows(4, 6)).status == "failed"
