"""Fully connected layers with nothing between them are one layer: depth without activation buys nothing."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

__all__ = ["collapse"]


def collapse(layers: Sequence[nnx.Linear]) -> nnx.Linear:
    """The single layer that computes what ``layers`` compute one after the other.

    As the books write it, ``W = W3 W2 W1`` and ``b = W3 W2 b1 + W3 b2 + b3``. Flax keeps kernels ``(in, out)``, the
    transpose of ``W``, so that here the product reads from left to right: ``K = K1 K2 K3``,
    ``b = (b1 K2 + b2) K3 + b3``.

    Args:
        layers: at least one ``nnx.Linear``, each as wide as the next one expects, in the order of their application.

    Returns:
        A new layer; it has a bias if any of ``layers`` has one.

    Raises:
        ValueError: nothing to collapse, or two neighbours don't fit together.
        TypeError: a layer is no ``nnx.Linear``. With an activation in between there is no such layer.
    """
    if not layers:
        raise ValueError("collapse: expected at least one layer, found none")
    for i, layer in enumerate(layers):
        if not isinstance(layer, nnx.Linear):
            raise TypeError(f"collapse: layer {i}: expected nnx.Linear, found {type(layer).__name__}")
    for i, (first, second) in enumerate(itertools.pairwise(layers)):
        if first.out_features != second.in_features:
            raise ValueError(
                f"collapse: layer {i} gives {first.out_features} features, layer {i + 1} expects {second.in_features}"
            )
    kernel, bias = layers[0].kernel[...], _bias(layers[0])  # (in, out), (out,)
    for layer in layers[1:]:
        weight = layer.kernel[...]  # (out, next out)
        kernel = jnp.matmul(kernel, weight, precision=jax.lax.Precision.HIGHEST)
        bias = jnp.matmul(bias, weight, precision=jax.lax.Precision.HIGHEST) + _bias(layer)
    return nnx.Linear(
        layers[0].in_features,
        layers[-1].out_features,
        use_bias=any(layer.bias is not None for layer in layers),
        kernel_init=lambda key, shape, dtype: kernel,
        bias_init=lambda key, shape, dtype: bias,
        param_dtype=kernel.dtype,
        rngs=nnx.Rngs(0),
    )


def _bias(layer: nnx.Linear) -> jax.Array:
    return jnp.zeros(layer.out_features, layer.kernel[...].dtype) if layer.bias is None else layer.bias[...]
