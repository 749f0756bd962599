"""Activation functions: one table from name to function.

Hidden layers usually take ``relu`` or ``gelu``; the output layer's choice follows the task: ``sigmoid`` for one
yes-or-no answer, ``softmax`` (or ``log_softmax``, with a negative log-likelihood loss) for one class out of many,
``linear`` for regression.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["ACTIVATIONS", "Activation", "get_activation", "log_softmax", "softmax"]

Activation = Callable[[jax.Array], jax.Array]


def linear(x: jax.Array) -> jax.Array:
    """The identity ``y = x``: the output of a regression."""
    return x


def leaky_relu(x: jax.Array) -> jax.Array:
    """``x`` where positive, else ``0.01 x``; its slope at 0 is 0.01, as in PyTorch (1 in ``jax.nn.leaky_relu``)."""
    return jnp.where(x > 0, x, 0.01 * x)


def gelu(x: jax.Array) -> jax.Array:
    """``x Φ(x)`` with the exact normal distribution function (by erf), as ``torch.nn.functional.gelu`` has it.

    JAX's own default is the tanh approximation, which differs by up to 4.7e-4.
    """
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The tanh approximation of GELU: ``gelu(approximate="tanh")`` in PyTorch, the default in JAX."""
    return jax.nn.gelu(x, approximate=True)


def softmax(x: jax.Array) -> jax.Array:
    """``exp(x_i) / Σ_j exp(x_j)`` over the last axis, computed in at least float32."""
    return jax.nn.softmax(_at_least_float32(x), axis=-1)


def log_softmax(x: jax.Array) -> jax.Array:
    """``x_i - log Σ_j exp(x_j)`` over the last axis, computed in at least float32 (bfloat16 would be off by 1.4e-2)."""
    return jax.nn.log_softmax(_at_least_float32(x), axis=-1)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


ACTIVATIONS: dict[str, Activation] = {
    "linear": linear,
    "relu": jax.nn.relu,
    "leaky_relu": leaky_relu,
    "elu": jax.nn.elu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "softmax": softmax,
    "log_softmax": log_softmax,
}


def get_activation(name: str) -> Activation:
    """The activation called ``name``.

    Args:
        name: a key of ``ACTIVATIONS``.

    Raises:
        ValueError: for any other name; the message lists those that exist.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}; found {name!r}")
    return ACTIVATIONS[name]
