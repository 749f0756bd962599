"""Layers that Flax does not have: row-keyed dropout, and the article's sparse, low-rank and adaptive-width layers.

The plain fully connected layer is ``nnx.Linear``; ``torch_linear`` makes one that starts from PyTorch's law.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fcjax.hashing import folded, hashed
from fcjax.initializers import torch_linear_bias, torch_linear_kernel

__all__ = [
    "AdaptiveWidthLinear",
    "Buffer",
    "Dropout",
    "LowRankLinear",
    "SparseLinear",
    "drop",
    "expect_features",
    "row_keys",
    "torch_linear",
]


class Buffer(nnx.Variable):
    """An array that belongs to a layer but is not a parameter: saved with it, never trained, decayed or counted."""


def expect_features(x: jax.Array, features: int, layer: str) -> None:
    """Raises a ``ValueError`` that names ``layer`` unless ``x`` has shape ``(..., features)`` and a floating dtype."""
    if x.ndim == 0 or x.shape[-1] != features:
        raise ValueError(f"{layer}: expected input of shape (..., {features}), found {tuple(x.shape)}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{layer}: expected floating-point input, found {x.dtype}")


def torch_linear(in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs) -> nnx.Linear:
    """``y = x W + b``, with weight and bias drawn as ``torch.nn.Linear`` draws them, ``U(±1/√in_features)``."""
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=torch_linear_kernel(),
        bias_init=torch_linear_bias(in_features),
        rngs=rngs,
    )


def row_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    """One key per sample, from the sample's row in the *global* batch.

    A mask drawn from these does not depend on how many devices share the batch.

    Args:
        key: a scalar key, the same on every device.
        rows: integers of shape ``(batch,)``.

    Returns:
        Keys of shape ``(batch,)``.
    """
    return folded(key, rows)


def drop(x: jax.Array, rate: float, keys: jax.Array) -> jax.Array:
    """``x * mask / (1 - rate)`` with ``mask ~ Bernoulli(1 - rate)``, one key ``(batch,)`` per row of ``x``."""
    return jnp.where(keep_mask(rate, keys, x.shape), x / (1.0 - rate), jnp.zeros_like(x))


def keep_mask(rate: float, keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``Bernoulli(1 - rate)`` of ``shape`` ``(batch, ...)``, one key of ``keys`` ``(batch,)`` per row.

    Within a row the position is hashed with the key's two words. That costs 14 integer operations a decision, which XLA
    fuses into the product that uses it, where JAX's generator takes a hundred: at small batches most of a step.
    """
    words = jax.random.key_data(keys).astype(jnp.uint32)
    first, second = (words[:, i].reshape(-1, *(1,) * (len(shape) - 1)) for i in (0, 1))
    position = jax.lax.iota(jnp.uint32, math.prod(shape[1:])).reshape(shape[1:])
    return hashed(position, first, second) < jnp.uint32(min(round((1.0 - rate) * 2**32), 2**32 - 1))


