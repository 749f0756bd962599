"""Mistakes in the code between layers: terms, factors, constants, reductions, order of axes and parts, gradients."""

from collections.abc import Iterator
from typing import Any

import torch

from compare.hypotheses.edit import CallSite, Replacement
from compare.hypotheses.variant import EPSILONS, Maker, Variant, first, identity

__all__ = ["ARITHMETIC", "constants", "stopped_gradient"]

_TAKES_CONSTANTS = {"add", "mul", "div", "sub", "rsub", "pow", "clamp", "maximum", "minimum", "true_divide", "__rsub__"}


def _flatten(site: CallSite) -> Iterator[Variant]:
    n = len(site.shapes[0]) if site.shapes else 0
    if n >= 3:
        last = (0, *range(2, n), 1)
        yield (
            "flatten_order",
            "the array is flattened with channels last; torch flattens (channels, height, width)",
            "transpose to torch's layout before flattening",
            lambda func, args, kwargs: func(first(args, kwargs).permute(last), *args[1:], **kwargs),
        )


def _reduction(site: CallSite) -> Iterator[Variant]:
    pairs = {"mean": "sum", "sum": "mean", "amax": "mean", "amin": "mean"}
    other = pairs[site.function]
    yield (
        f"{other}_for_{site.function}",
        f"{other} stands where torch has {site.function}",
        f"use jnp.{site.function}",
        lambda func, args, kwargs: getattr(torch, other)(*args, **kwargs),
    )
    for axis in range(len(site.shapes[0]) if site.shapes else 0):
        yield (
            "reduction_axis",
            f"{site.function} runs over axis {axis}",
            "reduce over torch's axis",
            _over_axis(axis),
        )


def _over_axis(axis: int) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
        return func(first(args, kwargs), dim=axis, keepdim=bool(keepdim))

    return replace


def _variance(site: CallSite) -> Iterator[Variant]:
    for correction, word in ((0, "n"), (1, "n - 1")):
        yield (
            "variance_correction",
            f"the variance is divided by {word}",
            "pass torch's correction as ddof=",
            _corrected(correction),
        )


def _corrected(correction: int) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        dim = kwargs.get("dim", args[1] if len(args) > 1 and not isinstance(args[1], bool) else None)
        return func(first(args, kwargs), dim, correction=correction, keepdim=kwargs.get("keepdim", False))

    return replace


def _addition(site: CallSite) -> Iterator[Variant]:
    if len(site.shapes) == 2:
        yield "term_missing", "the second term is not added", "add both terms", lambda f, a, k: a[0] + 0 * a[1]
        yield "term_missing", "the first term is not added", "add both terms", lambda f, a, k: 0 * a[0] + a[1]
        yield "term_sign", "the second term is subtracted", "add it", lambda f, a, k: a[0] - a[1]
        yield "term_doubled", "the first term is added twice", "add it once", lambda f, a, k: 2 * a[0] + a[1]


def _subtraction(site: CallSite) -> Iterator[Variant]:
    if len(site.shapes) == 2:
        yield "term_sign", "the terms are added", "subtract the second", lambda f, a, k: a[0] + a[1]
        yield "term_order", "the difference is taken the other way round", "swap the terms", lambda f, a, k: a[1] - a[0]
        yield "term_missing", "nothing is subtracted", "subtract the second term", lambda f, a, k: a[0] + 0 * a[1]


def _product(site: CallSite) -> Iterator[Variant]:
    yield "factor_missing", "the factor is left out", "multiply by it", lambda f, a, k: _broadcast(a, a[0])
    if len(site.shapes) == 2:
        yield "factor_missing", "the first factor is left out", "multiply by it", lambda f, a, k: _broadcast(a, a[1])
        if site.function == "mul":
            yield (
                "one_plus_factor",
                "the factor is 1 + weight",
                "multiply by weight alone",
                lambda f, a, k: a[0] * (1 + a[1]),
            )


def _broadcast(args: Any, value: Any) -> Any:
    return value + 0 * args[0] + (0 * args[1] if isinstance(args[1], torch.Tensor) else 0)


def _concatenation(site: CallSite) -> Iterator[Variant]:
    yield (
        "concatenation_order",
        "the parts are concatenated in reverse",
        "concatenate in torch's order",
        lambda func, args, kwargs: func(list(args[0])[::-1], *args[1:], **kwargs),
    )


def _detach(site: CallSite) -> Iterator[Variant]:
    yield (
        "gradient_not_stopped",
        "the gradient flows where torch stops it with detach()",
        "jax.lax.stop_gradient",
        identity,
    )


def _clamp(site: CallSite) -> Iterator[Variant]:
    yield "clamp_missing", "the values are not clipped", "jnp.clip", identity


def constants(site: CallSite) -> Iterator[Variant]:
    """A constant in the code: another epsilon, a missing or inverted scale, another exponent."""
    if site.function not in _TAKES_CONSTANTS or not any(site.scalars):
        return
    value = site.scalars[0]
    candidates = dict.fromkeys(EPSILONS, "norm_epsilon") if 0 < abs(value) < 1e-2 else {}
    candidates |= {2 * value: "constant_doubled", value / 2: "constant_halved", -value: "constant_sign"}
    if site.function in ("mul", "div", "true_divide") and value:
        candidates |= {1 / value: "constant_inverted", value**2: "constant_squared", abs(value) ** 0.5: "constant_root"}
    for other, name in candidates.items():
        if other != value:
            yield (
                name,
                f"the constant of {site.function} is {other:g}, torch's is {value:g}",
                f"use {value:g}",
                _constant(other),
            )


def _constant(value: float) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        changed = [value if isinstance(a, int | float) and not isinstance(a, bool) else a for a in args]
        return func(*changed, **kwargs)

    return replace


def _detached(func: Any, args: Any, kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    return result.detach() if isinstance(result, torch.Tensor) else result


def stopped_gradient(site: CallSite) -> Variant:
    """The same value, through which no gradient flows."""
    return "gradient_stopped", f"the gradient is stopped after {site.function}", "remove the stop_gradient", _detached


ARITHMETIC: dict[str, tuple[Maker, ...]] = {
    "flatten": (_flatten,),
    "reshape": (_flatten,),
    "view": (_flatten,),
    "mean": (_reduction,),
    "sum": (_reduction,),
    "var": (_variance,),
    "std": (_variance,),
    "add": (_addition,),
    "iadd": (_addition,),
    "__iadd__": (_addition,),
    "sub": (_subtraction,),
    "mul": (_product,),
    "div": (_product,),
    "cat": (_concatenation,),
    "detach": (_detach,),
    "clamp": (_clamp,),
}
