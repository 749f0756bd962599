"""Mistakes in layers: kernels, biases, padding, dropout, pooling, attention, embeddings."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from compare.hypotheses.edit import CallSite, Replacement
from compare.hypotheses.variant import Maker, Variant, identity

__all__ = ["LAYERS"]


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
    yield "dropout_missing", "dropout is left out", "apply dropout there in training", identity
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


LAYERS: dict[str, tuple[Maker, ...]] = {
    "linear": (_linear,),
    "conv1d": (_linear, _convolution),
    "conv2d": (_linear, _convolution),
    "conv3d": (_linear, _convolution),
    "conv_transpose1d": (_linear, _convolution),
    "conv_transpose2d": (_linear, _convolution),
    "dropout": (_dropout,),
    "max_pool1d": (_pool,),
    "max_pool2d": (_pool,),
    "avg_pool1d": (_pool,),
    "avg_pool2d": (_pool,),
    "scaled_dot_product_attention": (_attention,),
    "embedding": (_embedding,),
}
