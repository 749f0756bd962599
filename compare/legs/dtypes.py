"""Floating types beyond NumPy's: which one a model is used in, and how its arrays are read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from compare.structure import is_floating

__all__ = ["narrow_dtype", "shared_16_bit_type", "wide"]


def shared_16_bit_type(dtypes: Sequence[Any]) -> Any | None:
    """The 16-bit type of all floating parameters, of torch or of JAX: then the model is used in it. Else None."""
    floating = {dtype for dtype in dtypes if "float" in str(dtype)}
    return floating.pop() if len(floating) == 1 and max(floating, key=str).itemsize == 2 else None


def wide(result: Any) -> np.ndarray:
    """A NumPy array; of 16-bit floats, which NumPy does not know, in float32."""
    array = np.asarray(result)
    return array.astype(np.float32) if is_floating(array) and array.dtype.itemsize == 2 else array


def narrow_dtype(dtype: Any) -> Any:
    """The dtype that an array has outside 64-bit mode."""
    return {"float64": np.float32, "int64": np.int32, "uint64": np.uint32}.get(np.dtype(dtype).name, dtype)