class Dropout(nnx.Dropout):
    """Dropout that draws one mask per sample: ``y = x * mask / (1 - rate)``, ``mask ~ Bernoulli(1 - rate)``.

    As ``nnx.Dropout``, and besides a scalar key ``rngs`` may be one key per row (see ``row_keys``).
    """

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: jax.Array | nnx.Rngs | nnx.RngStream | None = None,
        stream: int = 0,
    ) -> jax.Array:
        """Applies the mask.

        Args:
            inputs: shape ``(batch, ...)``.
            deterministic: overrides the module's own flag, which ``model.train()`` and ``model.eval()`` set.
            rngs: a scalar key, or keys of shape ``(batch,)``; the constructor's ``rngs`` serve when it is None.
            stream: tells apart several calls that are given the same keys.

        Raises:
            ValueError: dropout is on and there is no key.
        """
        if deterministic is None:
            deterministic = self.deterministic
        if deterministic or self.rate == 0.0:
            return inputs
        if self.rate == 1.0:
            return jnp.zeros_like(inputs)
        mask = self.keep_mask(self._keys(rngs, inputs.shape[0], stream), inputs.shape)
        return jnp.where(mask, inputs / (1.0 - self.rate), jnp.zeros_like(inputs))

    def keep_mask(self, keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Which entries stay, shape ``shape``; by this name a checker can put another framework's mask in its place."""
        return keep_mask(self.rate, keys, shape)

    def _keys(self, rngs: jax.Array | nnx.Rngs | nnx.RngStream | None, batch: int, stream: int) -> jax.Array:
        source = self.rngs if rngs is None else rngs
        if source is None:
            raise ValueError("dropout is on but has no key: pass rngs= at the call, or call model.eval() first")
        if isinstance(source, nnx.Rngs):
            source = source[self.rng_collection]
        key = source() if isinstance(source, nnx.RngStream) else source
        keys = key if key.ndim else row_keys(key, jnp.arange(batch))
        return folded(keys, stream)


class SparseLinear(nnx.Module):
    """``y = x (W * mask) + b``: a layer in which a random share of the connections does not exist.

    The article's code never creates the bias it uses (an AttributeError) and keeps its mask as a plain tensor, outside
    the state_dict. Here the bias starts at zero, and the mask is a ``Buffer``: saved with the weights, not a parameter.

    Args:
        input_dim, output_dim: sizes of the input and output vectors.
        sparsity: the probability that a connection is missing, in [0, 1).
        scale: ``"fan_in"`` (default) divides the drawn weights by the root of the number of inputs that survive;
            ``"article"`` keeps N(0, 1), which explodes through a deep net.
        rngs: ``params`` draws weight and mask.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        sparsity: float = 0.5,
        *,
        scale: Literal["fan_in", "article"] = "fan_in",
        rngs: nnx.Rngs,
    ) -> None:
        if not 0.0 <= sparsity < 1.0:
            raise ValueError(f"SparseLinear: expected sparsity in [0, 1), found {sparsity}")
        if scale not in ("fan_in", "article"):
            raise ValueError(f"SparseLinear: expected scale fan_in or article, found {scale!r}")
        self.input_dim, self.output_dim, self.sparsity = input_dim, output_dim, sparsity
        mask = jax.random.uniform(rngs.params(), (input_dim, output_dim)) > sparsity
        kernel = jax.random.normal(rngs.params(), (input_dim, output_dim))
        if scale == "fan_in":
            kernel = kernel / jnp.sqrt(jnp.maximum(mask.sum(axis=0), 1))  # each output's surviving inputs
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(output_dim))
        self.mask = Buffer(mask)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(..., input_dim) -> (..., output_dim)``."""
        expect_features(x, self.input_dim, type(self).__name__)
        return x @ jnp.where(self.mask[...], self.kernel[...], 0) + self.bias[...]


class LowRankLinear(nnx.Module):
    """``y = (x U) V + b``: a layer whose weight matrix has rank at most ``rank``.

    It holds ``rank (input_dim + output_dim) + output_dim`` parameters, fewer than a full layer's as long as
    ``rank < input_dim * output_dim / (input_dim + output_dim)``.
    """

    def __init__(self, input_dim: int, output_dim: int, rank: int = 32, *, rngs: nnx.Rngs) -> None:
        self.input_dim = input_dim
        self.U = torch_linear(input_dim, rank, use_bias=False, rngs=rngs)
        self.V = torch_linear(rank, output_dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(..., input_dim) -> (..., output_dim)``."""
        expect_features(x, self.input_dim, "LowRankLinear.U")
        return self.V(self.U(x))


Gate = Literal["hard", "straight_through", "soft"]


class AdaptiveWidthLinear(nnx.Module):
    """``y = (x W) * gate(selector)``: a layer that learns how many of its ``max_width`` outputs to use.

    With ``width = sigmoid(selector) * max_width``, output ``i`` (counted from 0) is multiplied by

    - ``"hard"``: ``1 if i < int(width) else 0``, the article's rule. ``int`` cuts the gradient, so there the width
      never adapts: the selector is dead.
    - ``"straight_through"``: the same value, with the gradient of the soft gate.
    - ``"soft"``: ``clip((width - i) / ramp + 1/2, 0, 1)``, a slope over ``ramp`` units. Units beyond it are exact
      zeros, so cutting them off in ``compact`` changes nothing.

    The article slices, which needs a shape that depends on a value; under ``jit`` shapes are static, so the output
    always has ``max_width`` columns and the inactive ones are zero. ``compact`` gives the narrow layer.

    Args:
        input_dim: size of the input vectors.
        output_dim: not used, as in the article; it is there so that calls read the same.
        max_width: number of outputs when all are active.
        gate: one of the three above.
        ramp: width of the soft slope in units, at least 1.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        max_width: int,
        *,
        gate: Gate = "hard",
        ramp: float = 8.0,
        rngs: nnx.Rngs,
    ) -> None:
        if gate not in ("hard", "straight_through", "soft"):
            raise ValueError(f"AdaptiveWidthLinear: expected gate hard, straight_through or soft, found {gate!r}")
        if not ramp >= 1.0:
            raise ValueError(f"AdaptiveWidthLinear: expected ramp of at least 1 unit, found {ramp}")
        self.input_dim, self.output_dim, self.max_width = input_dim, output_dim, max_width
        self.gate, self.ramp = gate, ramp
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (input_dim, max_width)))
        self.selector = nnx.Param(jnp.ones(1))

    def gates(self) -> jax.Array:
        """The factors of all outputs, shape ``(max_width,)``."""
        width = jax.nn.sigmoid(self.selector[...]) * self.max_width  # (1,)
        unit = jnp.arange(self.max_width, dtype=width.dtype)
        hard = (unit < jax.lax.stop_gradient(jnp.floor(width))).astype(width.dtype)
        if self.gate == "hard":
            return hard
        soft = jnp.clip((width - unit) / self.ramp + 0.5, 0.0, 1.0)
        if self.gate == "soft":
            return soft
        return hard + (soft - jax.lax.stop_gradient(soft))  # in this order the value is hard's, to the last bit

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(..., input_dim) -> (..., max_width)``."""
        expect_features(x, self.input_dim, type(self).__name__)
        return (x @ self.kernel[...]) * self.gates()

    def compact(self) -> nnx.Linear:
        """A plain layer of the active outputs alone: the same values in the columns it keeps, and less work.

        Not for use inside ``jit``: its width is read from the selector's value.
        """
        gates = self.gates()
        active = int((gates > 0).sum())
        kernel = (self.kernel[...] * gates)[:, :active]
        return nnx.Linear(
            self.input_dim,
            active,  # may be 0, for which the random initializers have no law
            use_bias=False,
            kernel_init=lambda key, shape, dtype: kernel,
            param_dtype=kernel.dtype,
            rngs=nnx.Rngs(0),
        )
