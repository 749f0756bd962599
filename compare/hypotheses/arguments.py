"""Every argument of every call may have another value: flags, axes, whole numbers; and numbers to be solved for."""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from compare.hypotheses.call_arguments import with_arguments
from compare.hypotheses.edit import BOUNDARIES, CallSite
from compare.hypotheses.variant import Knob, Variant

__all__ = ["NAMES", "argument_knobs", "axis_arguments", "default_arguments", "other_arguments"]

# What a cause is called, by argument.
NAMES = {
    "eps": "norm_epsilon",
    "negative_slope": "leaky_slope",
    "alpha": "elu_alpha",
    "beta": "activation_beta",
    "stride": "stride",
    "padding": "padding",
    "output_padding": "padding",
    "dilation": "dilation",
    "groups": "groups",
    "kernel_size": "window_size",
    "ceil_mode": "pool_ceil_mode",
    "count_include_pad": "pool_counts_padding",
    "align_corners": "align_corners",
    "antialias": "interpolation_antialias",
    "dim": "wrong_axis",
    "dim0": "wrong_axis",
    "dim1": "wrong_axis",
    "dims": "wrong_axis",
    "axis": "wrong_axis",
    "scale": "attention_scale",
    "exponent": "power",
    "value": "mask_value",
    "reduction": "loss_reduction",
    "label_smoothing": "label_smoothing",
    "ignore_index": "ignore_index",
    "delta": "loss_threshold",
}
# Nothing that a port's result depends on.
_SKIPPED = {"inplace", "training", "dtype", "device", "return_indices", "need_weights", "sparse", "padding_idx", "p"}
_SKIPPED |= {"max_norm", "norm_type", "scale_grad_by_freq", "embed_dim_to_check", "keepdim", "normalized_shape"}
_SKIPPED |= {"num_groups", "mode", "size", "scale_factor", "enable_gqa", "out", "dropout_p", "average_attn_weights"}
_MAKING = {"ones", "zeros", "full", "arange", "empty", "tensor", "eye", "ones_like", "zeros_like", "full_like"}
_MAKING |= {"lstm", "gru", "lstm_cell", "gru_cell", "multi_head_attention_forward"}
# Their axes are part of what the bank says about these calls.
_AXES_ELSEWHERE = {"softmax", "log_softmax", "mean", "sum", "amax", "amin"}
_WITH_AXES = {"softmax", "log_softmax", "sum", "mean", "amax", "amin", "var", "std", "cumsum", "cumprod", "transpose"}
_WITH_AXES |= {"cat", "concat", "stack", "chunk", "split", "flip", "roll", "unsqueeze", "squeeze", "repeat_interleave"}
_WITH_AXES |= {"swapaxes", "argmax", "max", "min", "norm", "logsumexp", "select", "narrow", "index_select", "gather"}
_WITH_AXES |= {"prod", "median", "normalize", "glu", "flatten", "cosine_similarity", "movedim"}


def default_arguments(site: CallSite) -> Iterator[Variant]:
    """The call with one argument left at its default: the commonest slip, and it explains before another function."""
    for key, value in site.arguments.items():
        default = _DEFAULTS.get((site.function, str(key)))
        if default is not None and isinstance(value, int | float) and value != default:
            yield (
                NAMES.get(str(key), "argument_value"),
                f"{key} of {site.function} is {default:g}, its default; torch's is {value:g}",
                f"use {value:g}",
                with_arguments(site.function, {key: default}),
            )


def _defaults() -> dict[tuple[str, str], float]:
    """Numbers that torch's functions take unless told: (function, argument) -> default."""
    found: dict[tuple[str, str], float] = {}
    for name in dir(torch.nn.functional):
        try:
            parameters = inspect.signature(getattr(torch.nn.functional, name)).parameters.values()
        except (TypeError, ValueError):
            continue
        found |= {(name, p.name): p.default for p in parameters if type(p.default) is float and p.name not in _SKIPPED}
    return found | {("softplus", "beta"): 1.0}


def other_arguments(site: CallSite) -> Iterator[Variant]:
    """The call with one of its arguments changed."""
    if site.function in BOUNDARIES or site.function in _MAKING:
        return
    for key, value in site.arguments.items():
        if key in _SKIPPED or (site.function in _AXES_ELSEWHERE and _is_axis(site, key, value)):
            continue
        name = NAMES.get(str(key), "argument_value")
        for other in _others(site, key, value):
            absent = name == "padding" and not any(other if isinstance(other, tuple) else (other,))
            constant = isinstance(key, int) and site.function in _ARITHMETIC
            called = "padding_missing" if absent else "wrong_axis" if _is_axis(site, key, value) else name
            called = _named(site, key, float(value))(float(other)) if constant else called
            label = f"{key} of" if isinstance(key, str) else "the constant of" if constant else f"argument {key} of"
            label = f"{label} {site.function}"
            yield (
                called,
                f"{label} is {other}, torch's is {value}",
                f"use {value}",
                with_arguments(site.function, {key: other}),
            )


def _is_axis(site: CallSite, key: str | int, value: Any) -> bool:
    named = key in ("dim", "dim0", "dim1", "dims", "axis", "start_dim", "end_dim")
    return isinstance(value, int) and (named or (isinstance(key, int) and site.function in _WITH_AXES))


def axis_arguments(site: CallSite) -> Iterator[tuple[str | int, int]]:
    """Arguments of the call that are one axis, of an array with several."""
    if site.shapes and site.shapes[0]:
        yield from ((key, value) for key, value in site.arguments.items() if _is_axis(site, key, value))


def _others(site: CallSite, key: str | int, value: Any) -> Iterator[Any]:
    rank = len(site.shapes[0]) if site.shapes else 0
    if isinstance(value, bool):
        yield not value
    elif key == "reduction":
        yield from (word for word in ("sum", "mean", "none", "batchmean") if word != value)
    elif _is_axis(site, key, value):
        yield from (axis for axis in range(rank) if axis != value % max(rank, 1))
        yield from ((), tuple(range(rank)), *itertools.combinations(range(rank), 2))
    elif key == "stride" and value is None:
        yield from (1, 2)
    elif isinstance(value, int):
        yield from (other for other in dict.fromkeys([value - 1, value + 1, -value, 2 * value, 0, 1]) if other != value)
    elif isinstance(value, tuple) and value and all(type(part) is int for part in value) and isinstance(key, str):
        if key in ("dim", "dims", "axis"):
            yield from ((axis,) for axis in range(rank))
            return
        for change in (-1, 1):
            yield tuple(part + change for part in value)
        yield tuple(2 * part for part in value)
        for fill in (0, 1, 2):
            if set(value) != {fill}:
                yield (fill,) * len(value)
        if len(set(value)) > 1:
            yield value[::-1]


def argument_knobs(site: CallSite) -> Iterator[Knob]:
    """Each floating argument, and each number of an elementwise call, of any value."""
    for key, value in site.arguments.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or key in _SKIPPED:
            continue
        elementwise = site.function in _ARITHMETIC
        base = site.function in ("__rpow__", "pow") and key in (0, 1, "self", "other", "base") and value > 0
        if isinstance(value, int) and not elementwise:
            continue
        yield Knob(
            _named(site, key, float(value)),
            lambda other, key=key, value=value: (  # type: ignore[misc]
                f"the constant of {site.function} is {other}, torch's is {value:g}"
                if isinstance(key, int)
                else f"{key} of {site.function} is {other}, torch's is {value:g}"
            ),
            f"use {value:g}",
            lambda other, key=key: with_arguments(site.function, {key: other}),  # type: ignore[misc]
            start=float(value),
            step=1e-3 if base else (-0.3 if site.function in _CLIPPING else 1e-3) * abs(value) or 1e-6,
            sizes=tuple(size for shape in site.shapes for size in shape),
            logarithmic=base,
        )
    yield from _together(site)


def _together(site: CallSite) -> Iterator[Knob]:
    """Both bounds of a clipping, scaled alike."""
    numbers = {key: float(value) for key, value in site.arguments.items() if type(value) in (int, float)}
    if site.function in _CLIPPING and len(numbers) > 1:
        bounds = ", ".join(f"{value:g}" for value in numbers.values())
        yield Knob(
            lambda _: "clamp_bounds",
            lambda factor: f"the bounds of {site.function} are {factor} times torch's, {bounds}",
            f"use {bounds}",
            lambda factor: with_arguments(site.function, {key: factor * value for key, value in numbers.items()}),
            start=1.0,
            step=-0.3,  # a small one would move few values: those that are clipped already
        )


_CLIPPING = {"clamp", "clip", "clamp_min", "clamp_max", "hardtanh"}
_DEFAULTS = _defaults()
_ARITHMETIC = {
    "add",
    "sub",
    "rsub",
    "__rsub__",
    "mul",
    "div",
    "true_divide",
    "__rdiv__",
    "__rtruediv__",
    "pow",
    "clamp",
}
_ARITHMETIC |= {"__pow__", "__rpow__", "maximum", "minimum", "__iadd__", "__imul__", "__idiv__", "reciprocal"}
_ARITHMETIC |= {"__radd__", "__rmul__", "clamp_min", "clamp_max", "clip", "__itruediv__"}


def _named(site: CallSite, key: str | int, value: float) -> Any:
    known = NAMES.get(str(key))
    if known:
        return lambda _: known

    def name(other: float) -> str:
        if "add" in site.function and 0 <= value < 1e-2 and 0 <= other <= 1e-1:
            return "norm_epsilon"
        if other == 0 and ("add" in site.function or "sub" in site.function):
            return "constant_missing"
        ratio = other / value if value else 0.0
        close = (
            {2.0: "constant_doubled", 0.5: "constant_halved", -1.0: "constant_sign", value**-2: "constant_inverted"}
            if value
            else {}
        )
        return next((word for r, word in close.items() if abs(ratio - r) < 1e-9 * abs(r)), "constant_value")

    return name
