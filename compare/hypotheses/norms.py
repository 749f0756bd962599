"""Mistakes in normalisation: epsilon, scale and bias, which statistics, over what."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from compare.hypotheses.edit import CallSite, Replacement
from compare.hypotheses.variant import EPSILONS, Maker, Variant, identity

__all__ = ["NORMS"]


def _norm(site: CallSite) -> Iterator[Variant]:
    kind = site.function
    for epsilon in EPSILONS:
        yield (
            "norm_epsilon",
            f"{kind} uses epsilon {epsilon:g}, torch another",
            "pass torch's eps as epsilon=",
            _with(eps=epsilon),
        )
    yield "norm_scale_missing", f"{kind} does not multiply by its scale", "use_scale=True", _with(weight=None)
    if kind != "rms_norm":
        yield "norm_bias_missing", f"{kind} does not add its bias", "use_bias=True", _with(bias=None)
        yield "norm_affine_missing", f"{kind} applies neither scale nor bias", "use both", _with(weight=None, bias=None)
    yield "norm_missing", f"{kind} is left out", f"apply {kind} there", identity


def _layer_norm(site: CallSite) -> Iterator[Variant]:
    def rewritten(unbiased: bool, centred: bool, outside: bool) -> Replacement:
        def replace(func: Any, args: Any, kwargs: Any) -> Any:
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            x, axes, eps = given["input"], tuple(range(-len(given["normalized_shape"]), 0)), given["eps"]
            mean = x.mean(axes, keepdim=True) if centred else torch.zeros((), dtype=x.dtype)
            variance = (
                x.var(axes, correction=int(unbiased), keepdim=True) if centred else (x * x).mean(axes, keepdim=True)
            )
            y = (x - mean) / ((variance.sqrt() + eps) if outside else (variance + eps).sqrt())
            y = y if given["weight"] is None else y * given["weight"]
            return y if given["bias"] is None else y + given["bias"]

        return replace

    yield (
        "norm_unbiased_variance",
        "the variance is divided by n - 1, torch divides by n",
        "use the biased variance (ddof=0)",
        rewritten(True, True, False),
    )
    yield (
        "norm_mean_not_subtracted",
        "the mean is not subtracted: this is RMSNorm",
        "use nnx.LayerNorm",
        rewritten(False, False, False),
    )
    yield (
        "norm_epsilon_outside_root",
        "epsilon is added to the standard deviation, torch adds it to the variance",
        "put epsilon under the root",
        rewritten(False, True, True),
    )


def _batch_norm(site: CallSite) -> Iterator[Variant]:
    yield (
        "batch_norm_batch_statistics",
        "BatchNorm normalises by the batch's own statistics in evaluation",
        "model.eval(), or use_running_average=True",
        _with(training=True),
    )
    yield (
        "batch_norm_running_statistics",
        "BatchNorm normalises by its running statistics in training",
        "model.train(), or use_running_average=False",
        _with(training=False),
    )


def _group_norm(site: CallSite) -> Iterator[Variant]:
    channels = site.shapes[0][1] if site.shapes and len(site.shapes[0]) > 1 else 1
    for groups in (n for n in range(1, channels + 1) if channels % n == 0):
        yield (
            "group_count",
            f"the norm has {groups} groups, torch another number",
            "pass torch's num_groups",
            _with(num_groups=groups),
        )


def _with(**changes: Any) -> Replacement:
    """The same call with some of its named arguments replaced."""

    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        return func(**{**bound.arguments, **changes})

    return replace


NORMS: dict[str, tuple[Maker, ...]] = {
    "layer_norm": (_norm, _layer_norm),
    "rms_norm": (_norm,),
    "batch_norm": (_norm, _batch_norm),
    "group_norm": (_norm, _group_norm),
    "instance_norm": (_norm,),
}
