"""Mistakes in activations: another one, none, another constant, another axis."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from compare.hypotheses.call_arguments import Replacement
from compare.hypotheses.edit import CallSite
from compare.hypotheses.variant import Knob, Maker, Variant, first, identity, through

__all__ = ["ACTIVATIONS", "FUNCTIONS", "SWAPS", "activation_knobs"]

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "the tanh form of gelu": lambda x: F.gelu(x, approximate="tanh"),
    "the sigmoid form of gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "relu6": F.relu6,
    "selu": F.selu,
    "celu": F.celu,
    "hardtanh": F.hardtanh,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
    "exp": torch.exp,
    "abs": torch.abs,
    "square": torch.square,
    "sqrt": lambda x: x.clamp_min(0).sqrt(),
}
"""Elementwise functions that a port may take for one another."""

SWAPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **FUNCTIONS,
    "a hard sigmoid of slope 0.2": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "relu squared": lambda x: torch.relu(x).square(),
    "erf": torch.erf,
    "a sigmoid of range -1 to 1": lambda x: 2 * torch.sigmoid(x) - 1,
}
"""And some that only stand for another activation."""

_NAMED: tuple[str, ...] = (
    "relu",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
    "elu",
    "softplus",
    "leaky_relu",
    "mish",
    "hardswish",
)
_NAMED += ("hardsigmoid", "relu6", "selu", "celu", "hardtanh", "softsign", "logsigmoid", "prelu", "relu_")


def _activation(site: CallSite) -> Iterator[Variant]:
    name = site.function
    yield "activation_missing", f"{name} is left out", f"apply {name} there", identity
    for other, function in SWAPS.items():
        if other != name and not (name in ("gelu", "softplus") and other in ("the tanh form of gelu", name)):
            yield "activation_swapped", f"{other} stands where torch has {name}", f"use {name}", through(function)


def _gelu(site: CallSite) -> Iterator[Variant]:
    yield (
        "gelu_approximation",
        "the tanh approximation of GELU stands where torch has the exact one (jax.nn.gelu's default is tanh)",
        "jax.nn.gelu(x, approximate=False)",
        through(lambda x: F.gelu(x, approximate="tanh")),
    )
    yield (
        "gelu_approximation",
        "the exact GELU stands where torch has the tanh approximation",
        "jax.nn.gelu(x, approximate=True)",
        through(F.gelu),
    )


def _softplus(site: CallSite) -> Iterator[Variant]:
    beta = float(site.arguments.get("beta", 1.0))
    yield (
        "softplus_threshold",
        "softplus is exact everywhere; torch's is the identity above its threshold of 20",
        "nothing, if 2e-9 does not matter: torch approximates here",
        through(lambda x: _softplus_of(x, beta)),
    )


def _softplus_of(x: torch.Tensor, beta: float) -> torch.Tensor:
    """Exact, where torch's is the identity above its threshold."""
    return torch.logaddexp(beta * x, torch.zeros_like(x)) / beta


def _prelu(site: CallSite) -> Iterator[Variant]:
    def shared(func: Any, args: Any, kwargs: Any) -> Any:
        return func(args[0], args[1][:1])

    def along_last(func: Any, args: Any, kwargs: Any) -> Any:
        return torch.where(args[0] > 0, args[0], args[1] * args[0])

    yield "prelu_shared", "one slope serves all channels", "one slope per channel", shared
    yield "prelu_axis", "the slopes run along the last axis", "along the channels", along_last


def activation_knobs(site: CallSite) -> Iterator[Knob]:
    """A slope or a sharpness of any value."""
    if site.function in ("relu", "leaky_relu", "relu_"):
        slope = float(site.arguments.get("negative_slope", 0.0))
        yield Knob(
            lambda _: "leaky_slope",
            lambda value: f"the negative slope is {value}, torch's is {slope:g}",
            f"negative_slope={slope:g}",
            lambda value: through(functools.partial(F.leaky_relu, negative_slope=value)),
            start=slope,
        )
    if site.function == "softplus":
        beta = float(site.arguments.get("beta", 1.0))
        yield Knob(
            lambda _: "activation_beta",
            lambda value: f"softplus has beta {value}, torch has {beta:g}",
            f"jax.nn.softplus({beta:g} * x) / {beta:g}",
            lambda value: through(lambda x: _softplus_of(x, value)),
            start=beta,
            logarithmic=True,
        )
    if site.function in ("silu", "sigmoid", "gelu"):
        gates = site.function != "sigmoid"
        yield Knob(
            lambda _: "activation_beta",
            lambda value: f"{site.function} is computed by sigmoid({value} x)",
            f"use {site.function} as torch defines it",
            lambda value: through(lambda x: (x if gates else 1) * torch.sigmoid(value * x)),
            start=1.7 if site.function == "gelu" else 1.0,
        )


def _softmax(site: CallSite) -> Iterator[Variant]:
    log = site.function == "log_softmax"
    here, there = ("log_softmax", "softmax") if log else ("softmax", "log_softmax")
    other = torch.softmax if log else torch.log_softmax
    same = torch.log_softmax if log else torch.softmax
    yield (
        "softmax_for_log_softmax" if log else "log_softmax_for_softmax",
        f"{there} stands where torch has {here}",
        f"use jax.nn.{here}",
        lambda func, args, kwargs: other(first(args, kwargs), _dim(args, kwargs)),
    )
    yield f"{here}_missing", f"{here} is left out", f"apply jax.nn.{here}", identity
    yield (
        "sigmoid_for_softmax",
        f"a sigmoid stands where torch has {here}",
        f"use jax.nn.{here}",
        through(F.logsigmoid if log else torch.sigmoid),
    )
    for axis in range(len(site.shapes[0]) if site.shapes else 0):
        yield (
            "softmax_axis",
            f"{here} runs over axis {axis}",
            f"pass torch's axis to jax.nn.{here}",
            _along(same, axis),
        )
    yield (
        "softmax_axis",
        f"{here} runs over all axes but the first together",
        f"pass torch's axis to jax.nn.{here}",
        through(lambda x: same(x.flatten(1), -1).reshape(x.shape)),
    )


def _along(function: Callable[..., torch.Tensor], axis: int) -> Replacement:
    return lambda func, args, kwargs: function(first(args, kwargs), axis)


def _dim(args: Any, kwargs: Any) -> int:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return -1 if dim is None else dim


ACTIVATIONS: dict[str, tuple[Maker, ...]] = {
    **dict.fromkeys(_NAMED, (_activation,)),
    "gelu": (_gelu, _activation),
    "softplus": (_softplus, _activation),
    "prelu": (_prelu, _activation),
    "softmax": (_softmax,),
    "log_softmax": (_softmax,),
}
