"""Mistakes in activations: another one, none, another constant, another axis."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from compare.hypotheses.edit import CallSite, Replacement
from compare.hypotheses.variant import Maker, Variant, first, identity, through

__all__ = ["ACTIVATIONS"]

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "softplus": F.softplus,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "selu": F.selu,
    "hardtanh": F.hardtanh,
    "softsign": F.softsign,
}
_SLOPES = (0.01, 0.1, 0.2, 0.3, 0.05, 0.001, 0.25, 1 / 5.5)


def _activation(site: CallSite) -> Iterator[Variant]:
    name = site.function
    yield "activation_missing", f"{name} is left out", f"apply {name} there", identity
    for other, function in _ACTIVATIONS.items():
        if other != name:
            yield "activation_swapped", f"{other} stands where torch has {name}", f"use {name}", through(function)
    yield (
        "activation_swapped",
        f"the sigmoid form of GELU stands where torch has {name}",
        f"use {name}",
        through(lambda x: x * torch.sigmoid(1.702 * x)),
    )


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


def _slope(site: CallSite) -> Iterator[Variant]:
    for slope in _SLOPES:
        yield (
            "leaky_slope",
            f"the negative slope is {slope:g}, torch's is another",
            "pass negative_slope as torch has it",
            through(functools.partial(F.leaky_relu, negative_slope=slope)),
        )


def _elu(site: CallSite) -> Iterator[Variant]:
    for alpha in (0.5, 1.0, 2.0, 1.67326):
        yield "elu_alpha", f"alpha is {alpha:g}", "pass torch's alpha", through(functools.partial(F.elu, alpha=alpha))


def _softplus(site: CallSite) -> Iterator[Variant]:
    yield (
        "softplus_threshold",
        "softplus is exact everywhere; torch's is the identity above its threshold of 20",
        "nothing, if 2e-9 does not matter: torch approximates here",
        through(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
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
    for axis in range(len(site.shapes[0]) if site.shapes else 0):
        yield (
            "softmax_axis",
            f"{here} runs over axis {axis}",
            f"pass torch's axis to jax.nn.{here}",
            _along(same, axis),
        )


def _along(function: Callable[..., torch.Tensor], axis: int) -> Replacement:
    return lambda func, args, kwargs: function(first(args, kwargs), axis)


def _dim(args: Any, kwargs: Any) -> int:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return -1 if dim is None else dim


ACTIVATIONS: dict[str, tuple[Maker, ...]] = {
    **dict.fromkeys(_ACTIVATIONS, (_activation,)),
    "gelu": (_gelu, _activation),
    "leaky_relu": (_slope, _activation),
    "elu": (_elu, _activation),
    "softplus": (_softplus, _activation),
    "softmax": (_softmax,),
    "log_softmax": (_softmax,),
}
