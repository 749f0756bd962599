"""The calls of some module classes, wrapped for a while."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["wrapped_calls"]


@contextmanager
def wrapped_calls(classes: Iterable[type], wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While open, ``__call__`` of ``classes`` is what ``wrap`` makes of it.

    Args:
        classes: whose calls are wrapped; each definition once, also where it is inherited.
        wrap: from the original call to the one that stands in its place.
    """
    # The class that defines the call, which may be a base of the module's own.
    found = [[base for base in cls.__mro__ if "__call__" in vars(base)] for cls in classes]
    definers: set[Any] = {bases[0] for bases in found if bases}
    originals = {cls: vars(cls)["__call__"] for cls in definers}
    for cls, call in originals.items():
        cls.__call__ = wrap(call)
    try:
        yield
    finally:
        for cls, call in originals.items():
            cls.__call__ = call
