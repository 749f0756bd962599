"""Calls of another size than the user's, and what a port returns them in."""

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

RNGS = nnx.Rngs(0)
LENGTH = 6


class TorchTokens(nn.Module):
    """Each token with the mean of those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(11, 5), nn.Linear(5, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        seen = torch.ones(ids.shape[1], ids.shape[1]).tril()
        return self.fc(seen @ self.embed(ids) / seen.sum(1, keepdim=True))


class Tokens(nnx.Module):
    def __init__(self, length: int | None) -> None:
        self.embed, self.fc, self.length = nnx.Embed(11, 5, rngs=RNGS), nnx.Linear(5, 3, rngs=RNGS), length

    def __call__(self, ids: jax.Array) -> jax.Array:
        seen = jnp.tril(jnp.ones((self.length or ids.shape[1],) * 2))
        return self.fc(seen @ self.embed(ids) / seen.sum(1, keepdims=True))


@pytest.mark.parametrize("length", [None, LENGTH])
def test_a_length_that_is_fixed_in_the_code(length: int | None, seeded: Any) -> None:
    ids = np.random.default_rng(0).integers(0, 11, (2, LENGTH))
    report = compare.check(seeded(TorchTokens), Tokens(length), ids)
    assert report.status == ("passed" if length is None else "failed"), report.text()
    assert ("axes of 6 one shorter" in report.check("outputs").detail) == (length is not None)


def padded(y: jax.Array) -> jax.Array:
    return jnp.zeros((len(y), LENGTH, 3)).at[:, : y.shape[1]].set(y)


def every_second(y: jax.Array) -> jax.Array:
    return jnp.pad(y, ((0, 0), (0, y.shape[1] % 2), (0, 0)))[:, ::2][:, : LENGTH // 2]


# What becomes of samples x length x features in torch and in Flax, the verdict, and what the report says of outputs.
SEQUENCES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str, str]] = {
    "alike": (lambda y: y, lambda y: y, "passed", "agrees over"),
    "of one length, silently": (lambda y: y, padded, "failed", "differ"),
    "of one length, refused": (lambda y: y, lambda y: y.reshape(-1, LENGTH, 3), "passed", "one shorter"),
    "an odd length, rounded otherwise": (lambda y: y[:, : y.shape[1] // 2 * 2 : 2], every_second, "passed", "length"),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_of_another_length(name: str, seeded: Any, rows: Any) -> None:
    torch_function, flax_function, status, words = SEQUENCES[name]
    report = compare.check(seeded(lambda: TorchApplied(torch_function)), Applied(flax_function), rows(2, LENGTH, 5))
    assert report.status == status, report.text()
    assert words in report.check("outputs").detail


class Caching(nnx.Module):
    """Keeps what it last returned; ``samples`` stands in the code, or only in the cache.

    ``off`` is what it adds for each sample more or less than the cache was made for.
    """

    def __init__(self, samples: int | None, off: float = 0.0) -> None:
        self.fc, self.samples, self.off = nnx.Linear(5, 3, rngs=RNGS), samples, off
        self.cache = nnx.Variable(jnp.zeros((4, 3)))

    def __call__(self, x: jax.Array) -> jax.Array:
        kept = self.cache[...] * 0 + self.fc(x) + self.off * (len(x) - 4)
        self.cache[...] = kept
        return kept if self.samples is None else kept.reshape(self.samples, 3)


@pytest.mark.parametrize("samples", [None, 4])
def test_a_cache_is_no_excuse_for_a_number_of_samples_in_the_code(samples: int | None, seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(lambda: TorchApplied(lambda y: y)), Caching(samples), rows(4, 5))
    assert report.status == ("passed" if samples is None else "failed"), report.text()
    wrong = compare.check(seeded(lambda: TorchApplied(lambda y: y)), Caching(None, off=1e-6), rows(4, 5))
    assert wrong.status == "failed", wrong.text()


# What torch returns, what Flax returns of the same, and the verdict.
RETURNED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
    "a tuple for a dictionary": (lambda y: {"value": y, "sum": y.sum(-1)}, lambda y: (y, y.sum(-1)), "passed"),
    "other keys": (lambda y: {"y": y, "sum": y.sum(-1)}, lambda y: {"y": y, "total": y.sum(-1)}, "passed"),
    "in the other order": (lambda y: {"a": y, "b": 2 * y}, lambda y: (2 * y, y), "failed"),
    "one too few": (lambda y: (y, 2 * y), lambda y: y, "failed"),
    "whole numbers": (lambda y: y.argmax(-1), lambda y: jnp.argmax(y, -1), "passed"),
    "other whole numbers": (lambda y: y.argmax(-1), lambda y: jnp.argmin(y, -1), "failed"),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_is_returned(name: str, seeded: Any, rows: Any) -> None:
    torch_function, flax_function, status = RETURNED[name]
    report = compare.check(seeded(lambda: TorchApplied(torch_function)), Applied(flax_function), rows(4, 5))
    assert report.status == status, report.text()
    if name == "whole numbers":
        assert "not judged: gradients (whole numbers" in report.text().splitlines()[0]
