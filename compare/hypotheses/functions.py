"""Mistakes inside one function call, by the function's name.

Each entry turns a call into the variants that a port may compute in its place. A variant is ``(name of the cause,
summary, fix, replacement)``; the replacement receives the original function and its arguments.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from compare.hypotheses.edit import CallSite, Replacement

__all__ = ["Variant", "variants"]

Variant = tuple[str, str, str, Replacement]
Maker = Callable[[CallSite], Iterator[Variant]]

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
_EPSILONS = (
    1e-3,
    1e-4,
    1e-5,
    1e-6,
    1e-7,
    1e-8,
    1e-9,
    1e-10,
    1e-12,
    0.0,
    2e-5,
    1e-2,
    float(torch.finfo(torch.float32).eps),
)


def variants(site: CallSite) -> Iterator[Variant]:
    """All variants of the call at ``site``."""
    for maker in _MAKERS.get(site.function, ()):
        yield from maker(site)
    if any(site.scalars) and site.function in _ARITHMETIC:
        yield from _scalar_variants(site)
    yield "gradient_stopped", f"the gradient is stopped after {site.function}", "remove the stop_gradient", _detached


def _detached(func: Any, args: Any, kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    return result.detach() if isinstance(result, torch.Tensor) else result


def _first(args: Any, kwargs: Any) -> torch.Tensor:
    return args[0] if args else kwargs["input"]


def _identity(func: Any, args: Any, kwargs: Any) -> Any:
    return _first(args, kwargs)


def _through(function: Callable[[torch.Tensor], torch.Tensor]) -> Replacement:
    return lambda func, args, kwargs: function(_first(args, kwargs))


def _activation(site: CallSite) -> Iterator[Variant]:
    name = site.function
    yield "activation_missing", f"{name} is left out", f"apply {name} there", _identity
    for other, function in _ACTIVATIONS.items():
        if other != name:
            yield "activation_swapped", f"{other} stands where torch has {name}", f"use {name}", _through(function)
    yield (
        "activation_swapped",
        f"the sigmoid form of GELU stands where torch has {name}",
        f"use {name}",
        _through(lambda x: x * torch.sigmoid(1.702 * x)),
    )


def _gelu(site: CallSite) -> Iterator[Variant]:
    yield (
        "gelu_approximation",
        "the tanh approximation of GELU stands where torch has the exact one (jax.nn.gelu's default is tanh)",
        "jax.nn.gelu(x, approximate=False)",
        _through(lambda x: F.gelu(x, approximate="tanh")),
    )
    yield (
        "gelu_approximation",
        "the exact GELU stands where torch has the tanh approximation",
        "jax.nn.gelu(x, approximate=True)",
        _through(F.gelu),
    )


def _slope(site: CallSite) -> Iterator[Variant]:
    for slope in _SLOPES:
        yield (
            "leaky_slope",
            f"the negative slope is {slope:g}, torch's is another",
            "pass negative_slope as torch has it",
            _through(functools.partial(F.leaky_relu, negative_slope=slope)),
        )


def _elu(site: CallSite) -> Iterator[Variant]:
    for alpha in (0.5, 1.0, 2.0, 1.67326):
        yield "elu_alpha", f"alpha is {alpha:g}", "pass torch's alpha", _through(functools.partial(F.elu, alpha=alpha))


def _softplus(site: CallSite) -> Iterator[Variant]:
    yield (
        "softplus_threshold",
        "softplus is exact everywhere; torch's is the identity above its threshold of 20",
        "nothing, if 2e-9 does not matter: torch approximates here",
        _through(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
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
        lambda func, args, kwargs: other(_first(args, kwargs), _dim(args, kwargs)),
    )
    yield f"{here}_missing", f"{here} is left out", f"apply jax.nn.{here}", _identity
    for axis in range(len(site.shapes[0]) if site.shapes else 0):
        yield (
            "softmax_axis",
            f"{here} runs over axis {axis}",
            f"pass torch's axis to jax.nn.{here}",
            _along(same, axis),
        )


def _along(function: Callable[..., torch.Tensor], axis: int) -> Replacement:
    return lambda func, args, kwargs: function(_first(args, kwargs), axis)


def _dim(args: Any, kwargs: Any) -> int:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return -1 if dim is None else dim


def _with(**changes: Any) -> Replacement:
    """The same call with some of its named arguments replaced."""

    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        return func(**{**bound.arguments, **changes})

    return replace


def _norm(site: CallSite) -> Iterator[Variant]:
    kind = site.function
    for epsilon in _EPSILONS:
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
    yield "norm_missing", f"{kind} is left out", f"apply {kind} there", _identity


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


def _linear(site: CallSite) -> Iterator[Variant]:
    yield "bias_missing", "the bias is not added", "use_bias=True", _with_bias(lambda b: None)
    yield "bias_doubled", "the bias is added twice", "add it once", _with_bias(lambda b: 2 * b)
    yield "bias_sign", "the bias is subtracted", "add it", _with_bias(lambda b: -b)
    if site.function == "linear" and len(site.shapes) > 1 and len(set(site.shapes[1])) == 1:
        yield (
            "kernel_not_transposed",
            "the kernel is used untransposed: torch stores (out, in), Flax (in, out); it is square, so no shape tells",
            "kernel = weight.T",
            lambda func, args, kwargs: func(args[0], args[1].T, *args[2:], **kwargs),
        )


def _with_bias(change: Callable[[torch.Tensor], torch.Tensor | None]) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        if len(args) > 2:
            return func(*args[:2], None if args[2] is None else change(args[2]), *args[3:], **kwargs)
        bias = kwargs.get("bias")
        return func(*args, **{**kwargs, "bias": None if bias is None else change(bias)})

    return replace


def _convolution(site: CallSite) -> Iterator[Variant]:
    spatial = len(site.shapes[0]) - 2 if site.shapes else 2

    def flipped(func: Any, args: Any, kwargs: Any) -> Any:
        return func(args[0], args[1].flip(tuple(range(2, 2 + spatial))), *args[2:], **kwargs)

    yield "kernel_flipped", "the window of the kernel is reversed", "keep the window's order", flipped
    yield (
        "padding_same",
        'padding="SAME" stands for explicit padding: with a stride it pads the far side more',
        "padding=((p, p), ...) as torch has it",
        lambda func, args, kwargs: _same_padding(func, args, kwargs, spatial),
    )
    yield "padding_missing", "there is no padding", "pad as torch does", lambda f, a, k: f(*_conv(a, k, padding=0))


def _conv(args: Any, kwargs: Any, **changes: Any) -> tuple[Any, ...]:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    given = {**defaults, **dict(zip(names, args, strict=False)), **kwargs, **changes}
    return tuple(given[name] for name in names)


def _same_padding(func: Any, args: Any, kwargs: Any, spatial: int) -> Any:
    x, weight, bias, stride, _, dilation, groups = _conv(args, kwargs)
    strides = stride if isinstance(stride, tuple | list) else (stride,) * spatial
    dilations = dilation if isinstance(dilation, tuple | list) else (dilation,) * spatial
    pads: list[int] = []
    for size, k, s, d in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=False):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return func(F.pad(x, pads), weight, bias, stride, 0, dilation, groups)


def _dropout(site: CallSite) -> Iterator[Variant]:
    yield "dropout_missing", "dropout is left out", "apply dropout there in training", _identity
    yield (
        "dropout_unscaled",
        "what dropout keeps is not divided by 1 - rate",
        "divide by 1 - rate",
        lambda func, args, kwargs: func(*args, **kwargs) * (1 - _rate(args, kwargs)),
    )
    yield (
        "dropout_keep_for_rate",
        "the keep probability and the rate are exchanged in the scaling",
        "rate = 1 - keep probability",
        lambda func, args, kwargs: func(*args, **kwargs) * (1 - _rate(args, kwargs)) / _rate(args, kwargs),
    )


def _rate(args: Any, kwargs: Any) -> float:
    return kwargs.get("p", args[1] if len(args) > 1 else 0.5)


def _flatten(site: CallSite) -> Iterator[Variant]:
    n = len(site.shapes[0]) if site.shapes else 0
    if n >= 3:
        last = (0, *range(2, n), 1)
        yield (
            "flatten_order",
            "the array is flattened with channels last; torch flattens (channels, height, width)",
            "transpose to torch's layout before flattening",
            lambda func, args, kwargs: func(_first(args, kwargs).permute(last), *args[1:], **kwargs),
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
        return func(_first(args, kwargs), dim=axis, keepdim=bool(keepdim))

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
        return func(_first(args, kwargs), dim, correction=correction, keepdim=kwargs.get("keepdim", False))

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


_ARITHMETIC = {"add", "mul", "div", "sub", "rsub", "pow", "clamp", "maximum", "minimum", "true_divide", "__rsub__"}


def _scalar_variants(site: CallSite) -> Iterator[Variant]:
    """A constant in the code: another epsilon, a missing or inverted scale, another exponent."""
    value = site.scalars[0]
    candidates = dict.fromkeys(_EPSILONS, "norm_epsilon") if 0 < abs(value) < 1e-2 else {}
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
        _identity,
    )


def _clamp(site: CallSite) -> Iterator[Variant]:
    yield "clamp_missing", "the values are not clipped", "jnp.clip", _identity


def _pool(site: CallSite) -> Iterator[Variant]:
    spatial = int(site.function[-2]) if site.function[-2].isdigit() else 2
    maximum, average = getattr(F, f"max_pool{spatial}d"), getattr(F, f"avg_pool{spatial}d")
    if site.function.startswith("avg"):
        yield "pool_kind", "a maximum is taken, torch averages", "nnx.avg_pool", lambda f, a, k: maximum(*a[:4])
        yield (
            "pool_counts_padding",
            "padding is left out of the average's count",
            "count_include_pad=True",
            lambda f, a, k: f(*a, **{**k, "count_include_pad": False}),
        )
        yield (
            "pool_counts_padding",
            "padding counts in the average",
            "count_include_pad=False",
            lambda f, a, k: f(*a[:4], count_include_pad=True),
        )
    else:
        yield (
            "pool_kind",
            "an average is taken, torch takes the maximum",
            "nnx.max_pool",
            lambda f, a, k: average(*a[:4]),
        )


def _attention(site: CallSite) -> Iterator[Variant]:
    yield (
        "attention_scale_missing",
        "the scores are not divided by the root of the head size",
        "divide by sqrt(head_dim)",
        lambda f, a, k: f(*a, **{**k, "scale": 1.0}),
    )
    yield (
        "attention_not_causal",
        "the attention looks ahead; torch's is causal",
        "pass a causal mask",
        lambda f, a, k: f(*a, **{**k, "is_causal": False}),
    )
    yield (
        "attention_causal",
        "the attention is causal; torch's is not",
        "pass no causal mask",
        lambda f, a, k: f(*a, **{**k, "is_causal": True}),
    )
    yield (
        "attention_mask_missing",
        "the mask is not applied",
        "pass the mask",
        lambda f, a, k: f(*a[:3], **{**k, "attn_mask": None}),
    )


def _embedding(site: CallSite) -> Iterator[Variant]:
    def scaled(func: Any, args: Any, kwargs: Any) -> Any:
        rows = func(*args, **kwargs)
        return rows * rows.shape[-1] ** 0.5

    yield "embedding_scaled", "the embedding is multiplied by the root of its size", "use the rows as they are", scaled


_MAKERS: dict[str, tuple[Maker, ...]] = {
    **dict.fromkeys(_ACTIVATIONS, (_activation,)),
    "gelu": (_gelu, _activation),
    "leaky_relu": (_slope, _activation),
    "elu": (_elu, _activation),
    "softplus": (_softplus, _activation),
    "softmax": (_softmax,),
    "log_softmax": (_softmax,),
    "layer_norm": (_norm, _layer_norm),
    "rms_norm": (_norm,),
    "batch_norm": (_norm, _batch_norm),
    "group_norm": (_norm, _group_norm),
    "instance_norm": (_norm,),
    "linear": (_linear,),
    "conv1d": (_linear, _convolution),
    "conv2d": (_linear, _convolution),
    "conv3d": (_linear, _convolution),
    "conv_transpose1d": (_linear, _convolution),
    "conv_transpose2d": (_linear, _convolution),
    "dropout": (_dropout,),
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
    "max_pool1d": (_pool,),
    "max_pool2d": (_pool,),
    "avg_pool1d": (_pool,),
    "avg_pool2d": (_pool,),
    "scaled_dot_product_attention": (_attention,),
    "embedding": (_embedding,),
}
