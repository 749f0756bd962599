"""The activation functions in NumPy, each with its backward pass, from arithmetic of their own.

Nothing overflows: every exponential is of ``-|x|`` or of a difference to the maximum. At ties the derivative is
PyTorch's (0 for relu at 0). Not-a-number in gives not-a-number out; ``gelu`` and ``silu`` give it at -inf as well
(inf times 0, there and in PyTorch and JAX), although their limit is 0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NUMPY_ACTIVATIONS", "NumpyActivation", "get_numpy_activation"]

Array = NDArray[np.float64]


class NumpyActivation(NamedTuple):
    """A function and its backward pass.

    Attributes:
        forward: ``x -> y``, both of shape ``(..., n)``.
        backward: ``(dy, x) -> dx``: the cotangent of the output and the input to the cotangent of the input.
    """

    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]


def elementwise(function: Callable[[Array], Array], derivative: Callable[[Array], Array]) -> NumpyActivation:
    """An activation that treats every number alike, so that ``dx = dy * derivative(x)``."""
    # The invalid operations are those at nan and ±inf; cubes of huge numbers overflow to the right limit.
    quiet = np.errstate(invalid="ignore", over="ignore")
    return NumpyActivation(quiet(function), quiet(lambda dy, x: dy * derivative(x)))


def sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1.0) / (1.0 + small)


def sigmoid_derivative(x: Array) -> Array:
    small = np.exp(-np.abs(x))  # the derivative is even, so the stable side serves both
    return small / (1.0 + small) ** 2


def tanh_derivative(x: Array) -> Array:
    return 4.0 * sigmoid_derivative(2.0 * x)


def normal_cdf(x: Array) -> Array:
    return 0.5 * np.asarray(_erfc(-x / math.sqrt(2.0)), dtype=np.float64)  # erfc keeps the digits of the lower tail


_erfc = np.frompyfunc(math.erfc, 1, 1)


def gelu_derivative(x: Array) -> Array:
    density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return normal_cdf(x) + x * density


CUBIC = 0.044715
"""The constant of GELU's tanh approximation."""


def gelu_tanh_argument(x: Array) -> Array:
    return math.sqrt(2.0 / math.pi) * (x + CUBIC * x**3)


def gelu_tanh(x: Array) -> Array:
    return x * sigmoid(2.0 * gelu_tanh_argument(x))  # (1 + tanh u) / 2 = sigmoid(2u)


def gelu_tanh_derivative(x: Array) -> Array:
    u = 2.0 * gelu_tanh_argument(x)
    slope = 2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * CUBIC * x * x)
    return sigmoid(u) + x * sigmoid_derivative(u) * slope


def silu_derivative(x: Array) -> Array:
    return sigmoid(x) * (1.0 + x * sigmoid(-x))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))  # (..., n), the largest is 1
    return powers / powers.sum(axis=-1, keepdims=True)


def softmax_backward(dy: Array, x: Array) -> Array:
    y = softmax(x)
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


def log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def log_softmax_backward(dy: Array, x: Array) -> Array:
    return dy - softmax(x) * dy.sum(axis=-1, keepdims=True)


def _quiet(forward: Callable[[Array], Array], backward: Callable[[Array, Array], Array]) -> NumpyActivation:
    quiet = np.errstate(invalid="ignore")  # inf - inf where a logit is infinite
    return NumpyActivation(quiet(forward), quiet(backward))


# Comparisons are written so that nan fails them and is passed on.
NUMPY_ACTIVATIONS: dict[str, NumpyActivation] = {
    "linear": elementwise(lambda x: x, np.ones_like),
    "relu": elementwise(lambda x: np.where(x <= 0, 0.0, x), lambda x: np.where(np.isnan(x), x, x > 0)),
    "leaky_relu": elementwise(
        lambda x: np.where(x <= 0, 0.01 * x, x), lambda x: np.where(np.isnan(x), x, np.where(x > 0, 1.0, 0.01))
    ),
    "elu": elementwise(
        lambda x: np.where(x <= 0, np.expm1(np.where(x > 0, 0.0, x)), x), lambda x: np.exp(np.where(x > 0, 0.0, x))
    ),
    "gelu": elementwise(lambda x: x * normal_cdf(x), gelu_derivative),
    "gelu_tanh": elementwise(gelu_tanh, gelu_tanh_derivative),
    "silu": elementwise(lambda x: x * sigmoid(x), silu_derivative),
    "sigmoid": elementwise(sigmoid, sigmoid_derivative),
    "tanh": elementwise(np.tanh, tanh_derivative),
    "softplus": elementwise(lambda x: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))), sigmoid),
    "softmax": _quiet(softmax, softmax_backward),
    "log_softmax": _quiet(log_softmax, log_softmax_backward),
}


def get_numpy_activation(name: str) -> NumpyActivation:
    """The activation called ``name``; a ``ValueError`` that lists all of them for any other name."""
    if name not in NUMPY_ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(NUMPY_ACTIVATIONS)}; found {name!r}")
    return NUMPY_ACTIVATIONS[name]
