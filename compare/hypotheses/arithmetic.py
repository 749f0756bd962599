"""Mistakes in the code between layers: terms, factors, constants, reductions, order of axes and parts, gradients."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from compare.hypotheses.call_arguments import Replacement
from compare.hypotheses.edit import CallSite
from compare.hypotheses.variant import Maker, Variant, after, first, identity, on_operand, through

__all__ = ["ARITHMETIC"]


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
    for other in ("sum", "mean", "amax"):
        if other != site.function:
            yield (
                f"{other}_for_{site.function}".replace("amax", "max").replace("amin", "min"),
                f"{other} stands where torch has {site.function}",
                f"use jnp.{site.function}",
                lambda func, args, kwargs, other=other: getattr(torch, other)(*args, **kwargs),  # type: ignore[misc]
            )
    axes = range(len(site.shapes[0]) if site.shapes else 0)
    for over in (*((axis,) for axis in axes), *itertools.combinations(axes, 2), tuple(axes)):
        yield (
            "reduction_axis",
            f"{site.function} runs over {f'axis {over[0]}' if len(over) == 1 else f'axes {over}'}",
            "reduce over torch's axis",
            _over_axes(over),
        )


def _over_axes(axes: tuple[int, ...]) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
        return func(first(args, kwargs), dim=axes, keepdim=bool(keepdim))

    return replace


def _variance(site: CallSite) -> Iterator[Variant]:
    if site.function == "var":
        yield "deviation_for_variance", "std stands where torch has var", "jnp.var", after(torch.sqrt)
    else:
        yield "variance_for_deviation", "var stands where torch has std", "jnp.std", after(torch.square)
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


# Larger numbers that are added are no epsilons.
_MOST_EPSILON = 1e-2


def _addition(site: CallSite) -> Iterator[Variant]:
    if len(site.scalars) == 1 and 0 < site.scalars[0] < _MOST_EPSILON:
        epsilon = site.scalars[0]
        yield (
            "norm_epsilon_inside_root",
            "epsilon is added to the square, under a root, torch adds it to the root",
            "add epsilon to the root",
            lambda f, a, k: (a[0].square() + epsilon).sqrt() * a[0].sign(),
        )
    if len(site.shapes) == 2:
        yield "term_missing", "the second term is not added", "add both terms", lambda f, a, k: a[0] + 0 * a[1]
        yield "term_missing", "the first term is not added", "add both terms", lambda f, a, k: 0 * a[0] + a[1]
        yield "term_sign", "the second term is subtracted", "add it", lambda f, a, k: a[0] - a[1]
        yield "term_doubled", "the first term is added twice", "add it once", lambda f, a, k: 2 * a[0] + a[1]
        yield "term_doubled", "the second term is added twice", "add it once", lambda f, a, k: a[0] + 2 * a[1]
        yield "product_for_sum", "the product stands where torch adds", "add", lambda f, a, k: a[0] * a[1]
        yield (
            "sum_averaged",
            "the mean of both terms stands where torch adds",
            "add",
            lambda f, a, k: (a[0] + a[1]) / 2,
        )


def _subtraction(site: CallSite) -> Iterator[Variant]:
    if len(site.shapes) == 2:
        yield "term_sign", "the terms are added", "subtract the second", lambda f, a, k: a[0] + a[1]
        yield "term_order", "the difference is taken the other way round", "swap the terms", lambda f, a, k: a[1] - a[0]
        yield "term_missing", "nothing is subtracted", "subtract the second term", lambda f, a, k: a[0] + 0 * a[1]


def _product(site: CallSite) -> Iterator[Variant]:
    word = "divide" if "div" in site.function else "multiply"
    yield "factor_missing", f"{site.function} is left out", f"{word} by it", lambda f, a, k: _broadcast(a, a[0])
    if len(site.shapes) == 2:
        yield "factor_missing", "the first factor is left out", "multiply by it", lambda f, a, k: _broadcast(a, a[1])
        if site.function in ("div", "true_divide"):
            yield "factor_inverted", "the factor multiplies, torch divides by it", "divide", lambda f, a, k: a[0] * a[1]
            yield "term_order", "the quotient is taken the other way round", "swap", lambda f, a, k: a[1] / a[0]
        else:
            yield (
                "factor_inverted",
                "it is divided by the factor, torch multiplies",
                "multiply",
                lambda f, a, k: a[0] / a[1],
            )
            yield "product_for_sum", "the sum stands where torch multiplies", "multiply", lambda f, a, k: a[0] + a[1]
            yield (
                "one_plus_factor",
                "the factor is 1 + weight",
                "multiply by weight alone",
                lambda f, a, k: a[0] * (1 + a[1]),
            )
            yield (
                "one_plus_factor",
                "the factor is 1 + weight",
                "multiply by weight alone",
                lambda f, a, k: (1 + a[0]) * a[1],
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


def _repetition(site: CallSite) -> Iterator[Variant]:
    """Copies of every entry one after the other, or of the whole axis block by block: heads shared by queries."""
    fix = "jnp.repeat" if site.function == "repeat_interleave" else "jnp.tile"

    def other(func: Any, args: Any, kwargs: Any) -> Any:
        x, result = first(args, kwargs), func(*args, **kwargs)
        (axis,) = (i for i, (a, b) in enumerate(zip(x.shape, result.shape, strict=True)) if a != b)
        copies = result.shape[axis] // x.shape[axis]
        if site.function == "repeat_interleave":
            return torch.cat([x] * copies, axis)
        return x.unsqueeze(axis + 1).expand(*x.shape[: axis + 1], copies, *x.shape[axis + 1 :]).flatten(axis, axis + 1)

    words = {"repeat_interleave": "the whole axis is repeated, torch repeats each entry"}
    told = words.get(site.function, "each entry is repeated, torch repeats the whole axis")
    yield "parts_interleaved", told, fix, other


def _running(site: CallSite) -> Iterator[Variant]:
    def backwards(func: Any, args: Any, kwargs: Any) -> Any:
        axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        return func(first(args, kwargs).flip(axis), *args[1:], **kwargs).flip(axis)

    yield "array_flipped", f"{site.function} runs from the end", "run from the beginning", backwards


def _rounding(site: CallSite) -> Iterator[Variant]:
    for other in ("round", "floor", "ceil", "trunc"):
        if other != site.function:
            words = f"{other} stands where torch has {site.function}"
            yield "rounding_mode", words, f"jnp.{site.function}", through(getattr(torch, other))
    yield "rounding_missing", "nothing is rounded", f"jnp.{site.function}", identity


def _detach(site: CallSite) -> Iterator[Variant]:
    yield (
        "gradient_not_stopped",
        "the gradient flows where torch stops it with detach()",
        "jax.lax.stop_gradient",
        identity,
    )


def _median(site: CallSite) -> Iterator[Variant]:
    def mean_of_two(func: Any, args: Any, kwargs: Any) -> Any:
        found = func(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            return first(args, kwargs).quantile(0.5)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
        return type(found)((first(args, kwargs).quantile(0.5, dim, keepdim), found[1]))

    yield (
        "median_of_even",
        "of an even number of values the mean of the middle two is taken, torch takes the lower",
        "jnp.sort(x, axis)[(n - 1) // 2]",
        mean_of_two,
    )


def _clamp(site: CallSite) -> Iterator[Variant]:
    yield "clamp_missing", "the values are not clipped", "jnp.clip", identity


def _mask(site: CallSite) -> Iterator[Variant]:
    yield "mask_missing", "the mask is not applied", "apply it", lambda f, a, k: a[0]
    yield "mask_inverted", "the mask is inverted", "apply it as torch does", on_operand(1, torch.logical_not)
    for other in (0.0, -1e9, -1e4, -torch.inf):
        yield (
            "mask_value",
            f"what is masked becomes {other:g}",
            "fill in torch's value",
            lambda f, a, k, other=other: a[0].masked_fill(a[1], other),  # type: ignore[misc]
        )


def _triangle(site: CallSite) -> Iterator[Variant]:
    by = int(site.arguments.get("diagonal", 0))
    for diagonal in (by - 1, by + 1):
        yield (
            "mask_shifted",
            f"the triangle begins at diagonal {diagonal}, torch's at {by}",
            f"k={by}",
            lambda f, a, k, diagonal=diagonal: f(a[0], diagonal),  # type: ignore[misc]
        )
    other = torch.triu if site.function == "tril" else torch.tril
    for diagonal in (by, -by):
        yield (
            "mask_direction",
            f"{other.__name__} stands where torch has {site.function}",
            f"jnp.{site.function}",
            lambda f, a, k, diagonal=diagonal: other(a[0], diagonal),  # type: ignore[misc]
        )


def _positions(site: CallSite) -> Iterator[Variant]:
    for by in (1, -1):
        words = f"positions start {'one later' if by > 0 else 'one earlier'} than torch's"
        yield "position_offset", words, "start where torch starts", after(lambda x, by=by: x + by)  # type: ignore[misc]


def _rotation(site: CallSite) -> Iterator[Variant]:
    """cos and sin: rotary and sinusoidal positions."""
    other = torch.cos if site.function == "sin" else torch.sin
    yield (
        "sine_cosine_swapped",
        f"{other.__name__} stands where torch has {site.function}",
        f"jnp.{site.function}",
        through(other),
    )
    if site.function == "sin":
        yield "sign", "the sine is negated: the rotation goes the other way", "keep torch's sign", after(torch.neg)
    for by in (1.0, -1.0):
        yield (
            "position_offset",
            f"positions are counted from {by:g}, torch counts from 0 (angles of axis -2)",
            "start where torch starts",
            through(lambda x, by=by: _shifted(site.function, x, by)),  # type: ignore[misc]
        )


def _shifted(function: str, angles: torch.Tensor, by: float) -> torch.Tensor:
    step = angles.narrow(-2, 1, 1) - angles.narrow(-2, 0, 1)
    return getattr(torch, function)(angles + by * step)


ARITHMETIC: dict[str, tuple[Maker, ...]] = {
    **dict.fromkeys(("flatten", "reshape", "view"), (_flatten,)),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), (_reduction,)),
    **dict.fromkeys(("var", "std"), (_variance,)),
    **dict.fromkeys(("add", "iadd", "__iadd__", "add_"), (_addition,)),
    **dict.fromkeys(("sub", "__isub__"), (_subtraction,)),
    **dict.fromkeys(("mul", "div", "true_divide", "__imul__"), (_product,)),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), (_concatenation,)),
    **dict.fromkeys(("repeat_interleave", "repeat", "tile"), (_repetition,)),
    **dict.fromkeys(("cumsum", "cumprod", "logcumsumexp"), (_running,)),
    **dict.fromkeys(("round", "floor", "ceil", "trunc", "fix"), (_rounding,)),
    "detach": (_detach,),
    "median": (_median,),
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max"), (_clamp,)),
    **dict.fromkeys(("masked_fill", "masked_fill_"), (_mask,)),
    **dict.fromkeys(("triu", "tril"), (_triangle,)),
    **dict.fromkeys(("sin", "cos"), (_rotation,)),
    "arange": (_positions,),
}
