"""Mistakes in random numbers: laws of initialisation, dropout."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from tests.corpus.mistake import Case, Family, Mistake
from tests.corpus.models import rows, seeded

Array = jax.Array
init = nnx.initializers
LINEAR = init.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_law(fan_in: int) -> Any:
    """torch's bias of a Linear layer."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)


class TorchNet(nn.Module):
    """Linear, normal embedding, Kaiming convolution, Xavier output, as people set them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(20, 30), nn.Linear(30, 10)
        self.embed, self.conv = nn.Embedding(12, 16), nn.Conv2d(4, 8, 3)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.constant_(self.conv.get_parameter("bias"), 0.0)
        nn.init.xavier_uniform_(self.out.weight, gain=nn.init.calculate_gain("tanh"))
        nn.init.zeros_(self.out.bias)
        nn.init.trunc_normal_(self.embed.weight, std=0.02)


class FlaxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, **laws: Any) -> None:
        kernel, bias = laws.get("fc", LINEAR), laws.get("fc_bias", bias_law(20))
        self.fc = nnx.Linear(20, 30, kernel_init=kernel, bias_init=bias, rngs=rngs)
        out = laws.get("out", init.variance_scaling((5 / 3) ** 2, "fan_avg", "uniform"))
        self.out = nnx.Linear(30, 10, kernel_init=out, bias_init=laws.get("out_bias", init.zeros_init()), rngs=rngs)
        self.embed = nnx.Embed(12, 16, embedding_init=laws.get("embed", init.normal(0.02)), rngs=rngs)
        conv = laws.get("conv", untruncated(2.0, "fan_out"))
        self.conv = nnx.Conv(4, 8, (3, 3), kernel_init=conv, rngs=rngs)


def untruncated(scale: float, mode: Any) -> Any:
    return init.variance_scaling(scale, mode, "normal")


def initial(**laws: Any) -> Case:
    return Case("check_initialization", (TorchNet, lambda rngs: FlaxNet(rngs, **laws)), {"draws": 24})


class TorchDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 10), nn.Linear(10, 10), nn.Linear(10, 3)
        self.drop1, self.drop2 = nn.Dropout(0.2), nn.Dropout(0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(self.drop2(torch.relu(self.fc2(self.drop1(torch.relu(self.fc1(x)))))))


class FlaxDropout(nnx.Module):
    """Dropout by ``drop(x, rate)``, Flax's own unless told otherwise."""

    def __init__(
        self, rates: tuple[float, float] = (0.2, 0.4), drop: Callable[..., Array] | None = None, **how: Any
    ) -> None:
        rngs = nnx.Rngs(0)
        self.fc1, self.fc2, self.fc3 = (
            nnx.Linear(6, 10, rngs=rngs),
            nnx.Linear(10, 10, rngs=rngs),
            nnx.Linear(10, 3, rngs=rngs),
        )
        self.drop1, self.drop2 = (nnx.Dropout(rate, rngs=nnx.Rngs(7 + i), **how) for i, rate in enumerate(rates))

    def __call__(self, x: Array) -> Array:
        x = self.drop1(jax.nn.relu(self.fc1(x)))
        return self.fc3(self.drop2(jax.nn.relu(self.fc2(x))))


def dropout(make: Callable[[], Any] = FlaxDropout) -> Callable[[], Case]:
    return lambda: Case("check_dropout", (seeded(TorchDropout), make(), rows(16, 6)))


class OnAlways(FlaxDropout):
    def __call__(self, x: Array) -> Array:
        x = self.drop1(jax.nn.relu(self.fc1(x)))
        return self.fc3(self.drop2(jax.nn.relu(self.fc2(x)), deterministic=False))


class Forgotten(FlaxDropout):
    def __call__(self, x: Array) -> Array:
        return self.fc3(self.drop2(jax.nn.relu(self.fc2(jax.nn.relu(self.fc1(x))))))


class OneStream(FlaxDropout):
    """The same key for both layers."""

    def __call__(self, x: Array) -> Array:
        key = jax.random.key(3)
        x = self.drop1(jax.nn.relu(self.fc1(x)), rngs=key)
        return self.fc3(self.drop2(jax.nn.relu(self.fc2(x)), rngs=key))


def law(name: str, words: str, *causes: str, **laws: Any) -> Mistake:
    return Mistake(name, words, lambda: initial(**laws), (), frozenset(causes))


def random(name: str, words: str, make: Callable[[], Any], *causes: str) -> Mistake:
    return Mistake(name, words, dropout(make), (), frozenset(causes))


FAMILY = Family(
    "laws",
    {"dropout": dropout()},
    (
        law("flax_default", "Flax's default kernel law", "init_lecun_normal", fc=init.lecun_normal()),
        law("zero_bias", "zeros for torch's uniform bias", "init_zeros", fc_bias=init.zeros_init()),
        law(
            "he_uniform", "he_uniform taken for torch's kaiming_uniform_(a=√5)", "init_he_uniform", fc=init.he_uniform()
        ),
        law("gain_missing", "gain of tanh left out", "init_xavier_uniform", out=init.xavier_uniform()),
        law(
            "xavier_normal",
            "Xavier normal for uniform, of the same variance",
            "init_xavier_normal",
            "init_truncated_normal",
            "init_normal",
            out=init.variance_scaling((5 / 3) ** 2, "fan_avg", "truncated_normal"),
        ),
        law(
            "fan_in_for_out",
            "fan_in for fan_out in a convolution",
            "init_he_normal_untruncated",
            conv=untruncated(2.0, "fan_in"),
        ),
        law(
            "truncated",
            "cut off at two standard deviations: torch's kaiming_normal_ is not",
            "init_lecun_normal",  # the same law here: fan_out is twice fan_in
            conv=init.variance_scaling(2.0, "fan_out", "truncated_normal"),
        ),
        law(
            "embedding_default",
            "Flax's embedding law",
            "init_lecun_normal_untruncated",
            embed=init.variance_scaling(1.0, "fan_in", "normal", out_axis=0),
        ),
        law("embedding_std", "0.01 for 0.02", "init_normal", embed=init.normal(0.01)),
        random("rate", "0.5 for 0.4", lambda: FlaxDropout((0.2, 0.5)), "dropout_rate"),
        random("rates_exchanged", "rates of the two layers exchanged", lambda: FlaxDropout((0.4, 0.2)), "dropout_rate"),
        random(
            "keep_for_rate", "keep probabilities for rates", lambda: FlaxDropout((0.8, 0.6)), "dropout_keep_for_rate"
        ),
        random(
            "broadcast", "one decision for a whole row", lambda: FlaxDropout(broadcast_dims=(1,)), "dropout_broadcast"
        ),
        random("always_on", "second dropout on in evaluation", OnAlways, "dropout_on_in_eval"),
        random("forgotten", "first dropout forgotten", Forgotten, "dropout_missing"),
        random("one_key", "a constant key for both layers", OneStream, "dropout_key_reused", "dropout_same_every_call"),
    ),
)
