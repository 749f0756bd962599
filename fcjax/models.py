"""The article's models, line by line beside their PyTorch versions, and ``MLP`` for any depth.

Every linear layer starts from PyTorch's own law. ``model.train()`` and ``model.eval()`` switch dropout; a model with
dropout takes its keys at the call.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import jax
from flax import nnx

from fcjax.activations import get_activation, log_softmax
from fcjax.layers import Dropout, expect_features, torch_linear

__all__ = ["MLP", "FlaxModel", "FlaxModelWithActivation", "MNISTClassifier", "Regressor"]


class FlaxModel(nnx.Module):
    """Two fully connected layers with nothing between them: the article's ``TorchModel``."""

    def __init__(self, input_size: int, hidden_size1: int, hidden_size2: int, *, rngs: nnx.Rngs) -> None:
        self.layer1 = torch_linear(input_size, hidden_size1, rngs=rngs)
        self.layer2 = torch_linear(hidden_size1, hidden_size2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(..., input_size) -> (..., hidden_size2)``."""
        expect_features(x, self.layer1.in_features, "layer1")
        x = self.layer1(x)
        return self.layer2(x)


class FlaxModelWithActivation(nnx.Module):
    """The same with ReLU after ``layer1``: the article's ``TorchModelWithActivation``."""

    def __init__(self, input_size: int, hidden_size1: int, hidden_size2: int, *, rngs: nnx.Rngs) -> None:
        self.layer1 = torch_linear(input_size, hidden_size1, rngs=rngs)
        self.layer2 = torch_linear(hidden_size1, hidden_size2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(..., input_size) -> (..., hidden_size2)``."""
        expect_features(x, self.layer1.in_features, "layer1")
        x = jax.nn.relu(self.layer1(x))
        return self.layer2(x)


class MNISTClassifier(nnx.Module):
    """Images to ten log-probabilities: 784-512-256-10 with ReLU and dropout 0.2.

    The article has one dropout module that it calls twice; here the two calls are told apart by their ``stream``.

    Args:
        dropout: rate after each hidden layer.
        rngs: ``params`` draws the weights.
    """

    def __init__(self, *, dropout: float = 0.2, rngs: nnx.Rngs) -> None:
        self.fc1 = torch_linear(28 * 28, 512, rngs=rngs)
        self.fc2 = torch_linear(512, 256, rngs=rngs)
        self.fc3 = torch_linear(256, 10, rngs=rngs)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        """``(batch, ...)`` with 784 values per sample ``-> (batch, 10)``.

        Args:
            x: images of any layout, flattened in row-major order.
            rngs: a key, or one key per sample; needed only while dropout is on.
        """
        x = x.reshape(x.shape[0], -1)  # (batch, 784)
        expect_features(x, self.fc1.in_features, "fc1")
        x = self.dropout(jax.nn.relu(self.fc1(x)), rngs=rngs, stream=1)
        x = self.dropout(jax.nn.relu(self.fc2(x)), rngs=rngs, stream=2)
        return log_softmax(self.fc3(x))


class Regressor(nnx.Module):
    """House prices: input_size-64-32-1 with ReLU and a linear output.

    Args:
        input_size: number of features.
        dropout: rate after each hidden layer; the article has none.
        rngs: ``params`` draws the weights.
    """

    def __init__(self, input_size: int, *, dropout: float = 0.0, rngs: nnx.Rngs) -> None:
        self.fc1 = torch_linear(input_size, 64, rngs=rngs)
        self.fc2 = torch_linear(64, 32, rngs=rngs)
        self.fc3 = torch_linear(32, 1, rngs=rngs)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        """``(..., input_size) -> (..., 1)``; ``rngs`` as in ``MNISTClassifier``."""
        expect_features(x, self.fc1.in_features, "fc1")
        x = self.dropout(jax.nn.relu(self.fc1(x)), rngs=rngs, stream=1)
        x = self.dropout(jax.nn.relu(self.fc2(x)), rngs=rngs, stream=2)
        return self.fc3(x)


class MLP(nnx.Module):
    """A fully connected net of any depth.

    Each hidden block is ``linear -> norm -> activation -> dropout``; with ``residual=True`` a block whose input and
    output have the same width adds its input to its output. The last layer is linear, followed by ``output``.

    Args:
        sizes: all widths, input and output included, for example ``(784, 512, 256, 10)``.
        activation: name of the hidden activation.
        dropout: rate after each hidden activation.
        norm: ``"layer"``, ``"batch"`` or None.
        residual: adds skip connections.
        output: name of the activation of the last layer.
        rngs: ``params`` draws the weights.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        norm: Literal["layer", "batch"] | None = None,
        residual: bool = False,
        output: str = "linear",
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"MLP: expected at least two positive sizes, found {tuple(sizes)}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"MLP: expected dropout in [0, 1), found {dropout}")
        if norm not in ("layer", "batch", None):
            raise ValueError(f"norm: expected layer, batch or None; found {norm!r}")
        get_activation(activation), get_activation(output)
        self.sizes, self.activation, self.output, self.residual = tuple(sizes), activation, output, residual
        self.layers = nnx.List([torch_linear(m, n, rngs=rngs) for m, n in itertools.pairwise(sizes)])
        self.norms = nnx.List([make_norm(norm, width, rngs) for width in sizes[1:-1]] if norm else [])
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        """``(batch, sizes[0]) -> (batch, sizes[-1])``; ``rngs`` as in ``MNISTClassifier``. Images are flattened."""
        if x.ndim > 2 and x.shape[-1] != self.sizes[0]:
            x = x.reshape(x.shape[0], -1)  # (batch, sizes[0])
        expect_features(x, self.sizes[0], "layers.0")
        activation = get_activation(self.activation)
        for i, layer in enumerate(self.layers[:-1]):
            y = layer(x)
            y = self.norms[i](y) if self.norms else y
            y = self.dropout(activation(y), rngs=rngs, stream=i)
            x = x + y if self.residual and x.shape == y.shape else y
        return get_activation(self.output)(self.layers[-1](x))


def make_norm(kind: str, width: int, rngs: nnx.Rngs) -> nnx.Module:
    """A normalisation layer that computes what PyTorch's does (epsilon 1e-5, two-pass variance)."""
    if kind == "layer":
        return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
    if kind == "batch":
        # Flax's momentum is the share that is kept: PyTorch's 0.1 is 0.9 here.
        return nnx.BatchNorm(width, epsilon=1e-5, momentum=0.9, use_fast_variance=False, rngs=rngs)
    raise ValueError(f"norm: expected layer, batch or None; found {kind!r}")
