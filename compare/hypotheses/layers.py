"""Mistakes in layers: kernels, biases, padding, dropout, pooling, embeddings."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from compare.hypotheses.call_arguments import Replacement, given, with_arguments
from compare.hypotheses.edit import CallSite
from compare.hypotheses.variant import Maker, Variant, after, identity, on_operand

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
    window = tuple(range(2, 2 + spatial))
    yield (
        "kernel_flipped",
        "the window of the kernel is reversed",
        "keep the window's order (nnx.ConvTranspose: transpose_kernel=True)",
        on_operand(1, lambda w: w.flip(window)),
    )
    if spatial > 1:
        yield (
            "kernel_window_transposed",
            "height and width of the kernel are exchanged",
            "(out, in, height, width) becomes (height, width, in, out)",
            on_operand(1, lambda w: w.transpose(-1, -2)),
        )
    yield (
        "kernel_not_transposed",
        "input and output channels of the kernel are exchanged",
        "(out, in, *window) becomes (*window, in, out)",
        on_operand(1, lambda w: w.transpose(0, 1)),
    )
    for dilation in (1, 2, 3):
        yield (
            "dilation",
            f"the dilation is {dilation}, the padding such that the length is kept",
            "kernel_dilation= as torch has it",
            _dilated(site.function, dilation, spatial),
        )
    for word, low in (("SAME", False), ("SAME_LOWER", True)):
        yield (
            "padding_same",
            f'padding="{word}" stands for explicit padding: with a stride it pads one side more',
            "padding=((p, p), ...) as torch has it",
            lambda func, args, kwargs, low=low: _same_padding(site.function, func, args, kwargs, spatial, low),  # type: ignore[misc]
        )
    for kind in ("circular", "reflect", "replicate", "constant"):
        yield (
            "padding_mode",
            f"the padding is {kind}",
            "pad as torch's padding_mode says",
            lambda func, args, kwargs, kind=kind: _other_padding(site.function, func, args, kwargs, spatial, kind),  # type: ignore[misc]
        )


def _dilated(function: str, dilation: int, spatial: int) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        window = given(function, func, args, kwargs)["weight"].shape[-spatial:]
        padding = tuple(dilation * (size - 1) // 2 for size in window)
        changes = {"padding": padding, "dilation": (dilation,) * spatial}
        return with_arguments(function, changes)(func, args, kwargs)

    return replace


def _same_padding(function: str, func: Any, args: Any, kwargs: Any, spatial: int, low: bool) -> Any:
    call = given(function, func, args, kwargs)
    x, strides, dilations = (
        call["input"],
        _each(call.get("stride", 1), spatial),
        _each(call.get("dilation", 1), spatial),
    )
    pads: list[int] = []
    for size, k, s, d in zip(x.shape[2:], call["weight"].shape[2:], strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        less, more = total // 2, total - total // 2
        pads = [more, less, *pads] if low else [less, more, *pads]
    rest = (call["weight"], call.get("bias"), strides, 0, dilations, call.get("groups", 1))
    return func(F.pad(x, pads), *rest)


def _other_padding(function: str, func: Any, args: Any, kwargs: Any, spatial: int, kind: str) -> Any:
    call = given(function, func, args, kwargs)
    pads = [p for amount in reversed(_each(call.get("padding", 0), spatial)) for p in (amount, amount)]
    x = F.pad(call["input"], pads, mode=kind)
    rest = (call["weight"], call.get("bias"), call.get("stride", 1), 0, call.get("dilation", 1), call.get("groups", 1))
    return func(x, *rest)


def _each(value: Any, spatial: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * spatial


def _transposed_convolution(site: CallSite) -> Iterator[Variant]:
    """Windows of the full result: Flax's "SAME" and "VALID" cut it elsewhere than torch's padding does."""
    spatial = len(site.shapes[0]) - 2 if site.shapes else 2
    for shift in (-2, -1, 1, 2):
        yield (
            "transposed_padding",
            f"the result is cut {abs(shift)} {'earlier' if shift < 0 else 'later'} than torch's padding cuts it",
            "padding=((k - 1 - p, k - 1 - p), ...), with torch's p",
            lambda func, args, kwargs, shift=shift: _cut(site, func, args, kwargs, spatial, shift),  # type: ignore[misc]
        )


def _cut(site: CallSite, func: Any, args: Any, kwargs: Any, spatial: int, shift: int) -> Any:
    call = given(site.function, func, args, kwargs)
    size = func(*args, **kwargs).shape
    padding = _each(call.get("padding", 0), spatial)
    names = ("input", "weight", "bias", "stride")
    full = func(*(call.get(name, 1) for name in names), 0, 0, call.get("groups", 1), call.get("dilation", 1))
    full = F.pad(full, [4] * (2 * spatial))
    for axis, (length, before) in enumerate(zip(size[2:], padding, strict=True), start=2):
        full = full.narrow(axis, 4 + before + shift, length)
    return full


def _padding(site: CallSite) -> Iterator[Variant]:
    for mode in ("constant", "reflect", "replicate", "circular"):
        if mode != site.arguments.get("mode"):
            yield (
                "padding_mode",
                f"the padding is {mode}, torch's is {site.arguments.get('mode')}",
                "pad as torch does",
                with_arguments("pad", {"mode": mode, "value": None}),
            )


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

    def window(func: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        call = {**dict(zip(("input", "kernel_size", "stride", "padding"), args, strict=False)), **kwargs}
        return call["input"], call["kernel_size"], call.get("stride"), call.get("padding", 0)

    if site.function.startswith("avg"):
        yield (
            "pool_kind",
            "a maximum is taken, torch averages",
            "nnx.avg_pool",
            lambda f, a, k: maximum(*window(f, a, k)),
        )
        return
    yield (
        "pool_kind",
        "an average is taken, torch takes the maximum",
        "nnx.max_pool",
        lambda f, a, k: average(*window(f, a, k)),
    )
    yield (
        "pool_kind",
        "an average without the padding is taken, torch takes the maximum",
        "nnx.max_pool",
        lambda f, a, k: average(*window(f, a, k), count_include_pad=False),
    )

    def zero_padded(func: Any, args: Any, kwargs: Any) -> Any:
        x, size, stride, padding = window(func, args, kwargs)
        if not any(_each(padding, spatial)):
            raise ValueError("no padding")
        pads = [p for amount in reversed(_each(padding, spatial)) for p in (amount, amount)]
        return maximum(F.pad(x, pads), size, stride, 0)

    yield "pool_padding_value", "the padding is zero and may be the maximum", "pad with -infinity", zero_padded


def _embedding(site: CallSite) -> Iterator[Variant]:
    def scaled(root: float) -> Replacement:
        return after(lambda rows: rows * rows.shape[-1] ** root)

    def moved(by: int) -> Replacement:
        return lambda func, args, kwargs: func(args[0], args[1].roll(-by, 0), *args[2:], **kwargs)

    def shifted(by: int) -> Replacement:
        return lambda func, args, kwargs: func((args[0] + by).clamp(0, len(args[1]) - 1), *args[1:], **kwargs)

    fix = "use the rows as torch does"
    yield "embedding_scaled", "the embedding is multiplied by the root of its size", fix, scaled(0.5)
    yield "embedding_scaled", "the embedding is divided by the root of its size", fix, scaled(-0.5)
    for by in (1, -1, 2, -2):
        yield "embedding_shifted", f"row id{by:+d} is read for id", "index as torch does", shifted(by)
        yield (
            "embedding_shifted",
            f"row id{by:+d}, modulo their number, is read for id",
            "index as torch does",
            moved(by),
        )
    rows = site.shapes[1][0] if len(site.shapes) > 1 else 1
    padding = site.arguments.get("padding_idx")
    for row in dict.fromkeys([0, rows - 1, *([] if padding is None else [int(padding) % rows])]):
        yield (
            "padding_row",
            f"row {row} of the embedding gives zeros",
            "read the row as torch does",
            lambda f, a, k, row=row: f(*a, **k) * (a[0] != row).unsqueeze(-1),  # type: ignore[misc]
        )

    def frozen(func: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(args[1], torch.Tensor):  # without padding_idx the row's gradient counts
            return args[1][args[0]]
        return func(*args, **kwargs)

    if padding is not None:
        yield "padding_row_trained", "the padding row receives a gradient", "stop it there", frozen


def _interpolation(site: CallSite) -> Iterator[Variant]:
    rank = len(site.shapes[0]) - 2 if site.shapes else 2
    smooth = {1: "linear", 2: "bilinear", 3: "trilinear"}.get(rank, "bilinear")
    kinds = ["nearest", "nearest-exact", "area", smooth, *(["bicubic"] if rank == 2 else [])]
    for mode in kinds:
        for corners in (None,) if mode in kinds[:3] else (False, True):
            aligned = "" if corners is None else f", align_corners={corners}"
            yield (
                "interpolation_mode" if mode != site.arguments.get("mode") else "align_corners",
                f"the interpolation is {mode}{aligned}",
                f"interpolate as torch does ({site.arguments.get('mode')})",
                _interpolated(mode, corners),
            )


def _interpolated(mode: str, corners: bool | None) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        size = func(*args, **kwargs).shape[2:]
        return F.interpolate(args[0] if args else kwargs["input"], size=tuple(size), mode=mode, align_corners=corners)

    return replace


_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
LAYERS: dict[str, tuple[Maker, ...]] = {
    "linear": (_linear,),
    **dict.fromkeys(_CONVOLUTIONS, (_linear, _convolution)),
    **dict.fromkeys(_TRANSPOSED, (_linear, _convolution, _transposed_convolution)),
    "dropout": (_dropout,),
    "pad": (_padding,),
    **dict.fromkeys([f"{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)], (_pool,)),
    "embedding": (_embedding,),
    "interpolate": (_interpolation,),
}
