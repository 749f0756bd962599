"""Mistakes in normalisation: epsilon, scale and bias, which statistics, over what."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from compare.hypotheses.call_arguments import Replacement, given, with_arguments
from compare.hypotheses.edit import CallSite
from compare.hypotheses.variant import Knob, Maker, Variant, identity

__all__ = ["NORMS", "norm_knobs"]


def _norm(site: CallSite) -> Iterator[Variant]:
    kind = site.function

    def without(*names: str) -> Replacement:
        return with_arguments(kind, dict.fromkeys(names))

    yield "norm_scale_missing", f"{kind} does not multiply by its scale", "use_scale=True", without("weight")
    if kind != "rms_norm":
        yield "norm_bias_missing", f"{kind} does not add its bias", "use_bias=True", without("bias")
        yield "norm_affine_missing", f"{kind} has neither scale nor bias", "use both", without("weight", "bias")
    yield "norm_missing", f"{kind} is left out", f"apply {kind} there", identity
    yield (
        "norm_scale_plus_one",
        f"{kind} multiplies by 1 + its scale",
        "multiply by the scale alone",
        _rewritten(kind, one_plus=True),
    )
    yield (
        "norm_unbiased_variance",
        "the variance is divided by n - 1, torch divides by n",
        "use the biased variance (ddof=0)",
        _rewritten(kind, correction=1),
    )
    yield (
        "norm_epsilon_outside_root",
        "epsilon is added to the standard deviation, torch adds it to the variance",
        "put epsilon under the root",
        _rewritten(kind, outside=True),
    )
    yield (
        "norm_root_missing",
        f"{kind} divides by the variance, torch by its root",
        "divide by sqrt(variance + epsilon)",
        _rewritten(kind, power=-1.0),
    )
    yield (
        "norm_variance_missing",
        f"{kind} subtracts the mean and divides by nothing",
        "divide by sqrt(variance + epsilon)",
        _rewritten(kind, power=0.0),
    )
    if kind == "rms_norm":
        yield (
            "norm_mean_subtracted",
            "the mean is subtracted: this is LayerNorm",
            "use nnx.RMSNorm",
            _rewritten(kind, centred=True),
        )
    else:
        yield (
            "norm_mean_not_subtracted",
            "the mean is not subtracted: this is RMSNorm" if kind == "layer_norm" else "the mean is not subtracted",
            f"use {kind}",
            _rewritten(kind, centred=False),
        )
    yield (
        "sum_for_mean",
        "the sum of the squares stands where torch has their mean",
        "take the mean",
        _rewritten(kind, summed=True),
    )
    yield from _other_axes(site)


def _other_axes(site: CallSite) -> Iterator[Variant]:
    n = len(site.shapes[0]) if site.shapes else 0
    single = [(axis,) for axis in range(n)]
    several = [tuple(range(start, n)) for start in range(1, n - 1)] + [tuple(range(n))]
    several += [(0, *range(2, n))] if n > 2 else []
    own = {"batch_norm": (0, *range(2, n)), "instance_norm": tuple(range(2, n))}.get(site.function)
    for axes in dict.fromkeys([*single, *several]):
        if axes == own:
            continue
        yield (
            "norm_axes",
            f"{site.function} takes its statistics over {_axes_in_words(axes)} (in torch's layout)",
            "normalise over torch's axes",
            _rewritten(site.function, axes=axes),
        )


def _axes_in_words(axes: Sequence[int]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {tuple(axes)}"


def _rewritten(
    kind: str,
    correction: int = 0,
    centred: bool | None = None,
    outside: bool = False,
    power: float = -0.5,
    one_plus: bool = False,
    axes: Sequence[int] | None = None,
    epsilon: float | None = None,
    summed: bool = False,
) -> Replacement:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias``, with something else than torch has.

    Args:
        kind: torch's function.
        correction: the variance is divided by n - correction.
        centred: whether the mean is subtracted; None as torch does.
        outside: whether epsilon is added to the root.
        power: of the variance; -1/2 is torch's.
        one_plus: whether the factor is 1 + scale.
        axes: of the statistics; None for torch's.
        epsilon: None for torch's.
        summed: whether the variance is divided by nothing.
    """

    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        call = given(kind, func, args, kwargs)
        x, eps = call["input"], call["eps"] if epsilon is None else epsilon
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        keeps_mean = kind == "rms_norm" if centred is None else not centred
        if kind == "batch_norm" and not call["training"] and axes is None:
            mean, variance = _beside(call["running_mean"], x), _beside(call["running_var"], x)
            mean = torch.zeros_like(mean) if keeps_mean else mean
            y = x
        else:
            y = x.reshape(x.shape[0], call["num_groups"], -1) if kind == "group_norm" and axes is None else x
            over = tuple(axes) if axes is not None else _own_axes(kind, y, call)
            mean = torch.zeros((), dtype=x.dtype) if keeps_mean else y.mean(over, keepdim=True)
            variance = ((y - y.mean(over, keepdim=True)) if not keeps_mean else y).square().mean(over, keepdim=True)
            count = y.numel() / variance.numel()
            variance = variance * count if summed else variance * count / (count - correction)
        root = (variance**-power + eps) ** -1.0 if outside else (variance + eps) ** power
        y = ((y - mean) * root).reshape(x.shape)
        weight, bias = call.get("weight"), call.get("bias")
        beside = (lambda p: p) if kind in ("layer_norm", "rms_norm") else (lambda p: _beside(p, x))
        y = y if weight is None else y * (beside(weight) + int(one_plus))
        return y if bias is None else y + beside(bias)

    return replace


