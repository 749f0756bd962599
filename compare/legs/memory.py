"""Parameters that hold nothing, and memory that was let go of, given back to the system.

The C library keeps what lay in its heap between arrays that live on. After a leg has run that is as much as the model.
"""

import ctypes
import functools
import sys
import time
from collections.abc import Callable

import torch

__all__ = ["give_back", "hollow", "is_hollow"]


# Seconds. Large models take longer between two calls; small ones, which do not, would spend a tenth of a check on it.
_AT_MOST_EVERY = 0.25
_last = -_AT_MOST_EVERY


def give_back() -> None:
    """Returns free memory to the system, where its C library can, unless that was done just before."""
    global _last
    now = time.monotonic()
    if now - _last >= _AT_MOST_EVERY:
        _trim()(0)
        _last = time.monotonic()


@functools.cache
def _trim() -> Callable[[int], object]:
    if sys.platform == "linux":
        try:
            return ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError):  # another C library than glibc
            pass
    return lambda _: None


def hollow(parameter: torch.nn.Parameter, dtype: torch.dtype | None = None) -> torch.nn.Parameter:
    """A parameter of the same shape that stands on a single number."""
    single = torch.zeros((), dtype=dtype or parameter.dtype)
    return torch.nn.Parameter(single.expand(parameter.shape), parameter.requires_grad)


def is_hollow(tensor: torch.Tensor) -> bool:
    """Whether there is less memory than numbers."""
    return tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize
