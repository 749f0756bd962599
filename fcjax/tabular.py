"""A network for tables: numbers embedded piece by piece, and many nets in one that share their weights.

The ideas are those of Gorishniy et al., "On embeddings for numerical features in tabular deep learning" (2022) and
"TabM: advancing tabular deep learning with parameter-efficient ensembling" (2024).
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fcjax.activations import log_softmax
from fcjax.initializers import torch_linear_bias, torch_linear_kernel
from fcjax.layers import Dropout, expect_features

__all__ = ["MemberLinear", "PiecewiseLinear", "TabularNet"]

Edges = tuple[tuple[float, ...], ...]


class PiecewiseLinear(nnx.Module):
    """Each number ``x`` becomes a vector that is piecewise linear in it: ``a x + b + Σ_t V_t e_t(x)``.

    ``e_t(x) = (x - start_t) / (end_t - start_t)`` within bin t, 0 below and 1 above; the first bin goes on below and
    the last one above. ``V`` starts at zero, so that the embedding starts as a linear one.

    Args:
        edges: of the bins of each feature, strictly ascending, at least two.
        width: of the vector of each feature.
        rngs: ``params`` draws ``a`` and ``b`` from ``U(±1/√width)``.

    Raises:
        ValueError: edges are missing or don't rise.
    """

    def __init__(self, edges: Sequence[Sequence[float]], width: int, *, rngs: nnx.Rngs) -> None:
        self.edges: Edges = tuple(tuple(map(float, feature)) for feature in edges)
        for number, feature in enumerate(self.edges):
            if len(feature) < 2 or not all(a < b for a, b in itertools.pairwise(feature)):
                raise ValueError(f"feature {number}: expected at least two edges that rise, found {feature[:4]}")
        most = max(map(len, self.edges)) - 1
        law = torch_linear_bias(width)
        self.slope = nnx.Param(law(rngs.params(), (len(self.edges), width)))
        self.offset = nnx.Param(law(rngs.params(), (len(self.edges), width)))
        self.pieces = nnx.Param(jnp.zeros((len(self.edges), most, width)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(batch, features) -> (batch, features, width)``."""
        expect_features(x, len(self.edges), "PiecewiseLinear")
        start, size, low, high = (jnp.asarray(array, x.dtype) for array in self._bins())
        shares = jnp.clip((x[:, :, None] - start) / size, low, high)  # (batch, features, bins)
        pieces = jnp.einsum("bft,ftw->bfw", shares, self.pieces[...])
        return x[:, :, None] * self.slope[...] + self.offset[...] + pieces

    def _bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Start and size of each bin and the bounds of its share, shape ``(features, bins)``; 0 where there is none."""
        shape = self.pieces.shape[:2]
        start, size, low, high = np.zeros(shape), np.ones(shape), np.zeros(shape), np.zeros(shape)
        for number, feature in enumerate(self.edges):
            bins = len(feature) - 1
            start[number, :bins], size[number, :bins] = feature[:-1], np.diff(feature)
            low[number, 0], high[number, :bins], high[number, bins - 1] = -np.inf, 1, np.inf
        return start, size, low, high


class MemberLinear(nnx.Module):
    """``y_m = ((x_m ∘ r_m) W) ∘ s_m + b_m``: one matrix for all members, and for each its scales of inputs and outputs.

    Args:
        inputs, outputs: sizes.
        members: how many share ``W``.
        signs: ``r`` starts as random signs, which makes the members differ, instead of ones.
        rngs: ``params`` draws ``W`` and ``b`` by PyTorch's law, and the signs.
    """

    def __init__(self, inputs: int, outputs: int, members: int, *, signs: bool = False, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(torch_linear_kernel()(rngs.params(), (inputs, outputs)))
        drawn = jax.random.rademacher(rngs.params(), (members, inputs), float)
        self.input_scale = nnx.Param(drawn if signs else jnp.ones((members, inputs)))
        self.output_scale = nnx.Param(jnp.ones((members, outputs)))
        self.bias = nnx.Param(torch_linear_bias(inputs)(rngs.params(), (members, outputs)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(batch, members or 1, inputs) -> (batch, members, outputs)``."""
        return ((x * self.input_scale[...]) @ self.kernel[...]) * self.output_scale[...] + self.bias[...]


class TabularNet(nnx.Module):
    """An ensemble of fully connected nets that share their matrices, on numbers embedded piece by piece.

    While training every member answers for itself, and is to learn by itself; in evaluation mode they answer together.

    Args:
        edges: of the bins of each feature, see ``fcjax.datasets.Pieces``.
        outputs: numbers to predict, or classes.
        hidden: widths of the hidden layers.
        members: number of nets.
        embedding: width of the vector of each feature.
        dropout: rate after each hidden layer.
        classes: outputs are logits of classes: together the members give the log of their mean probabilities.
        rngs: ``params`` draws the weights.
    """

    def __init__(
        self,
        edges: Sequence[Sequence[float]],
        outputs: int,
        hidden: Sequence[int] = (256, 256),
        members: int = 16,
        embedding: int = 16,
        dropout: float = 0.1,
        classes: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.classes = classes
        self.embed = PiecewiseLinear(edges, embedding, rngs=rngs)
        sizes = itertools.pairwise((len(edges) * embedding, *hidden))
        self.layers = nnx.List([MemberLinear(m, n, members, signs=i == 0, rngs=rngs) for i, (m, n) in enumerate(sizes)])
        law = torch_linear_bias(hidden[-1])
        self.heads = nnx.Param(law(rngs.params(), (members, hidden[-1], outputs)))
        self.bias = nnx.Param(law(rngs.params(), (members, outputs)))
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        """``(batch, features) -> (batch, outputs)``; while training ``(batch, members, outputs)``."""
        x = self.embed(x)
        x = x.reshape(x.shape[0], 1, -1)  # (batch, 1, features * embedding)
        for number, layer in enumerate(self.layers):
            x = self.dropout(jax.nn.relu(layer(x)), rngs=rngs, stream=number)  # (batch, members, width)
        answers = jnp.einsum("bmi,mio->bmo", x, self.heads[...]) + self.bias[...]
        if not self.dropout.deterministic:
            return answers
        if not self.classes:
            return answers.mean(axis=1)
        return jax.nn.logsumexp(log_softmax(answers), axis=1) - math.log(answers.shape[1])
