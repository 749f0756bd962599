"""Mistakes that any call may be part of: left out, done twice, followed by another, its arrays in another order."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from compare.hypotheses.activations import FUNCTIONS
from compare.hypotheses.call_arguments import Replacement
from compare.hypotheses.edit import BOUNDARIES, CallSite
from compare.hypotheses.variant import Knob, Variant, after, identity, on_operand

__all__ = ["array_changes", "extra_calls", "relation", "reorderings", "scale_knobs"]

# Calls that only arrange the same numbers.
_ARRANGING = {"reshape", "view", "flatten", "unflatten", "permute", "transpose", "unsqueeze", "squeeze", "contiguous"}
_ARRANGING |= {"expand", "movedim", "swapaxes", "chunk", "split"}


def extra_calls(site: CallSite) -> Iterator[Variant]:
    """A call that is left out, done twice, or followed or preceded by one that torch does not make."""
    rank = len(site.result or ())
    arranges = site.function in _ARRANGING
    if not arranges and site.function not in BOUNDARIES and site.shapes and site.shapes[0] == site.result:
        yield "call_missing", f"{site.function} is left out", f"apply {site.function}", identity
        if site.repeat is not None:
            yield "call_doubled", f"{site.function} is applied twice", "apply it once", after(_tensor_only(site.repeat))
    if not arranges and rank:
        yield from _followed(site)
    for number in _activations_of(site):
        for name, function in FUNCTIONS.items():
            yield (
                "activation_extra",
                f"{name} is applied to {_ORDINALS[number]} array of {site.function}",
                f"leave {name} out",
                on_operand(number, function),
            )


_ORDINALS = ("the first", "the second", "the third", "the fourth", "the fifth", "the sixth", "the seventh")


def _activations_of(site: CallSite) -> Iterator[int]:
    """Tensor arguments that are computed, and are not what the call before returned: these are ``_followed`` there."""
    if site.function in BOUNDARIES:
        return
    for number, (shape, parameter) in enumerate(zip(site.shapes[:3], site.parameters, strict=False)):
        if shape and not parameter and (len(site.shapes) > 1 or number):
            yield number


def _followed(site: CallSite) -> Iterator[Variant]:
    where = f"after {site.function}" if site.function not in BOUNDARIES else _BOUNDARY_WORDS[site.function]
    for name, function in FUNCTIONS.items():
        yield "activation_extra", f"{name} is applied {where}", f"leave {name} out", after(function)
    for axis in range(-1, -((site.result is not None and len(site.result) + 1) or 1), -1):
        for name in ("softmax", "log_softmax"):
            yield (
                f"{name}_extra",
                f"{name} over axis {axis} is applied {where}",
                "leave it out",
                after(functools.partial(getattr(torch, name), dim=axis)),
            )
    normalised: list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = [
        ("a division by the Euclidean norm", lambda x: torch.nn.functional.normalize(x, dim=-1)),
        ("subtraction of the mean", lambda x: x - x.mean(-1, keepdim=True)),
        ("a normalisation to mean 0 and variance 1", lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:])),
    ]
    for words, function in normalised:
        name = "norm_mean_subtracted" if words.startswith("subtraction") else "norm_extra"
        yield name, f"{words} of the last axis stands {where}", "leave it out", after(function)


_BOUNDARY_WORDS = {"entering": "before the module", "returning": "at the end of the model"}


def _tensor_only(function: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    def applied(x: torch.Tensor) -> torch.Tensor:
        result = function(x)
        return result[0] if isinstance(result, tuple) else result

    return applied


def _edges(site: CallSite) -> Iterator[tuple[str, tuple[int, ...], str, Callable[..., Replacement]]]:
    """The arrays of a call: in words, shape, parameter name, and what changes them."""
    if site.result and site.function not in _ARRANGING:
        where = f"what {site.function} returns" if site.function not in BOUNDARIES else _BOUNDARY_ARRAYS[site.function]
        yield where, site.result, "", after
    if site.function in BOUNDARIES:
        return
    for number, (shape, name) in enumerate(zip(site.shapes, site.parameters, strict=True)):
        if number < 4:
            words = name or f"{_ORDINALS[number]} array of {site.function}"
            yield words, shape, name, lambda function, number=number: on_operand(number, function)


_BOUNDARY_ARRAYS = {"entering": "the module's input", "returning": "the model's output"}


def array_changes(site: CallSite) -> Iterator[Variant]:
    """One array of a call with another sign, order or precision."""
    for words, shape, _, change in _edges(site):
        yield "sign", f"{words} is negated", "leave the sign", change(torch.neg)
        for i, j in itertools.combinations(range(len(shape)), 2):
            if shape[i] == shape[j] and shape[i] > 1:
                name = "array_transposed"
                yield (
                    name,
                    f"axes {i} and {j} of {words} are exchanged; they are of one length, so no shape tells",
                    "keep the order of the axes",
                    change(lambda x, i=i, j=j: x.transpose(i, j)),
                )
        for axis in (axis for axis, size in enumerate(shape) if size > 1):
            yield (
                "array_flipped",
                f"axis {axis} of {words} runs the other way",
                "keep the order",
                change(lambda x, axis=axis: x.flip(axis)),
            )
            for by in (1, -1):
                yield (
                    "array_shifted",
                    f"axis {axis} of {words} is shifted by {by}, around the end",
                    "take it as it stands",
                    change(lambda x, axis=axis, by=by: x.roll(by, axis)),
                )
                yield (
                    "array_shifted",
                    f"axis {axis} of {words} is shifted by {by}, zeros coming in",
                    "take it as it stands",
                    change(lambda x, axis=axis, by=by: _shifted(x, axis, by)),
                )
            yield from _interleaved(words, axis, shape[axis], change)
        for bits in (torch.bfloat16, torch.float16, torch.float32):
            kind = str(bits).removeprefix("torch.")
            yield "rounded", f"{words} is rounded to {kind}", "keep its precision", change(_rounding(bits))


def _rounding(kind: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    def rounded(x: torch.Tensor) -> torch.Tensor:
        # Code that lifts low precision sees a torch function; a cast through an empty array is not one.
        import numpy as np

        values = x.detach().numpy()
        if kind is torch.bfloat16:
            import ml_dtypes

            low = values.astype(ml_dtypes.bfloat16).astype(values.dtype)
        else:
            low = values.astype(np.float16 if kind is torch.float16 else np.float32).astype(values.dtype)
        return x + (torch.from_numpy(low) - x).detach()

    return rounded


def _shifted(x: torch.Tensor, axis: int, by: int) -> torch.Tensor:
    size = x.shape[axis]
    kept = x.narrow(axis, max(-by, 0), size - abs(by))
    gap = torch.zeros_like(x.narrow(axis, 0, abs(by)))
    return torch.cat([gap, kept] if by > 0 else [kept, gap], axis)


def _interleaved(words: str, axis: int, size: int, change: Callable[..., Replacement]) -> Iterator[Variant]:
    """Pairs next to each other for two halves: (a, a', b, b') and (a, b, a', b'), as in rotary positions."""
    for parts in dict.fromkeys([2, 3, 4, size // 2]):
        if 1 < parts < size and size % parts == 0:
            yield (
                "parts_interleaved",
                f"axis {axis} of {words} holds {parts} parts in turns where torch has one after the other",
                "split the axis as torch does",
                change(lambda x, axis=axis, parts=parts: _turned(x, axis, parts)),
            )
    if size % 2 == 0 and size > 2:
        yield (
            "halves_swapped",
            f"the halves of axis {axis} of {words} are exchanged",
            "keep torch's order",
            change(lambda x, axis=axis: x.roll(x.shape[axis] // 2, axis)),
        )


def _turned(x: torch.Tensor, axis: int, parts: int) -> torch.Tensor:
    return x.unflatten(axis, (parts, -1)).transpose(axis, axis + 1).flatten(axis, axis + 1)


def reorderings(site: CallSite) -> Iterator[Variant]:
    """A reshape that takes or gives its axes in another order; arguments of a call exchanged."""
    if site.function in ("reshape", "view", "flatten", "unflatten") and site.shapes and site.result:
        given, taken = site.shapes[0], site.result
        orders = [p for p in itertools.permutations(range(len(given))) if list(p) != sorted(p)]
        for order in orders[:23]:
            yield (
                "flatten_order" if len(taken) < len(given) else "reshape_order",
                f"{site.function} takes the axes in the order {order}",
                "transpose to torch's order before reshaping",
                lambda f, a, k, order=order: a[0].permute(order).reshape(taken),  # type: ignore[misc]
            )
        for i, j in itertools.combinations(range(len(taken)), 2):
            yield (
                "reshape_order",
                f"{site.function} splits into axes {j} and {i} where torch has {i} and {j}",
                "split in torch's order (heads before their features)",
                lambda f, a, k, i=i, j=j: _split_otherwise(a[0], taken, i, j),  # type: ignore[misc]
            )
    floating = [n for n, name in enumerate(site.parameters) if not name]
    for i, j in itertools.combinations(floating[:4], 2):
        if site.shapes[i] == site.shapes[j] and site.function not in ("add", "mul", "cat", "stack"):
            yield (
                "arguments_swapped",
                f"{_ORDINALS[i]} and {_ORDINALS[j]} array of {site.function} are exchanged",
                "pass them in torch's order",
                lambda f, a, k, i=i, j=j: _exchanged(f, a, k, i, j),  # type: ignore[misc]
            )


def _split_otherwise(x: torch.Tensor, shape: Sequence[int], i: int, j: int) -> torch.Tensor:
    other = list(shape)
    other[i], other[j] = other[j], other[i]
    return x.reshape(other).transpose(i, j)


def _exchanged(func: Any, args: Any, kwargs: Any, i: int, j: int) -> Any:
    found: dict[int, torch.Tensor] = {}

    def keep(number: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def kept(x: torch.Tensor) -> torch.Tensor:
            found[number] = x
            return x

        return kept

    def nothing(*_args: Any, **_kwargs: Any) -> None:
        return None

    on_operand(i, keep(i))(nothing, args, kwargs)
    on_operand(j, keep(j))(nothing, args, kwargs)
    swapped = on_operand(i, lambda _: found[j])
    return on_operand(j, lambda _: found[i])(lambda *a, **k: swapped(func, a, k), args, kwargs)


def scale_knobs(site: CallSite) -> Iterator[Knob]:
    """Each array of a call times any number, or what it returns plus any number."""
    for words, shape, name, change in _edges(site):
        if name and not shape:
            continue
        yield Knob(
            lambda _: "scale_factor",
            lambda value, words=words: f"{words} is multiplied by {value}",  # type: ignore[misc]
            "leave the factor out",
            lambda value, change=change: change(lambda x: value * x),  # type: ignore[misc]
            start=1.0,
            sizes=(*shape, *(size for other in site.shapes for size in other)),
        )
    if site.result and site.function not in _ARRANGING:
        yield Knob(
            lambda _: "constant_added",
            lambda value: f"{value} is added to what {site.function} returns",
            "leave it out",
            lambda value: after(lambda x: x + value),
            start=0.0,
        )


def relation(value: float, sizes: Sequence[int]) -> str:
    """What a number is made of, if of the length of an axis: "0.25 = 1/sqrt(16)"."""
    lengths = dict.fromkeys(size for size in sizes if size > 1)
    products = (a * b for a, b in itertools.combinations(lengths, 2))  # heads times their features
    for n in dict.fromkeys([*lengths, *products]):
        forms = {f"{n}": n, f"1/{n}": 1 / n, f"sqrt({n})": math.sqrt(n), f"1/sqrt({n})": 1 / math.sqrt(n)}
        forms |= {f"{n}/{n - 1}": n / (n - 1), f"{n - 1}/{n}": (n - 1) / n}
        for words, number in forms.items():
            if abs(value - number) <= 1e-9 * abs(number):
                return words
    return ""
