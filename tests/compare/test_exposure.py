"""Mistakes that the user's own inputs do not show, and right ports that the probes must not blame."""

from collections.abc import Callable
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
from tests.compare.applied import Applied

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")

RNGS = nnx.Rngs(0)
Function = Callable[[Any], Any]


def same(x: Any) -> Any:
    return x


class TorchNet(nn.Module):
    """A norm that brings every input to unit size, so that only the weights can drive what comes after it."""

    def __init__(self, middle: Function) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(5), nn.Linear(5, 7), nn.Linear(7, 3)
        self.middle = middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.middle(self.fc1(self.norm(x))))


class FlaxNet(nnx.Module):
    def __init__(self, middle: Function) -> None:
        self.norm = nnx.LayerNorm(5, epsilon=1e-5, use_fast_variance=False, rngs=RNGS)
        self.fc1, self.fc2 = nnx.Linear(5, 7, rngs=RNGS), nnx.Linear(7, 3, rngs=RNGS)
        self.middle = nnx.static(middle) if hasattr(nnx, "static") else middle

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(self.middle(self.fc1(self.norm(x))))


def loop(x: jax.Array, steps: int = 3) -> jax.Array:
    """Halved ``steps`` times, in a loop that JAX can't differentiate backward."""
    return jax.lax.while_loop(lambda s: s[0] < steps, lambda s: (s[0] + 1, s[1] / 2), (0, x))[1]


def woken(threshold: float) -> Function:
    """Units that are dead up to ``threshold``."""
    return lambda x: torch.relu(x.abs() - threshold)


def jax_woken(threshold: float) -> Function:
    return lambda x: jax.nn.relu(jnp.abs(x) - threshold)


