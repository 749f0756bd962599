"""Batch normalisation over the real rows of the whole batch, on however many devices it lies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

__all__ = ["whole_batch"]


@contextmanager
def whole_batch(mask: jax.Array | None, axis_name: str | None) -> Iterator[None]:
    """While open, every ``nnx.BatchNorm`` that is traced in training mode takes its statistics over the whole batch.

    ``mean = Σ x / n`` and ``var = Σ (x - mean)² / n`` run over the real rows of all devices, as they do on one in
    ``torch.nn.BatchNorm1d``; the running variance gets ``n / (n - 1) var``, as in PyTorch (Flax keeps ``var``). In
    either mode the result has the precision of the input: float32 running statistics would turn bfloat16 into float32.

    Args:
        mask: False for padding, shape ``(batch,)``; None in evaluation.
        axis_name: of the devices that share the batch; None where there is only one.
    """
    plain: Callable[..., Any] = nnx.BatchNorm.__call__

    def call(self: nnx.BatchNorm, x: jax.Array, use_running_average: bool | None = None, **options: Any) -> jax.Array:
        running = self.use_running_average if use_running_average is None else use_running_average
        if running or mask is None:
            return plain(self, x, use_running_average, **options).astype(x.dtype)
        if x.shape[0] != mask.shape[0] or self.axis not in (-1, x.ndim - 1):
            raise ValueError(
                f"BatchNorm: expected shape ({mask.shape[0]}, ..., features), found {x.shape} with axis {self.axis}"
            )
        mean, variance, count = _statistics(x, mask, axis_name)
        for variable, value in ((self.mean, mean), (self.var, variance * count / jnp.maximum(count - 1, 1))):
            variable[...] = self.momentum * variable[...] + (1 - self.momentum) * jax.lax.stop_gradient(value)
        y = (x - mean) * jax.lax.rsqrt(variance + self.epsilon)
        y = y if self.scale is None else y * self.scale[...]
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)

    nnx.BatchNorm.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nnx.BatchNorm.__call__ = plain  # type: ignore[method-assign]


def _statistics(x: jax.Array, mask: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and variance ``(features,)`` and the number of values behind each, in at least float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    real = mask.reshape(-1, *[1] * (x.ndim - 1))  # (batch, 1, ...)
    axes = tuple(range(x.ndim - 1))

    def total(values: jax.Array) -> jax.Array:
        own = jnp.where(real, values, 0).sum(axis=axes)
        # Right inside the loss too: what another device's loss owes to this sum comes back, since psum is its own
        # transpose, and the step then adds up the gradients of all devices.
        return own if axis_name is None else jax.lax.psum(own, axis_name)

    count = total(jnp.ones_like(wide[..., :1]))[0]
    mean = total(wide) / count
    return mean, total(jnp.square(wide - mean)) / count, count
