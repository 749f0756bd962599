"""Mistakes hidden by fresh weights, and in norms: behind zeros and ones, at small inputs, in training mode."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

from compare import Port
from tests.corpus.mistake import Case, Family, entry
from tests.corpus.models import rows, seeded

Array = jax.Array
T = torch.Tensor


class TorchFresh(nn.Module):
    """As initialised: zero biases, unit scales, a branch behind a gate of zero, a head of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.gate, self.slope, self.head = nn.Parameter(torch.zeros(8)), nn.PReLU(8), nn.Linear(8, 3)
        for layer in (self.fc1, self.fc2, self.head):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: T) -> T:
        x = self.slope(self.fc1(x))
        return self.head(x + self.gate * F.gelu(self.fc2(self.norm(x))))


class FlaxFresh(nnx.Module):
    def __init__(self, flaws: "Flaws") -> None:
        rngs = nnx.Rngs(0)
        self.fc1 = nnx.Linear(5, 8, use_bias=flaws.bias, rngs=rngs)
        self.norm = nnx.LayerNorm(8, epsilon=flaws.epsilon, use_scale=flaws.scale, use_fast_variance=False, rngs=rngs)
        self.fc2, self.head = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.gate, self.slope = nnx.Param(jnp.zeros(8)), Slope(8)
        self.flaws = flaws

    def __call__(self, x: Array) -> Array:
        flaws = self.flaws
        x = self.slope(self.fc1(x))
        branch = jax.nn.gelu(self.fc2(self.norm(x)), approximate=flaws.approximate)
        gate = 1 + self.gate if flaws.plus_one else self.gate
        return self.head(x + gate * branch if flaws.gated else x + gate)


class Slope(nnx.Module):
    """PReLU."""

    def __init__(self, width: int) -> None:
        self.weight = nnx.Param(jnp.full(width, 0.25))

    def __call__(self, x: Array) -> Array:
        return jnp.where(x > 0, x, self.weight * x)


@dataclasses.dataclass(frozen=True)
class Flaws:
    """What is wrong with the port of the fresh net."""

    bias: bool = True
    scale: bool = True
    epsilon: float = 1e-5
    approximate: bool = False
    gated: bool = True
    plus_one: bool = False


def fresh(flaws: Flaws | None = None) -> Case:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TorchFresh()
    return Case("check", (Port(model, FlaxFresh(flaws or Flaws()), rows(4, 5)),))


class TorchNormFirst(nn.Module):
    """A norm of the raw inputs, in front of a linear layer."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm, self.fc = norm(), nn.Linear(7, 3)

    def forward(self, x: T) -> T:
        return self.fc(self.norm(x))


class FlaxNormFirst(nnx.Module):
    def __init__(self, norm: Callable[[nnx.Rngs], Any]) -> None:
        self.norm, self.fc = norm(nnx.Rngs(0)), nnx.Linear(7, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: Array) -> Array:
        return self.fc(self.norm(x))


def first(
    norm: Callable[[], nn.Module], flax: Callable[[nnx.Rngs], Any], mean: float = 0.0, **fields: Any
) -> Callable[[], Case]:
    def case() -> Case:
        inputs = rows(6, 7) + np.float32(mean)
        return Case("check", (Port(seeded(lambda: TorchNormFirst(norm)), FlaxNormFirst(flax), inputs, **fields),))

    return case


def layer_norm(**settings: Any) -> Callable[[nnx.Rngs], Any]:
    return lambda rngs: nnx.LayerNorm(7, **{"epsilon": 1e-5, "use_fast_variance": False, **settings}, rngs=rngs)


def batch_norm(**settings: Any) -> Callable[[nnx.Rngs], Any]:
    given = {"epsilon": 1e-5, "momentum": 0.9, "use_fast_variance": False, **settings}
    return lambda rngs: nnx.BatchNorm(7, **given, rngs=rngs)


class BatchAlways(nnx.BatchNorm):
    """The flag given in the call: ``eval()`` does not reach it."""

    def __call__(self, x: Array, *args: Any, **fields: Any) -> Array:
        return super().__call__(x, use_running_average=False)


class L2Norm(nnx.Module):
    """Without the √width."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(jnp.ones(7))

    def __call__(self, x: Array) -> Array:
        return self.weight * x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-6)


NORM = ("inside norm",)
FAMILY = Family(
    "fresh",
    {
        "fresh": fresh,
        "layer_norm": first(lambda: nn.LayerNorm(7), layer_norm()),
        "batch_norm": first(lambda: nn.BatchNorm1d(7), batch_norm(), mode="train"),
    },
    (
        entry(
            "zero_bias_omitted",
            "no bias, and torch's is zero",
            lambda: fresh(Flaws(bias=False)),
            ("inside fc1",),
            "bias_missing",
        ),
        entry(
            "unit_scale_omitted",
            "norm without its scale, and torch's is one",
            lambda: fresh(Flaws(scale=False)),
            NORM,
            "norm_scale_missing",
        ),
        entry(
            "gelu_behind_zero_gate",
            "tanh GELU behind a gate of zero and a head of zeros",
            lambda: fresh(Flaws(approximate=True)),
            ("before head",),
            "gelu_approximation",
        ),
        entry(
            "epsilon_behind_zero_gate",
            "epsilon behind a gate of zero",
            lambda: fresh(Flaws(epsilon=1e-6)),
            NORM,
            "norm_epsilon",
        ),
        entry(
            "branch_behind_zero_gate",
            "the gate added, not multiplied",
            lambda: fresh(Flaws(gated=False)),
            ("before head",),
        ),
        entry(
            "gate_plus_one",
            "(1 + gate) for gate",
            lambda: fresh(Flaws(plus_one=True)),
            ("before head",),
            "one_plus_factor",
            "term_missing",
        ),
        entry(
            "fast_variance",
            "E[x²] - E[x]² of raw inputs whose mean is thirty deviations",
            first(lambda: nn.LayerNorm(7), layer_norm(use_fast_variance=True), mean=30.0),
            (),
            "fast_variance",
            checks=("precision",),
        ),
        entry(
            "epsilon_tiny",
            "epsilon 1e-12 for 1e-5: at a standard deviation of 1, 5e-6",
            first(lambda: nn.LayerNorm(7), layer_norm(epsilon=1e-12)),
            NORM,
            "norm_epsilon",
        ),
        entry(
            "batch_statistics_in_eval",
            "batch statistics in evaluation",
            first(lambda: nn.BatchNorm1d(7), lambda rngs: BatchAlways(7, use_fast_variance=False, rngs=rngs)),
            NORM,
            "batch_norm_batch_statistics",
        ),
        entry(
            "untracked_statistics",
            "torch keeps no running statistics and always uses the batch's",
            first(lambda: nn.BatchNorm1d(7, track_running_stats=False), batch_norm()),
            NORM,
            "batch_norm_running_statistics",
        ),
        entry(
            "momentum_default",
            "Flax's default momentum",
            first(lambda: nn.BatchNorm1d(7), batch_norm(momentum=0.99), mode="train"),
            (),
            "norm_momentum",
            checks=("statistics",),
        ),
        entry(
            "layer_for_batch",
            "LayerNorm for BatchNorm, in training",
            first(lambda: nn.BatchNorm1d(7, track_running_stats=False), layer_norm(), mode="train"),
            NORM,
            "norm_axes",
            "norm_kind",
        ),
        entry("l2_for_rms", "x / |x| for RMSNorm", first(lambda: nn.RMSNorm(7, eps=1e-6), L2Norm), NORM),
    ),
)
