"""Memory that was let go of, given back to the system.

The C library keeps what lay in its heap between arrays that live on. After a leg has run that is as much as the model.
"""

import ctypes
import functools
import sys
from collections.abc import Callable

__all__ = ["give_back"]


def give_back() -> None:
    """Returns free memory to the system, where its C library can."""
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    if sys.platform == "linux":
        try:
            return ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError):  # another C library than glibc
            pass
    return lambda _: None
