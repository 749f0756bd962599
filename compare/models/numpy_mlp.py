"""A fully connected net of any depth in float64 NumPy, with its hand-written backward pass."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

from numpy.typing import ArrayLike

from compare.models.numpy_activations import get_numpy_activation
from compare.models.numpy_layers import (
    Array,
    Cache,
    batch_norm_backward,
    batch_norm_eval_backward,
    batch_norm_eval_forward,
    batch_norm_forward,
    dropout_backward,
    dropout_forward,
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
)
from compare.models.numpy_model import Gradients, Masks, NumpyModel, Shape, checked_state, expect_masks, float64

__all__ = ["MLP"]

MOMENTUM = 0.1
"""The weight that PyTorch gives the newest batch in its running statistics."""


class MLP(NumpyModel):
    """``linear -> norm -> activation -> dropout`` in each hidden block, with skip connections between equal widths.

    Args:
        state: names ``layers.N.weight``, ``norms.N.weight``, ``norms.N.running_mean`` and so on.
        sizes, activation, dropout, norm, residual, output: as the PyTorch reference has them.
    """

    def __init__(
        self,
        state: Mapping[str, ArrayLike],
        sizes: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        norm: Literal["layer", "batch"] | None = None,
        residual: bool = False,
        output: str = "linear",
    ) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"MLP: expected at least two positive sizes, found {tuple(sizes)}")
        if norm not in ("layer", "batch", None):
            raise ValueError(f"norm: expected layer, batch or None; found {norm!r}")
        self.activation, self.output = get_numpy_activation(activation), get_numpy_activation(output)
        self.rate, self.norm, self.residual = dropout, norm, residual
        self.hidden = len(sizes) - 2
        counters = [f"norms.{i}.num_batches_tracked" for i in range(self.hidden)]
        self.state = checked_state("MLP", state, mlp_shapes(sizes, norm), ignored=counters if norm == "batch" else ())

    @property
    def parameters(self) -> dict[str, Array]:
        return {name: array for name, array in self.state.items() if ".running_" not in name}

    def forward(self, inputs: ArrayLike, *, masks: Masks = (), train: bool = False) -> tuple[Array, Cache]:
        """``(batch, sizes[0]) -> (batch, sizes[-1])``; ``train`` makes batch norm use the batch's own moments.

        The cache is a dictionary; under ``"buffers"`` it has the running statistics after this call.
        """
        x = float64(inputs)
        blocks = []
        buffers: dict[str, Array] = {}
        for i, keep in enumerate(expect_masks(masks, self.hidden)):
            y, linear_cache = self._linear(f"layers.{i}", x)  # (batch, sizes[i + 1])
            a, norm_cache, moments = self._norm_forward(f"norms.{i}", y, train)
            buffers |= moments
            h, drop = dropout_forward(self.activation.forward(a), keep, self.rate)
            skip = self.residual and x.shape == h.shape
            x = x + h if skip else h
            blocks.append((linear_cache, norm_cache, a, drop, skip))
        z, last = self._linear(f"layers.{self.hidden}", x)  # (batch, sizes[-1])
        return self.output.forward(z), {"blocks": blocks, "last": last, "z": z, "train": train, "buffers": buffers}

    def backward(self, cotangents: ArrayLike, cache: Cache) -> tuple[Array, Gradients]:
        dz = self.output.backward(float64(cotangents), cache["z"])  # (batch, sizes[-1])
        dx, dW, db = linear_backward(dz, cache["last"])
        gradients = {f"layers.{self.hidden}.weight": dW, f"layers.{self.hidden}.bias": db}
        for i, (linear_cache, norm_cache, a, drop, skip) in reversed(list(enumerate(cache["blocks"]))):
            dh = dx  # (batch, sizes[i + 1])
            da = self.activation.backward(dropout_backward(dh, drop), a)
            dy = da
            if self.norm is not None:
                dy, dgamma, dbeta = self._norm_backward(da, norm_cache, cache["train"])
                gradients |= {f"norms.{i}.weight": dgamma, f"norms.{i}.bias": dbeta}
            dx, dW, db = linear_backward(dy, linear_cache)  # (batch, sizes[i])
            dx = dx + dh if skip else dx
            gradients |= {f"layers.{i}.weight": dW, f"layers.{i}.bias": db}
        return dx, gradients

    def _norm_forward(self, name: str, y: Array, train: bool) -> tuple[Array, Cache, dict[str, Array]]:
        if self.norm is None:
            return y, None, {}
        gamma, beta = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        if self.norm == "layer":
            return *layer_norm_forward(y, gamma, beta), {}
        mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if train:
            out, cache, (batch_mean, batch_variance) = batch_norm_forward(y, gamma, beta)
            mean = (1.0 - MOMENTUM) * mean + MOMENTUM * batch_mean
            variance = (1.0 - MOMENTUM) * variance + MOMENTUM * batch_variance
        else:
            out, cache = batch_norm_eval_forward(y, gamma, beta, mean, variance)
        return out, cache, {f"{name}.running_mean": mean, f"{name}.running_var": variance}

    def _norm_backward(self, da: Array, cache: Cache, train: bool) -> tuple[Array, Array, Array]:
        if self.norm == "layer":
            return layer_norm_backward(da, cache)
        return batch_norm_backward(da, cache) if train else batch_norm_eval_backward(da, cache)


def mlp_shapes(sizes: Sequence[int], norm: str | None) -> dict[str, Shape]:
    """The shape of every entry of the state."""
    shapes: dict[str, Shape] = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        shapes |= {f"layers.{i}.weight": (fan_out, fan_in), f"layers.{i}.bias": (fan_out,)}
    entries = {None: (), "layer": ("weight", "bias"), "batch": ("weight", "bias", "running_mean", "running_var")}[norm]
    for i, width in enumerate(sizes[1:-1] if norm else ()):
        shapes |= {f"norms.{i}.{entry}": (width,) for entry in entries}
    return shapes
