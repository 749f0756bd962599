"""What every NumPy reference is: a PyTorch state as checked float64 arrays, and two passes over it."""

import abc
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compare.models.numpy_layers import Array, Cache, linear_forward

__all__ = ["Gradients", "Masks", "NumpyModel", "Shape", "checked_state", "expect_features", "expect_masks", "float64"]

Masks = Sequence[NDArray[np.bool_]]
Gradients = dict[str, Array]

Shape = tuple[int | str, ...]
"""Sizes of an array; a string stands for a size that is free, but the same wherever the string occurs."""


class NumpyModel(abc.ABC):
    """A model that is a checked state and two passes over it.

    Attributes:
        shapes: name -> expected shape of every entry of the state.
        buffers: those names that are not parameters.
    """

    shapes: ClassVar[Mapping[str, Shape]] = {}
    buffers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, state: Mapping[str, ArrayLike]) -> None:
        """Raises a ``ValueError`` that lists every missing, unexpected or misshapen entry of ``state``."""
        self.state = checked_state(type(self).__name__, state, self.shapes)

    @property
    def parameters(self) -> dict[str, Array]:
        """The state without its buffers."""
        return {name: array for name, array in self.state.items() if name not in self.buffers}

    @abc.abstractmethod
    def forward(self, inputs: ArrayLike, *, masks: Masks = ()) -> tuple[Array, Cache]:
        """The outputs, and what ``backward`` needs."""

    @abc.abstractmethod
    def backward(self, cotangents: ArrayLike, cache: Cache) -> tuple[Array, Gradients]:
        """From the gradient of a scalar with respect to the outputs, those with respect to inputs and parameters."""

    def _linear(self, name: str, x: Array) -> tuple[Array, Cache]:
        W, b = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        expect_features(x, W.shape[1], name)
        return linear_forward(x, W, b)


def expect_features(x: Array, features: int, layer: str) -> None:
    """Raises a ``ValueError`` that names ``layer`` unless ``x`` has shape ``(..., features)``."""
    if x.ndim == 0 or x.shape[-1] != features:
        raise ValueError(f"{layer}: expected input of shape (..., {features}), found {x.shape}")


def expect_masks(masks: Masks, calls: int) -> Sequence[NDArray[np.bool_] | None]:
    """``masks``, or a None for each of the ``calls`` of dropout when there are none (evaluation)."""
    if len(masks) == 0:
        return [None] * calls
    if len(masks) != calls:
        raise ValueError(f"masks: expected none or one for each of {calls} dropout calls, found {len(masks)}")
    return masks


def float64(array: ArrayLike) -> Array:
    """``array`` in the precision that all references compute in."""
    return np.asarray(array, dtype=np.float64)


def checked_state(
    model: str, state: Mapping[str, Any], shapes: Mapping[str, Shape], ignored: Collection[str] = ()
) -> dict[str, Array]:
    """Float64 copies of the arrays in ``state``, which must be exactly those that ``shapes`` names.

    Args:
        model: the model's name, for the message.
        state: PyTorch parameter or buffer name -> array in PyTorch's layout.
        shapes: name -> expected shape, for example ``{"fc1.weight": ("hidden", "input"), "fc1.bias": ("hidden",)}``.
        ignored: names that may be there and are left out of the result.

    Raises:
        ValueError: one that lists every missing, unexpected and misshapen entry.
    """
    arrays = {name: np.array(state[name], dtype=np.float64) for name in shapes if name in state}  # copies, on purpose
    sizes: dict[str, int] = {}
    faults = [f"{name}: missing" for name in shapes if name not in state]
    for name, array in sorted(arrays.items(), key=lambda item: item[1].ndim):  # vectors first: they can't be transposed
        if array.ndim == len(shapes[name]):
            for symbol, size in zip(shapes[name], array.shape, strict=True):
                if isinstance(symbol, str):
                    sizes.setdefault(symbol, size)
    for name, array in arrays.items():
        expected = tuple(sizes.get(s, s) if isinstance(s, str) else s for s in shapes[name])
        if array.shape != expected:
            slip = ": it looks transposed (PyTorch stores (out, in))" if array.shape == expected[::-1] else ""
            faults.append(f"{name}: expected shape {_text(expected)}, found {_text(array.shape)}{slip}")
    faults += [f"{name}: unexpected" for name in state if name not in shapes and name not in ignored]
    if faults:
        raise ValueError(f"{model}: the state does not fit:\n  " + "\n  ".join(faults))
    return arrays


def _text(shape: Shape) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"
