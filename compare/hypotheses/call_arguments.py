"""The arguments of a call by name, and the same call with others."""

import ast
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

__all__ = ["Replacement", "given", "plain", "renamed", "tensors_of", "with_arguments"]

Replacement = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""``(function, args, kwargs) -> result``: what a call returns instead."""

# Names of the positional arguments of functions that are written in C, which tell none.
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_POSITIONS: dict[str, tuple[str, ...]] = {
    **{f"conv{n}d": _CONVOLUTION for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _TRANSPOSED for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _POOL for n in (1, 2, 3)},
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask", "dropout_p", "is_causal"),
    "linear": ("input", "weight", "bias"),
    "transpose": ("input", "dim0", "dim1"),
    "triu": ("input", "diagonal"),
    "tril": ("input", "diagonal"),
    "masked_fill": ("input", "mask", "value"),
    "pow": ("input", "exponent"),
    "__pow__": ("input", "exponent"),
    **dict.fromkeys(("softmax", "log_softmax", "cumsum", "cumprod", "chunk", "cat", "stack"), ("input", "dim")),
    "chunk": ("input", "chunks", "dim"),
    "split": ("input", "split_size", "dim"),
    "repeat_interleave": ("input", "repeats", "dim"),
    "roll": ("input", "shifts", "dims"),
}

_METHOD = type(torch.Tensor.add)
_OTHER_DEFAULTS = {"add", "sub", "add_", "sub_"}  # alpha, which scales the second term: a term's own mistake


def given(function: str, func: Any, args: Any, kwargs: Any) -> dict[Any, Any]:
    """The arguments of a call, defaults included, by name where that is known, else by place."""
    bound = _bound(func, args, kwargs)
    if bound is not None:
        return {str(name): value for name, value in bound.arguments.items()}
    names = _POSITIONS.get(function, ())
    left = {name: default for name, (place, default) in _documented(func).items() if place >= len(args)}
    return {**left, **{names[i] if i < len(names) else i: arg for i, arg in enumerate(args)}, **kwargs}


@functools.cache
def _documented(func: Any) -> dict[str, tuple[float, Any]]:
    """Argument -> place and default (a flag or a number) as the docstring of a function written in C tells them."""
    name, text = getattr(func, "__name__", ""), getattr(func, "__doc__", "") or ""
    found = re.search(rf"\b{re.escape(name)}\(([^\n]*?)\) ?->", text)
    if not found or "[" in found[1] or name in _OTHER_DEFAULTS:
        return {}
    method = isinstance(func, _METHOD) and not found[1].startswith(("input", "self"))
    arguments, place = {}, float(method)
    for part in found[1].split(","):
        word, _, default = (piece.strip() for piece in part.partition("="))
        if word == "*":
            place = float("inf")
            continue
        if default in ("True", "False") or re.fullmatch(r"-?[\d.]+", default):
            arguments[word] = (place, ast.literal_eval(default))
        place += 1
    return arguments


def _bound(func: Any, args: Any, kwargs: Any) -> inspect.BoundArguments | None:
    """The arguments by name, for functions written in Python that tell their names."""
    try:
        bound = inspect.signature(func).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    bound.apply_defaults()
    kinds = {parameter.kind for parameter in bound.signature.parameters.values()}
    return None if inspect.Parameter.VAR_POSITIONAL in kinds or inspect.Parameter.VAR_KEYWORD in kinds else bound


def with_arguments(function: str, changes: Mapping[Any, Any]) -> Replacement:
    """The same call with some of its arguments replaced, by name or by place.

    Args:
        function: name of the call.
        changes: as ``given`` names them.
    """
    names = _POSITIONS.get(function, ())

    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        bound = _bound(func, args, kwargs)
        if bound is not None:
            bound.arguments.update(changes)
            return func(*bound.args, **bound.kwargs)
        placed, named = list(args), dict(kwargs)
        for name, value in changes.items():
            place = name if isinstance(name, int) else names.index(name) if name in names else len(placed)
            if place < len(placed) and name not in named:
                placed[place] = value
            else:
                named[str(name)] = value
        return func(*placed, **named)

    return replace


def tensors_of(node: Any) -> Iterator[torch.Tensor]:
    """The tensors in arguments or results, in order."""
    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from tensors_of(value)
    elif isinstance(node, tuple | list):
        for value in node:
            yield from tensors_of(value)


def renamed(node: Any, tensors: Mapping[int, torch.Tensor]) -> Any:
    """Arguments with other tensors, by id, in the place of some."""
    if isinstance(node, torch.Tensor):
        return tensors.get(id(node), node)
    if isinstance(node, dict):
        return {key: renamed(value, tensors) for key, value in node.items()}
    if type(node) in (tuple, list):
        return type(node)(renamed(value, tensors) for value in node)
    return node


def plain(arguments: Mapping[str | int, Any]) -> dict[str | int, Any]:
    """The arguments that are no tensors."""
    return {key: value for key, value in arguments.items() if not any(True for _ in tensors_of(value))}
