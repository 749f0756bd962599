"""Mistakes in the functional code between two layers: fc1, some code, fc2."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

from compare import Port
from tests.corpus.mistake import Case, Family, Mistake
from tests.corpus.models import rows, seeded

Array = jax.Array
T = torch.Tensor


class TorchBetween(nn.Module):
    """5-12-(code)-width-3."""

    def __init__(self, code: Callable[[T], T], width: int) -> None:
        super().__init__()
        self.code, self.fc1, self.fc2 = code, nn.Linear(5, 12), nn.Linear(width, 3)

    def forward(self, x: T) -> T:
        return self.fc2(self.code(self.fc1(x)))


class FlaxBetween(nnx.Module):
    def __init__(self, code: Callable[[Array], Array], width: int) -> None:
        self.code = code
        self.fc1, self.fc2 = nnx.Linear(5, 12, rngs=nnx.Rngs(0)), nnx.Linear(width, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: Array) -> Array:
        return self.fc2(self.code(self.fc1(x)))


@dataclasses.dataclass(frozen=True)
class Code:
    """The same code in torch, as ported, and as it should have been ported; acceptable names of the mistake."""

    words: str
    torch: Callable[[T], T]
    wrong: Callable[[Array], Array]
    right: Callable[[Array], Array]
    causes: tuple[str, ...] | None = None
    width: int = 12
    direction: Any = "forward"
    places: tuple[str, ...] = ("before fc2",)

    def case(self, code: Callable[[Array], Array]) -> Case:
        model = seeded(lambda: TorchBetween(self.torch, self.width))
        return Case("check", (Port(model, FlaxBetween(code, self.width), rows(6, 5)),))


def sequence(x: Any) -> Any:
    """(batch, 12) -> (batch, 3 positions, 4 features)"""
    return x.reshape(x.shape[0], 3, 4)


def flat(x: Any) -> Any:
    return x.reshape(x.shape[0], -1)


CODES = {
    "std_biased": Code(
        "jnp.std divides by n, torch.std by n - 1",
        lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
        lambda x: (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True),
        lambda x: (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True, ddof=1),
        ("variance_correction",),
    ),
    "var_biased": Code(
        "jnp.var divides by n, torch.var by n - 1",
        lambda x: x * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5),
        lambda x: x * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5),
        lambda x: x * jax.lax.rsqrt(x.var(-1, keepdims=True, ddof=1) + 1e-5),
        ("variance_correction",),
    ),
    "softmax_axis": Code(
        "softmax over the positions in place of the features",
        lambda x: flat(torch.softmax(sequence(x), dim=-1)),
        lambda x: flat(jax.nn.softmax(sequence(x), axis=1)),
        lambda x: flat(jax.nn.softmax(sequence(x), axis=-1)),
        ("softmax_axis", "reduction_axis"),
    ),
    "softmax_for_log_softmax": Code(
        "softmax for log-softmax",
        lambda x: F.log_softmax(x, dim=1), lambda x: jax.nn.softmax(x, axis=1), lambda x: jax.nn.log_softmax(x, axis=1),
        ("softmax_for_log_softmax",),
    ),
    "repeat_for_tile": Code(
        "torch's repeat is jnp.tile; jnp.repeat is repeat_interleave",
        lambda x: x.repeat(1, 2), lambda x: jnp.repeat(x, 2, axis=1), lambda x: jnp.tile(x, (1, 2)),
        ("repeat_for_tile",), width=24,
    ),
    "split_sizes_as_indices": Code(
        "torch.split takes sizes, jnp.split positions",
        lambda x: (lambda a, b: torch.cat([b, a], 1))(*x.split([8, 4], 1)),
        lambda x: (lambda a, b: jnp.concatenate([b, a], 1))(*jnp.split(x, [4], 1)),
        lambda x: (lambda a, b: jnp.concatenate([b, a], 1))(*jnp.split(x, [8], 1)),
    ),
    "chunks_swapped": Code(
        "gate and value of a GLU exchanged",
        lambda x: F.glu(x, 1),
        lambda x: (lambda a, b: jax.nn.sigmoid(a) * b)(*jnp.split(x, 2, 1)),
        lambda x: jax.nn.glu(x, 1),
        ("glu_halves_swapped", "chunks_swapped"), width=6,
    ),
    "cat_order": Code(
        "parts concatenated in the other order",
        lambda x: torch.cat([x, torch.relu(-x)], 1),
        lambda x: jnp.concatenate([jax.nn.relu(-x), x], 1),
        lambda x: jnp.concatenate([x, jax.nn.relu(-x)], 1),
        ("concatenation_order",), width=24,
    ),
    "reshape_for_transpose": Code(
        "reshape where torch transposes",
        lambda x: flat(sequence(x).transpose(1, 2)),
        lambda x: flat(sequence(x).reshape(x.shape[0], 4, 3)),
        lambda x: flat(sequence(x).swapaxes(1, 2)),
        ("reshape_for_transpose", "transpose_missing"),
    ),
    "cumsum_axis": Code(
        "cumulative sum over the flattened features",
        lambda x: flat(torch.cumsum(sequence(x), 1)),
        lambda x: flat(jnp.cumsum(sequence(x), 2)),
        lambda x: flat(jnp.cumsum(sequence(x), 1)),
        ("reduction_axis",),
    ),
    "mean_for_sum": Code(
        "positions averaged in place of added",
        lambda x: sequence(x).sum(1), lambda x: sequence(x).mean(1), lambda x: sequence(x).sum(1),
        ("mean_for_sum",), width=4,
    ),
    "max_for_mean": Code(
        "max pooling for mean pooling over positions",
        lambda x: sequence(x).mean(1), lambda x: sequence(x).max(1), lambda x: sequence(x).mean(1),
        ("max_for_mean", "another_reduction"), width=4,
    ),
    "median_of_even": Code(
        "torch's median is the lower of the two middle values, jnp's their mean",
        lambda x: x - x.median(1, keepdim=True).values,
        lambda x: x - jnp.median(x, 1, keepdims=True),
        lambda x: x - jnp.sort(x, 1)[:, 5:6],
        ("median_of_even",),
    ),
    "leaky_slope": Code(
        "jax.nn.leaky_relu has slope 0.01 unless told",
        lambda x: F.leaky_relu(x, 0.2), jax.nn.leaky_relu, lambda x: jax.nn.leaky_relu(x, 0.2),
        ("leaky_slope",),
    ),
    "gelu_tanh": Code(
        "jax.nn.gelu is the tanh form unless told",
        F.gelu, jax.nn.gelu, lambda x: jax.nn.gelu(x, approximate=False),
        ("gelu_approximation",),
    ),
    "quick_gelu_missing": Code(
        "x sigmoid(1.702 x) in torch, the tanh GELU in Flax",
        lambda x: x * torch.sigmoid(1.702 * x), jax.nn.gelu, lambda x: x * jax.nn.sigmoid(1.702 * x),
        ("activation_swapped",),
    ),
    "silu_for_gelu": Code(
        "swish for GELU", F.gelu, jax.nn.silu, lambda x: jax.nn.gelu(x, approximate=False), ("activation_swapped",),
    ),
    "elu_alpha": Code(
        "alpha of ELU left at 1",
        lambda x: F.elu(x, 0.5), jax.nn.elu, lambda x: jax.nn.elu(x, 0.5), ("elu_alpha",),
    ),
    "softplus_beta": Code(
        "beta of softplus left out",
        lambda x: F.softplus(x, beta=2.0), jax.nn.softplus, lambda x: jax.nn.softplus(2.0 * x) / 2.0,
        ("softplus_beta",),
    ),
    "hard_sigmoid_slope": Code(
        "Keras's hard sigmoid: slope 0.2",
        F.hardsigmoid, lambda x: jnp.clip(0.2 * x + 0.5, 0, 1), jax.nn.hard_sigmoid, ("activation_swapped",),
    ),
    "hard_swish_for_swish": Code(
        "hard swish for swish", F.silu, jax.nn.hard_silu, jax.nn.silu, ("activation_swapped",),
    ),
    "relu6_for_relu": Code(
        "ReLU6 for ReLU: the same below 6", F.relu, jax.nn.relu6, jax.nn.relu, ("activation_swapped",),
    ),
    "clip_bounds": Code(
        "clipped to (-1, 1) in place of (-2, 2)",
        lambda x: x.clamp(-2, 2), lambda x: jnp.clip(x, -1, 1), lambda x: jnp.clip(x, -2, 2), ("clamp_bounds",),
    ),
    "normalize_epsilon": Code(
        "epsilon added to the norm: F.normalize takes the larger of the two",
        lambda x: F.normalize(x, dim=1, eps=1e-2),
        lambda x: x / (jnp.linalg.norm(x, axis=1, keepdims=True) + 1e-2),
        lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-2),
    ),
    "normalize_axis": Code(
        "norm over the whole batch: no axis",
        lambda x: F.normalize(x, dim=1),
        lambda x: x / jnp.linalg.norm(x),
        lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True),
        ("reduction_axis",),
    ),
    "broadcast_over_features": Code(
        "a mean over the batch in place of the features",
        lambda x: x - x.mean(1, keepdim=True), lambda x: x - x.mean(0, keepdims=True),
        lambda x: x - x.mean(1, keepdims=True), ("reduction_axis",),
    ),
    "stop_gradient_left": Code(
        "a stop_gradient that torch has not",
        lambda x: x * torch.sigmoid(x), lambda x: x * jax.nn.sigmoid(jax.lax.stop_gradient(x)),
        lambda x: x * jax.nn.sigmoid(x), ("gradient_stopped", "stop_gradient_extra"), direction="backward",
        places=("before fc2", "inside fc1", "after fc1"),
    ),
    "detach_missing": Code(
        "torch detaches, the port does not",
        lambda x: x * torch.sigmoid(x.detach()), lambda x: x * jax.nn.sigmoid(x),
        lambda x: x * jax.nn.sigmoid(jax.lax.stop_gradient(x)), ("gradient_not_stopped",), direction="backward",
        places=("before fc2", "inside fc1", "after fc1"),
    ),
    "round_trip_float16": Code(
        "a cast to float16 left in from an experiment",
        torch.tanh, lambda x: jnp.tanh(x.astype(jnp.float16)).astype(x.dtype), jnp.tanh,
        ("lower_precision",),
    ),
    "roll_direction": Code(
        "rolled the other way",
        lambda x: torch.roll(x, 1, 1), lambda x: jnp.roll(x, -1, 1), lambda x: jnp.roll(x, 1, 1),
    ),
    "roll_flat": Code(
        "jnp.roll without an axis rolls the flattened array",
        lambda x: torch.roll(x, 1, 1), lambda x: jnp.roll(x, 1), lambda x: jnp.roll(x, 1, 1), ("reduction_axis",),
    ),
    "sort_descending": Code(
        "torch sorts descending here, jnp.sort always ascending",
        lambda x: x.sort(1, descending=True).values, lambda x: jnp.sort(x, 1), lambda x: -jnp.sort(-x, 1),
        ("sort_order",),
    ),
    "logsumexp_axis": Code(
        "logsumexp over everything",
        lambda x: x - torch.logsumexp(x, 1, keepdim=True),
        lambda x: x - jax.scipy.special.logsumexp(x, keepdims=True),
        lambda x: x - jax.scipy.special.logsumexp(x, 1, keepdims=True),
        ("reduction_axis",),
    ),
    "scale_missing": Code(
        "a constant factor left out", lambda x: torch.tanh(x) * 12**0.5, jnp.tanh, lambda x: jnp.tanh(x) * 12**0.5,
        ("factor_missing"),
    ),
    "temperature": Code(
        "logits multiplied by the temperature instead of divided",
        lambda x: torch.softmax(x / 0.5, 1), lambda x: jax.nn.softmax(x * 0.5, 1), lambda x: jax.nn.softmax(x / 0.5, 1),
        ("constant_inverted",),
    ),
    "activation_missing": Code("no activation", torch.tanh, lambda x: x, jnp.tanh, ("activation_missing",)),
    "term_missing": Code(
        "skip connection forgotten", lambda x: x + torch.tanh(x), jnp.tanh, lambda x: x + jnp.tanh(x),
        ("term_missing",),
    ),
    "remainder_sign": Code(
        "torch.fmod keeps the dividend's sign, jnp.mod the divisor's",
        lambda x: torch.fmod(x, 1.0), lambda x: jnp.mod(x, 1.0), lambda x: jnp.fmod(x, 1.0),
    ),
    "log_without_epsilon": Code(
        "log(x + 1e-6) for log(max(x, 1e-6))",
        lambda x: torch.log(F.relu(x).clamp(min=1e-2)), lambda x: jnp.log(jax.nn.relu(x) + 1e-2),
        lambda x: jnp.log(jnp.maximum(jax.nn.relu(x), 1e-2)),
    ),
}

FAMILY = Family(
    "between",
    {name: (lambda code=code: code.case(code.right)) for name, code in CODES.items()},
    tuple(
        Mistake(
            name, code.words, (lambda code=code: code.case(code.wrong)), code.places,
            None if code.causes is None else frozenset(code.causes), direction=code.direction,
        )
        for name, code in CODES.items()
    ),
)
