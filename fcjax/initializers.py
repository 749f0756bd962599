"""Initial weights: PyTorch's ``Linear`` default, Xavier and Kaiming, for kernels of shape ``(in, out)``.

Every function returns an initializer ``(key, shape, dtype) -> array`` that any Flax layer takes as ``kernel_init`` or
``bias_init``. The *laws* are PyTorch's, the drawn numbers are JAX's own.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

__all__ = [
    "Initializer",
    "init_weights",
    "kaiming_normal",
    "kaiming_uniform",
    "torch_linear_bias",
    "torch_linear_kernel",
    "xavier_normal",
    "xavier_uniform",
]

Initializer = Callable[..., jax.Array]


def torch_linear_kernel() -> Initializer:
    """``U(±1/√fan_in)``: the default of ``torch.nn.Linear`` for its weight.

    PyTorch writes it as ``kaiming_uniform_(a=√5)``, whose bound ``√(6 / ((1 + 5) fan_in))`` is ``1/√fan_in``. Flax's
    default, ``lecun_normal``, has a standard deviation √3 times as large.
    """
    return jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_linear_bias(fan_in: int) -> Initializer:
    """``U(±1/√fan_in)``: the default of ``torch.nn.Linear`` for its bias (Flax starts biases at zero).

    Args:
        fan_in: the number of input features of the layer; a bias of shape ``(out,)`` does not show it.
    """
    bound = 1 / math.sqrt(fan_in)

    def initializer(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initializer


def xavier_uniform() -> Initializer:
    """``U(±√(6 / (fan_in + fan_out)))`` (Glorot and Bengio 2010): keeps the variance of tanh nets both ways."""
    return jax.nn.initializers.glorot_uniform()


def xavier_normal() -> Initializer:
    """``N(0, 2 / (fan_in + fan_out))`` (Glorot and Bengio 2010), not truncated, as in PyTorch."""
    return _scaled_normal(lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)))


def kaiming_uniform() -> Initializer:
    """``U(±√(6 / fan_in))`` (He et al. 2015): keeps the variance of ReLU nets forward.

    This is ``kaiming_uniform_(nonlinearity="relu")``, √6 times as wide as ``torch.nn.Linear``'s default.
    """
    return jax.nn.initializers.he_uniform()


def kaiming_normal() -> Initializer:
    """``N(0, 2 / fan_in)`` (He et al. 2015), not truncated, as ``kaiming_normal_(nonlinearity="relu")``."""
    return _scaled_normal(lambda fan_in, fan_out: math.sqrt(2 / fan_in))


def _scaled_normal(standard_deviation: Callable[[int, int], float]) -> Initializer:
    # jax.nn.initializers.he_normal and glorot_normal truncate at two standard deviations; PyTorch's do not.
    def initializer(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        fan_in, fan_out = shape
        return jax.random.normal(key, shape, dtype) * standard_deviation(fan_in, fan_out)

    return initializer


def init_weights(model: nnx.Module, rngs: nnx.Rngs) -> None:
    """Redraws every ``nnx.Linear`` of ``model`` in place: Xavier-uniform kernel, bias 0.01.

    The counterpart of PyTorch's ``model.apply(init_weights)``.

    Args:
        model: any module; layers other than ``nnx.Linear`` are left alone.
        rngs: the stream ``params`` is drawn from.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Linear):
            kernel = module.kernel[...]
            module.kernel[...] = xavier_uniform()(rngs.params(), kernel.shape, kernel.dtype)
            if module.bias is not None:
                module.bias[...] = jnp.full_like(module.bias[...], 0.01)