# What stands between the two layers in torch and in Flax, how many samples there are, and the verdict.
MIDDLES: dict[str, tuple[Function, Function, int, str]] = {
    "relu6": (F.relu6, jax.nn.relu6, 4, "passed"),
    "relu6 without its bound": (F.relu6, jax.nn.relu, 4, "failed"),
    "soft cap": (lambda x: 50 * torch.tanh(x / 50), lambda x: 50 * jnp.tanh(x / 50), 4, "passed"),
    "soft cap left out": (lambda x: 50 * torch.tanh(x / 50), same, 4, "failed"),
    "softplus, which torch cuts at 20": (F.softplus, jax.nn.softplus, 4, "passed"),
    "relu for softplus": (F.softplus, jax.nn.relu, 4, "failed"),
    "a batch that is fixed": (same, lambda x: x.reshape(4, 7), 4, "failed"),
    "a batch that is fixed in torch too": (lambda x: x.reshape(4, 7), lambda x: x.reshape(4, 7), 4, "passed"),
    "squeezed away with one sample": (lambda x: x.unsqueeze(1).squeeze(1), lambda x: x.squeeze(), 4, "failed"),
    "the mean over a batch of one": (torch.tanh, lambda x: 2 * jnp.tanh(x) - jnp.tanh(x).mean(0), 1, "failed"),
    "a batch of one": (torch.tanh, jnp.tanh, 1, "passed"),
    "a batch that can only be one": (lambda x: x.reshape(1, 7), lambda x: x.reshape(1, 7), 1, "inconclusive"),
    "a dead unit": (lambda x: torch.relu(x - 1e7), lambda x: jax.nn.relu(x - 1e7), 4, "inconclusive"),
    "units that only the farthest drive wakes": (woken(2e4), jax_woken(2e4), 4, "inconclusive"),
    "units that a drive wakes": (woken(100), jax_woken(100), 4, "passed"),
    "NaN at values of 1e5": (same, lambda x: jnp.where(jnp.abs(x) > 3e4, jnp.nan, x), 4, "failed"),
    "an exponential without a guard in torch": (lambda x: (1 + x.exp()).log(), jax.nn.softplus, 4, "passed"),
    "an exponential without a guard": (F.softplus, lambda x: jnp.log(1 + jnp.exp(x)), 4, "failed"),
    "the norm of what saturates at zero": (
        lambda x: F.gelu(x).unsqueeze(-1).norm(dim=-1),
        lambda x: jnp.sqrt(jnp.square(jax.nn.gelu(x, approximate=False))),
        4,
        "passed",
    ),
    "the norm of zeros on the user's own weights": (
        lambda x: x + (0 * x).unsqueeze(-1).norm(dim=-1),
        lambda x: x + jnp.sqrt(jnp.square(0 * x)),
        4,
        "failed",
    ),
    "while loop": (lambda x: x / 8, loop, 4, "passed"),
    "while loop of another length": (lambda x: x / 4, loop, 4, "failed"),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_between_two_layers(seeded: Any, rows: Any, name: str) -> None:
    torch_middle, flax_middle, batch, status = MIDDLES[name]
    report = compare.check(seeded(lambda: TorchNet(torch_middle)), FlaxNet(flax_middle), rows(batch, 5))
    assert report.status == status, report.text()
    if name == "softplus, which torch cuts at 20":
        assert "beyond its threshold" in report.check("outputs").detail
    if name == "a batch that is fixed in torch too":
        assert "batch of 1" in report.settings["probes that torch refuses"]
    if name.startswith("while loop"):
        assert report.check("gradients").status == "skipped"
        assert (", but not judged: gradients" in report.text().splitlines()[0]) == report.passed
    if status == "inconclusive":
        detail = report.check("adequacy").detail
        assert "batch of one" in detail if batch == 1 else "never exercised" in detail and "fc1.weight" in detail


class TorchTwice(nn.Module):
    """A layer's distance from itself: zero, or whatever the root of a rounding is."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + torch.sqrt(self.fc(x) - self.fc(x)).detach()


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_rounding_that_may_do_anything_excuses_nothing(seeded: Any, rows: Any, off: float) -> None:
    report = compare.check(seeded(TorchTwice), Applied(lambda y: y + off), rows(4, 5))
    assert report.status == ("passed" if off == 0 else "inconclusive"), report.text()
    if off:
        assert "one rounding alone makes output infinite" in report.check("outputs").detail


class TorchTable(nn.Module):
    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(11, 5, padding_idx=padding), nn.Linear(5, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.fc(self.embed(ids))


class FlaxTable(nnx.Module):
    def __init__(self, last: int) -> None:
        self.embed, self.fc, self.last = nnx.Embed(11, 5, rngs=RNGS), nnx.Linear(5, 3, rngs=RNGS), last

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.fc(self.embed(jnp.minimum(ids, self.last)))


IDS = np.array([[1, 2, 3, 4], [2, 5, 1, 6]])


def test_rows_of_a_table_that_the_inputs_never_name(seeded: Any) -> None:
    model = seeded(lambda: TorchTable(None))
    assert compare.check(model, FlaxTable(10), IDS).passed
    assert compare.check(model, FlaxTable(9), IDS).status == "failed"
    assert compare.check(model, FlaxTable(9), IDS, ranges={"0": (1, 6)}).passed  # the user's bounds hold
    assert compare.check(model, FlaxTable(9), IDS, frozen=["0"]).passed


def test_a_padding_row_that_takes_a_gradient_in_flax_alone(seeded: Any) -> None:
    report = compare.check(seeded(lambda: TorchTable(0)), FlaxTable(10), IDS)
    assert report.passed, report.text()
    assert "padding_idx" in report.check("gradients").detail
    strict = compare.check(seeded(lambda: TorchTable(0)), FlaxTable(10), IDS, strict=True)
    assert strict.check("gradients").status == "failed"


class TorchMasked(nn.Module):
    def __init__(self, hidden: float) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(5, 3)
        self.register_buffer("mask", torch.full((4, 4), hidden).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(
            self.query(x), self.key(x), self.value(x), attn_mask=self.get_buffer("mask")
        )


class FlaxMasked(nnx.Module):
    def __init__(self, scale: float, hidden: float = -np.inf) -> None:
        self.query, self.key, self.value = (nnx.Linear(5, size, rngs=RNGS) for size in (4, 4, 3))
        self.scale, self.hidden = scale, hidden

    def __call__(self, x: jax.Array) -> jax.Array:
        scores = self.scale * self.query(x) @ self.key(x).mT  # (batch, 4, 4)
        seen = jnp.tril(jnp.ones((4, 4), bool))
        return jax.nn.softmax(jnp.where(seen, scores, scores + self.hidden), axis=-1) @ self.value(x)


@pytest.mark.parametrize("hidden", [-np.inf, float(np.finfo(np.float32).min)])
def test_a_mask_of_huge_numbers_leaves_no_more_room(seeded: Any, rows: Any, hidden: float) -> None:
    model = seeded(lambda: TorchMasked(hidden))
    assert compare.check(model, FlaxMasked(0.5), rows(2, 4, 5)).passed
    assert compare.check(model, FlaxMasked(0.5 + 1e-9), rows(2, 4, 5)).status == "failed"


def test_masks_of_another_size_hide_as_well(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: TorchMasked(-np.inf))
    report = compare.check(model, FlaxMasked(0.5, -1e4), rows(2, 4, 5))
    assert report.passed, report.text()
    assert "near the masks" in report.check("outputs").detail
    assert compare.check(model, FlaxMasked(0.5, -30.0), rows(2, 4, 5)).status == "failed"


def test_mutation_score(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: TorchNet(F.relu))
    score = compare.mutation_score(model, None, rows(4, 5))
    assert score.noticed == score.planted >= 12, score.text()
    frozen = compare.mutation_score(seeded(lambda: TorchNet(lambda x: torch.relu(x - 1e7))), None, rows(4, 5))
    assert any(place.startswith("fc1.weight") for place in frozen.missed), frozen.text()
    assert compare.mutation_score(model, None, rows(4, 5), max_mutants=5).planted == 5
    with pytest.raises(compare.UsageError, match="max_mutants: expected at least 1, found 0"):
        compare.mutation_score(model, None, rows(4, 5), max_mutants=0)


class TorchSoftplus(nn.Module):
    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)
        self.threshold = threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.softplus(self.fc(x), threshold=self.threshold)


class FlaxSoftplus(nnx.Module):
    def __init__(self) -> None:
        self.fc = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.softplus(self.fc(x))


@pytest.mark.parametrize(("threshold", "status"), [(20.0, "passed"), (1.0, "failed")])
def test_only_a_threshold_that_nobody_sees_is_conceded(threshold: float, status: str, rows: Any) -> None:
    assert compare.check(TorchSoftplus(threshold), FlaxSoftplus(), rows(4, 5)).status == status


class TorchPadded(nn.Module):
    """Rows of zeros are padding, and left out of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        real = (x.abs().sum(-1, keepdim=True) != 0).to(x.dtype)
        return (self.fc(x) * real).sum(1) / real.sum(1).clamp(min=1)


class FlaxPadded(nnx.Module):
    def __init__(self, masked: bool) -> None:
        self.fc = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
        self.masked = masked

    def __call__(self, x: jax.Array) -> jax.Array:
        real = (jnp.abs(x).sum(-1, keepdims=True) != 0).astype(x.dtype)
        real = real if self.masked else jnp.ones_like(real)
        return (self.fc(x) * real).sum(1) / jnp.maximum(real.sum(1), 1)


@pytest.mark.parametrize("masked", [True, False])
def test_padding_that_only_the_given_inputs_hold_is_seen(masked: bool, rows: Any) -> None:
    x = rows(3, 4, 5)
    x[1, 2:] = 0.0
    x[2, 3:] = 0.0
    assert compare.check(TorchPadded(), FlaxPadded(masked), x).passed == masked
