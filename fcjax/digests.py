"""SHA-256 of arrays and texts: a bit that changes on a disk is seen."""

import hashlib
from collections.abc import Mapping

import numpy as np

__all__ = ["array_digest", "text_digest"]


def array_digest(arrays: Mapping[str, np.ndarray], heading: str = "") -> str:
    """Of ``heading`` and all arrays with their names, dtypes and shapes, whatever their order."""
    total = hashlib.sha256(heading.encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype.name} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).view(np.uint8) if array.shape else array.tobytes())
    return total.hexdigest()


def text_digest(text: str) -> str:
    """Of a text file's content."""
    return hashlib.sha256(text.encode()).hexdigest()