def _own_axes(kind: str, x: torch.Tensor, call: Any) -> tuple[int, ...]:
    if kind in ("layer_norm", "rms_norm"):
        return tuple(range(-len(call["normalized_shape"]), 0))
    if kind == "group_norm":
        return (-1,)
    return (0, *range(2, x.dim())) if kind == "batch_norm" else tuple(range(2, x.dim()))


def _beside(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One value per channel, as it is broadcast over (batch, channels, *window)."""
    return values.reshape(-1, *[1] * (x.dim() - 2))


def _batch_norm(site: CallSite) -> Iterator[Variant]:
    yield (
        "batch_norm_batch_statistics",
        "BatchNorm normalises by the batch's own statistics in evaluation",
        "model.eval(), or use_running_average=True",
        with_arguments(site.function, {"training": True, "momentum": 0.0}),
    )
    channels = site.shapes[0][1] if site.shapes and len(site.shapes[0]) > 1 else 1
    # torch keeps none with track_running_stats=False: what a port starts with are 0 and 1.
    fresh = {} if "running_mean" not in site.arguments else {"running_mean": torch.zeros(channels, dtype=torch.float64)}
    fresh |= {"running_var": torch.ones(channels, dtype=torch.float64)} if fresh else {}
    yield (
        "batch_norm_running_statistics",
        "BatchNorm normalises by running statistics where torch takes the batch's own",
        "model.train(), or use_running_average=False",
        with_arguments(site.function, {"training": False, **fresh}),
    )

    def exchanged(func: Any, args: Any, kwargs: Any) -> Any:
        call = given(site.function, func, args, kwargs)
        swapped = {"running_mean": call["running_var"], "running_var": call["running_mean"].abs()}
        return with_arguments(site.function, swapped)(func, args, kwargs)

    def squared(func: Any, args: Any, kwargs: Any) -> Any:
        call = given(site.function, func, args, kwargs)
        change = {"running_var": call["running_var"] ** 2 - call["eps"]}
        return with_arguments(site.function, change)(func, args, kwargs)

    yield "batch_norm_statistics_swapped", "running mean and variance are exchanged", "map each to its own", exchanged
    yield (
        "batch_norm_variance_as_deviation",
        "the running variance is taken for the standard deviation",
        "divide by sqrt(variance + epsilon)",
        squared,
    )


def _group_norm(site: CallSite) -> Iterator[Variant]:
    channels = site.shapes[0][1] if site.shapes and len(site.shapes[0]) > 1 else 1
    for groups in (n for n in range(1, channels + 1) if channels % n == 0):
        yield (
            "group_count",
            f"the norm has {groups} groups, torch another number",
            "pass torch's num_groups",
            with_arguments(site.function, {"num_groups": groups}),
        )

    def interleaved(func: Any, args: Any, kwargs: Any) -> Any:
        call = given(site.function, func, args, kwargs)
        x, groups = call["input"], call["num_groups"]
        order = torch.arange(x.shape[1]).reshape(groups, -1).T.reshape(-1)
        plain = func(x[:, torch.argsort(order)], groups, None, None, call["eps"])[:, order]
        weight, bias = call["weight"], call["bias"]
        plain = plain if weight is None else plain * _beside(weight, x)
        return plain if bias is None else plain + _beside(bias, x)

    yield "group_order", "each group takes every k-th channel", "groups are neighbouring channels", interleaved


def norm_knobs(site: CallSite) -> Iterator[Knob]:
    """An epsilon of any value."""
    if site.function not in NORMS or "eps" not in site.arguments:
        return
    eps = site.arguments["eps"]
    eps = float(torch.finfo(torch.float64).eps) if eps is None else float(eps)
    for name, outside in (("norm_epsilon", False), ("norm_epsilon_outside_root", True)):
        where = " added to the standard deviation" if outside else ""
        yield Knob(
            lambda _, name=name: name,  # type: ignore[misc]
            lambda value, where=where: f"{site.function} has epsilon {value}{where}, torch has {eps:g}",  # type: ignore[misc]
            f"epsilon={eps:g}",
            lambda value, outside=outside: _rewritten(site.function, epsilon=value, outside=outside),  # type: ignore[misc]
            start=eps,
            step=max(eps, 1e-8),
        )


NORMS: dict[str, tuple[Maker, ...]] = {
    "layer_norm": (_norm,),
    "rms_norm": (_norm,),
    "batch_norm": (_batch_norm, _norm),
    "group_norm": (_group_norm, _norm),
    "instance_norm": (_norm,),
}
