"""What the search sees beyond one mistake at one call: ids, 16-bit casts, mistakes behind one that nothing explains."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

import compare
from compare.solving import solve

pytestmark = pytest.mark.usefixtures("small_programs")


class TorchWords(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.fc = torch.nn.Embedding(9, 6), torch.nn.Linear(6, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.fc(self.embed(ids).mean(1))


class FlaxWords(nnx.Module):
    def __init__(self, before: Callable[[jax.Array], jax.Array], after: Callable[[jax.Array], jax.Array]) -> None:
        self.embed, self.fc = nnx.Embed(9, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 4, rngs=nnx.Rngs(1))
        self.before, self.after = before, after

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.fc(self.after(self.embed(self.before(ids))).mean(1))


@pytest.mark.parametrize(("wrong", "where", "module"), [("ids", "before", "embed"), ("rows", "before", "fc")])
def test_ids_that_differ_are_a_difference_before_the_embedding(wrong: str, where: str, module: str) -> None:
    flax = FlaxWords(
        (lambda ids: jnp.maximum(ids - 1, 0)) if wrong == "ids" else (lambda ids: ids),
        (lambda rows: 2 * rows) if wrong == "rows" else (lambda rows: rows),
    )
    ids = np.random.default_rng(0).integers(0, 9, (3, 5))
    place = compare.check(TorchWords(), flax, ids, ranges={"0": (0, 8)}).first_divergence
    assert place is not None
    assert (place.where, place.module) == (where, module)


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2, self.fc3 = torch.nn.Linear(5, 7), torch.nn.Linear(7, 6), torch.nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(F.gelu(self.fc2(torch.tanh(self.fc1(x)))))


class FlaxNet(nnx.Module):
    def __init__(self, code: Callable[[jax.Array], jax.Array], approximate: bool = False) -> None:
        rngs = nnx.Rngs(0)
        self.fc1, self.fc2, self.fc3 = (nnx.Linear(a, b, rngs=rngs) for a, b in ((5, 7), (7, 6), (6, 3)))
        self.code, self.approximate = code, approximate

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc3(jax.nn.gelu(self.fc2(self.code(self.fc1(x))), approximate=self.approximate))


INPUTS = np.random.default_rng(0).normal(size=(4, 5))


def strange(x: jax.Array) -> jax.Array:
    """Nobody's mistake: no hypothesis holds it."""
    return jnp.tanh(x) + 0.1 * jnp.sin(3 * x) * jnp.cos(x) ** 2


def test_a_mistake_behind_one_that_nothing_explains_is_named() -> None:
    report = compare.check(TorchNet(), FlaxNet(strange, approximate=True), INPUTS)
    place = report.first_divergence
    assert place is not None
    assert (place.where, place.module) == ("before", "fc2")
    assert [cause.name for cause in report.causes] == ["gelu_approximation"]
    assert "before fc2: nothing in the bank explains it" in report.settings["diagnosis"]


def test_behind_one_that_nothing_explains_a_right_rest_is_not_accused() -> None:
    report = compare.check(TorchNet(), FlaxNet(strange), INPUTS)
    assert not report.passed
    assert not report.causes


def test_a_cast_to_16_bits_has_a_place_and_a_name() -> None:
    report = compare.check(TorchNet(), FlaxNet(lambda x: jnp.tanh(x.astype(jnp.bfloat16)).astype(x.dtype)), INPUTS)
    place = report.first_divergence
    assert place is not None
    assert (place.where, place.module) == ("before", "fc2")
    assert [cause.name for cause in report.causes] == ["lower_precision"]


def test_a_number_is_found_though_the_first_step_leaves_the_domain() -> None:
    # Newton's first step from 2 towards the root of 1/x - 1 ends at 0, where there is no value.
    found = solve(lambda x: np.array([1 / x - 1]) if x > 0 else None, 2.0, 1e-6, 1e-12)
    assert found == pytest.approx(1.0, abs=1e-9)
