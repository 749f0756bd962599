"""What a hypothesis about one call is made of."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from compare.hypotheses.edit import CallSite, Replacement

__all__ = ["EPSILONS", "Maker", "Variant", "first", "identity", "through"]

Variant = tuple[str, str, str, Replacement]
"""Name of the cause, what is wrong, what to write instead, and what the call then returns."""

Maker = Callable[[CallSite], Iterator[Variant]]
"""From a call to what a port may compute in its place."""

EPSILONS = (
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
"""The epsilons that libraries use."""


def first(args: Any, kwargs: Any) -> torch.Tensor:
    """The array that a call works on."""
    return args[0] if args else kwargs["input"]


def identity(func: Any, args: Any, kwargs: Any) -> Any:
    """The call left out."""
    return first(args, kwargs)


def through(function: Callable[[torch.Tensor], torch.Tensor]) -> Replacement:
    """Another function of the same array."""
    return lambda func, args, kwargs: function(first(args, kwargs))
