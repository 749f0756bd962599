"""What a hypothesis about one call is made of."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from compare.hypotheses.call_arguments import Replacement
from compare.hypotheses.edit import CallSite

__all__ = ["Knob", "Maker", "Variant", "after", "first", "identity", "on_operand", "through"]

Variant = tuple[str, str, str, Replacement]
"""Name of the cause, what is wrong, what to write instead, and what the call then returns."""

Maker = Callable[[CallSite], Iterator[Variant]]
"""From a call to what a port may compute in its place."""


@dataclasses.dataclass(frozen=True)
class Knob:
    """A mistake with one unknown number, which is solved for.

    Args:
        name: of the cause, given the number.
        summary, fix: in words, given the number.
        replace: what the call returns, given the number.
        start: torch's number.
        step: how far to move it at first.
        sizes: lengths of axes that the number may be made of (a root, a reciprocal).
        logarithmic: whether its logarithm is solved for: a positive number that may be off by a power of ten.
    """

    name: Callable[[float], str]
    summary: Callable[[str], str]
    fix: str
    replace: Callable[[float], Replacement]
    start: float
    step: float = 1e-3
    sizes: tuple[int, ...] = ()
    logarithmic: bool = False


def first(args: Any, kwargs: Any) -> torch.Tensor:
    """The array that a call works on."""
    return args[0] if args else kwargs["input"]


def identity(func: Any, args: Any, kwargs: Any) -> Any:
    """The call left out."""
    return first(args, kwargs)


def through(function: Callable[[torch.Tensor], torch.Tensor]) -> Replacement:
    """Another function of the same array."""
    return lambda func, args, kwargs: function(first(args, kwargs))


def after(function: Callable[[torch.Tensor], torch.Tensor]) -> Replacement:
    """The call, and then ``function`` of its (first) result."""

    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        if isinstance(result, tuple):
            return (function(result[0]), *result[1:])
        return function(result)

    return replace


def on_operand(number: int, function: Callable[[torch.Tensor], torch.Tensor]) -> Replacement:
    """The call with its ``number``-th tensor argument changed, counted as ``CallSite.shapes`` does."""

    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        seen = -1

        def walk(node: Any) -> Any:
            nonlocal seen
            if isinstance(node, torch.Tensor):
                seen += 1
                return function(node) if seen == number else node
            if type(node) in (tuple, list):
                return type(node)(walk(value) for value in node)
            return node

        changed = [walk(arg) for arg in args]
        return func(*changed, **{name: walk(value) for name, value in kwargs.items()})

    return replace
