"""Layers in NumPy, forward and backward by hand, in float64.

Each pair is ``forward(x, parameters) -> out, cache`` and ``backward(dout, cache) -> dx, gradients of the parameters``.
``dout`` is the gradient of some scalar with respect to ``out``; the results are its gradients with respect to the
rest. Weights are in PyTorch's layout, ``(out, in)``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "batch_norm_backward",
    "batch_norm_eval_backward",
    "batch_norm_eval_forward",
    "batch_norm_forward",
    "dropout_backward",
    "dropout_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_forward",
]

Array = NDArray[np.float64]
Cache = Any

EPSILON = 1e-5
"""What PyTorch's norms add to a variance."""


def linear_forward(x: Array, W: Array, b: Array | None = None) -> tuple[Array, Cache]:
    """``y = x Wᵀ + b`` for ``x`` of shape ``(..., in)``, ``W`` ``(out, in)``, ``b`` ``(out,)`` or None."""
    out = x @ W.T  # (..., in) @ (in, out) -> (..., out)
    if b is not None:
        out = out + b  # (..., out) + (out,)
    return out, (x, W)


def linear_backward(dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """``dx``, ``dW`` and ``db`` (which a layer without bias ignores)."""
    x, W = cache
    dx = dout @ W  # (..., out) @ (out, in) -> (..., in)
    dout = dout.reshape(-1, W.shape[0])  # (samples, out)
    x = x.reshape(-1, W.shape[1])  # (samples, in)
    dW = dout.T @ x  # (out, samples) @ (samples, in) -> (out, in)
    db = dout.sum(axis=0)  # (samples, out) -> (out,)
    return dx, dW, db


def dropout_forward(x: Array, keep: NDArray[np.bool_] | None, rate: float) -> tuple[Array, Cache]:
    """``y = x * keep / (1 - rate)``; ``keep`` is the mask of ``x``'s shape, or None in evaluation, where ``y = x``."""
    if keep is None:
        return x, None
    if keep.shape != x.shape:
        raise ValueError(f"dropout: expected a keep-mask of shape {x.shape}, found {keep.shape}")
    factor = keep / (1.0 - rate)  # x's shape
    return x * factor, factor


def dropout_backward(dout: Array, cache: Cache) -> Array:
    return dout if cache is None else dout * cache


def layer_norm_forward(x: Array, gamma: Array, beta: Array) -> tuple[Array, Cache]:
    """``gamma (x - mean) / √(variance + 1e-5) + beta``, moments over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)  # (..., n)
    variance = (centred**2).mean(axis=-1, keepdims=True)  # (..., 1)
    inverse = 1.0 / np.sqrt(variance + EPSILON)  # (..., 1)
    z = centred * inverse  # (..., n)
    return gamma * z + beta, (z, inverse, gamma)


def layer_norm_backward(dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """``dx``, ``dgamma``, ``dbeta``."""
    z, inverse, gamma = cache
    dz = dout * gamma  # (..., n)
    through_mean = dz.mean(axis=-1, keepdims=True)  # (..., 1)
    through_variance = z * (dz * z).mean(axis=-1, keepdims=True)  # (..., n)
    dx = inverse * (dz - through_mean - through_variance)  # (..., n)
    samples = tuple(range(dout.ndim - 1))
    return dx, (dout * z).sum(axis=samples), dout.sum(axis=samples)  # (..., n), (n,), (n,)


def batch_norm_forward(x: Array, gamma: Array, beta: Array) -> tuple[Array, Cache, tuple[Array, Array]]:
    """The training mode: moments over the batch of ``x``, ``(batch, n)``.

    Returns:
        The output; the cache; the batch's mean and its *unbiased* variance, each ``(n,)``, which PyTorch averages into
        its running statistics.

    Raises:
        ValueError: for fewer than two samples, which have no variance.
    """
    batch = x.shape[0]
    if x.ndim != 2 or batch < 2:
        raise ValueError(f"batch norm: expected input of shape (batch of at least 2, features), found {x.shape}")
    mean = x.mean(axis=0)  # (n,)
    centred = x - mean  # (batch, n)
    variance = (centred**2).mean(axis=0)  # (n,)
    inverse = 1.0 / np.sqrt(variance + EPSILON)  # (n,)
    z = centred * inverse  # (batch, n)
    return gamma * z + beta, (z, inverse, gamma), (mean, variance * batch / (batch - 1))


def batch_norm_backward(dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """``dx``, ``dgamma``, ``dbeta``."""
    z, inverse, gamma = cache
    dz = dout * gamma  # (batch, n)
    through_mean = dz.mean(axis=0)  # (n,)
    through_variance = z * (dz * z).mean(axis=0)  # (batch, n)
    dx = inverse * (dz - through_mean - through_variance)  # (batch, n)
    return dx, (dout * z).sum(axis=0), dout.sum(axis=0)  # (batch, n), (n,), (n,)


def batch_norm_eval_forward(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array) -> tuple[Array, Cache]:
    """The evaluation mode: given moments ``mean`` and ``variance``, ``(n,)``."""
    inverse = 1.0 / np.sqrt(variance + EPSILON)  # (n,)
    z = (x - mean) * inverse  # (batch, n)
    return gamma * z + beta, (z, inverse, gamma)


def batch_norm_eval_backward(dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """``dx``, ``dgamma``, ``dbeta``; the moments are constants here."""
    z, inverse, gamma = cache
    dx = dout * gamma * inverse  # (batch, n)
    return dx, (dout * z).sum(axis=0), dout.sum(axis=0)  # (batch, n), (n,), (n,)
