"""Ties and exact zeros in the user's own inputs: where right ports may choose another subgradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import compare

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(x))


class FlaxNet(nnx.Module):
    def __init__(self, activation: Callable[[jax.Array], jax.Array]) -> None:
        self.fc = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.activation(x))


WITH_ZEROS = np.round(np.random.default_rng(0).standard_normal((5, 6)))


def test_another_subgradient_at_zero_is_noted(seeded: Any) -> None:
    report = compare.check(seeded(TorchNet), FlaxNet(lambda x: jnp.maximum(x, 0)), WITH_ZEROS)
    assert report.passed, report.text()
    assert report.check("gradients").status == "noted"
    strict = compare.check(seeded(TorchNet), FlaxNet(lambda x: jnp.maximum(x, 0)), WITH_ZEROS, strict=True)
    assert strict.check("gradients").status == "failed"


def test_a_mistake_off_the_ties_is_no_note(seeded: Any) -> None:
    leaky = FlaxNet(lambda x: jnp.maximum(x, 1e-3 * x))
    assert compare.check(seeded(TorchNet), leaky, WITH_ZEROS).check("gradients").status == "failed"


def test_nan_in_the_inputs_is_refused(seeded: Any) -> None:
    inputs = np.full((5, 6), 0.5)
    inputs[2, 3] = np.nan
    with pytest.raises(compare.UsageError, match=r"inputs: 0 holds NaN at \[2, 3\]"):
        compare.check(seeded(TorchNet), FlaxNet(jax.nn.relu), inputs)


def test_a_layer_of_another_name_is_found_where_its_shape_leaves_no_choice(seeded: Any) -> None:
    class Renamed(FlaxNet):
        def __init__(self) -> None:
            super().__init__(jax.nn.relu)
            self.head = self.fc
            del self.fc

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(jax.nn.relu(x))

    assert compare.check(seeded(TorchNet), Renamed(), WITH_ZEROS).passed
    swapped = {"fc.weight": "head.bias"}
    assert not compare.check(seeded(TorchNet), Renamed(), WITH_ZEROS, mapping=swapped).passed
