"""What differs only in training mode is placed and named: rates of dropout, the pace of running statistics."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from torch import nn

import compare

pytestmark = pytest.mark.usefixtures("small_programs")


class TorchNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.dropout = nn.Linear(5, 4), nn.BatchNorm1d(4, momentum=0.2), nn.Dropout(0.3)

    def forward(self, x: Any) -> Any:
        return self.dropout(self.norm(self.fc(x)))


class FlaxNet(nnx.Module):
    def __init__(self, momentum: float = 0.8, rate: float = 0.3) -> None:
        rngs = nnx.Rngs(0)
        self.fc = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=momentum, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.norm(self.fc(x)))


@pytest.mark.parametrize(
    ("mistake", "cause", "number"),
    [({"momentum": 0.9}, "batch_norm_momentum", "0.1 "), ({"rate": 0.5}, "dropout_rate", "0.5"), ({}, "", "")],
)
def test_training_mode(seeded: Any, mistake: dict[str, float], cause: str, number: str) -> None:
    x = np.random.default_rng(0).normal(size=(6, 5))
    report = compare.check(seeded(TorchNet), FlaxNet(**mistake), x, mode="train")
    assert report.passed == (not mistake), report.text()
    assert [found.name for found in report.causes] == ([cause] if cause else [])
    assert all(number in found.summary for found in report.causes)
    if cause == "dropout_rate":
        assert report.first_divergence is not None
        assert report.first_divergence.module == "dropout"
