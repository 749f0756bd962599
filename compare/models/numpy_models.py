"""The article's models in float64 NumPy, with hand-written backward passes: the third opinion of every comparison.

A model is built from a PyTorch state, ``{parameter or buffer name: array in PyTorch's layout}``. Then

    outputs, cache = model.forward(inputs, masks=...)
    input_gradients, gradients = model.backward(cotangents, cache)

``masks`` are the dropout keep-masks in the order of the calls; without any the model is in evaluation mode. The
gradients carry PyTorch's names; a parameter that the output does not depend on is absent, where PyTorch has None.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from compare.models.numpy_activations import NUMPY_ACTIVATIONS
from compare.models.numpy_layers import (
    Array,
    Cache,
    dropout_backward,
    dropout_forward,
    linear_backward,
    linear_forward,
)
from compare.models.numpy_mlp import MLP
from compare.models.numpy_model import (
    Gradients,
    Masks,
    NumpyModel,
    Shape,
    expect_features,
    expect_masks,
    float64,
)

__all__ = [
    "MLP",
    "AdaptiveWidthLinear",
    "DiyModel",
    "DiyModelWithActivation",
    "LowRankLinear",
    "MNISTClassifier",
    "NumpyModel",
    "Regressor",
    "SparseLinear",
]

relu = NUMPY_ACTIVATIONS["relu"]
log_softmax = NUMPY_ACTIVATIONS["log_softmax"]


class DiyModel(NumpyModel):
    """``layer1``, ``layer2`` and nothing between them."""

    shapes: ClassVar[Mapping[str, Shape]] = {
        "layer1.weight": ("hidden_size1", "input_size"),
        "layer1.bias": ("hidden_size1",),
        "layer2.weight": ("hidden_size2", "hidden_size1"),
        "layer2.bias": ("hidden_size2",),
    }

    def forward(self, inputs: ArrayLike, *, masks: Masks = ()) -> tuple[Array, Cache]:
        expect_masks(masks, 0)
        h, cache1 = self._linear("layer1", float64(inputs))  # (..., hidden_size1)
        y, cache2 = self._linear("layer2", h)  # (..., hidden_size2)
        return y, (cache1, cache2)

    def backward(self, cotangents: ArrayLike, cache: Cache) -> tuple[Array, Gradients]:
        cache1, cache2 = cache
        dh, dW2, db2 = linear_backward(float64(cotangents), cache2)  # (..., hidden_size1)
        dx, dW1, db1 = linear_backward(dh, cache1)  # (..., input_size)
        return dx, {"layer1.weight": dW1, "layer1.bias": db1, "layer2.weight": dW2, "layer2.bias": db2}


class DiyModelWithActivation(NumpyModel):
    """The same with ReLU after ``layer1``."""

    shapes: ClassVar[Mapping[str, Shape]] = DiyModel.shapes

    def forward(self, inputs: ArrayLike, *, masks: Masks = ()) -> tuple[Array, Cache]:
        expect_masks(masks, 0)
        a, cache1 = self._linear("layer1", float64(inputs))  # (..., hidden_size1)
        h = relu.forward(a)
        y, cache2 = self._linear("layer2", h)  # (..., hidden_size2)
        return y, (cache1, a, cache2)

    def backward(self, cotangents: ArrayLike, cache: Cache) -> tuple[Array, Gradients]:
        cache1, a, cache2 = cache
        dh, dW2, db2 = linear_backward(float64(cotangents), cache2)  # (..., hidden_size1)
        da = relu.backward(dh, a)
        dx, dW1, db1 = linear_backward(da, cache1)  # (..., input_size)
        return dx, {"layer1.weight": dW1, "layer1.bias": db1, "layer2.weight": dW2, "layer2.bias": db2}


class MNISTClassifier(NumpyModel):
    """784-512-256-10 with ReLU and dropout 0.2, log-softmax over the classes."""

    rate: ClassVar[float] = 0.2
    shapes: ClassVar[Mapping[str, Shape]] = {
        "fc1.weight": (512, 784),
        "fc1.bias": (512,),
        "fc2.weight": (256, 512),
        "fc2.bias": (256,),
        "fc3.weight": (10, 256),
        "fc3.bias": (10,),
    }

    def forward(self, inputs: ArrayLike, *, masks: Masks = ()) -> tuple[Array, Cache]:
        keep1, keep2 = expect_masks(masks, 2)
        x = float64(inputs)
        shape = x.shape
        x = x.reshape(shape[0], -1)  # (batch, 784)
        a1, cache1 = self._linear("fc1", x)  # (batch, 512)
        h1, drop1 = dropout_forward(relu.forward(a1), keep1, self.rate)
        a2, cache2 = self._linear("fc2", h1)  # (batch, 256)
        h2, drop2 = dropout_forward(relu.forward(a2), keep2, self.rate)
        a3, cache3 = self._linear("fc3", h2)  # (batch, 10)
        return log_softmax.forward(a3), (shape, cache1, a1, drop1, cache2, a2, drop2, cache3, a3)

    def backward(self, cotangents: ArrayLike, cache: Cache) -> tuple[Array, Gradients]:
        shape, cache1, a1, drop1, cache2, a2, drop2, cache3, a3 = cache
        da3 = log_softmax.backward(float64(cotangents), a3)  # (batch, 10)
        dh2, dW3, db3 = linear_backward(da3, cache3)  # (batch, 256)
        da2 = relu.backward(dropout_backward(dh2, drop2), a2)
        dh1, dW2, db2 = linear_backward(da2, cache2)  # (batch, 512)
        da1 = relu.backward(dropout_backward(dh1, drop1), a1)
        dx, dW1, db1 = linear_backward(da1, cache1)  # (batch, 784)
        return dx.reshape(shape), {
            "fc1.weight": dW1,
            "fc1.bias": db1,
            "fc2.weight": dW2,
            "fc2.bias": db2,
            "fc3.weight": dW3,
            "fc3.bias": db3,
        }


class Regressor(NumpyModel):
    """input_size-64-32-1 with ReLU and a linear output."""

    shapes: ClassVar[Mapping[str, Shape]] = {
        "fc1.weight": (64, "input_size"),
        "fc1.bias": (64,),
        "fc2.weight": (32, 64),
        "fc2.bias": (32,),
        "fc3.weight": (1, 32),
        "fc3.bias": (1,),
    }

    def forward(self, inputs: ArrayLike, *, masks: Masks = ()) -> tuple[Array, Cache]:
        expect_masks(masks, 0)
        a1, cache1 = self._linear("fc1", float64(inputs))  # (..., 64)
        a2, cache2 = self._linear("fc2", relu.forward(a1))  # (..., 32)
        y, cache3 = self._linear("fc3", relu.forward(a2))  # (..., 1)
        return y, (cache1, a1, cache2, a2, cache3)

    def backward(self, cotangents: ArrayLike, cache: Cache) -> tuple[Array, Gradients]:
        cache1, a1, cache2, a2, cache3 = cache
        dh2, dW3, db3 = linear_backward(float64(cotangents), cache3)  # (..., 32)
        dh1, dW2, db2 = linear_backward(relu.backward(dh2, a2), cache2)  # (..., 64)
        dx, dW1, db1 = linear_backward(relu.backward(dh1, a1), cache1)  # (..., input_size)
        return dx, {
            "fc1.weight": dW1,
            "fc1.bias": db1,
            "fc2.weight": dW2,
            "fc2.bias": db2,
            "fc3.weight": dW3,
            "fc3.bias": db3,
        }


class SparseLinear(NumpyModel):
    """``y = x (W * mask)ᵀ + b``; a weight whose connection is missing has gradient zero."""

    shapes: ClassVar[Mapping[str, Shape]] = {
        "weight": ("output_dim", "input_dim"),
        "bias": ("output_dim",),
        "mask": ("output_dim", "input_dim"),
    }
    buffers: ClassVar[tuple[str, ...]] = ("mask",)

    def __init__(self, state: Mapping[str, ArrayLike]) -> None:
        super().__init__(state)
        if not np.isin(self.state["mask"], (0.0, 1.0)).all():
            raise ValueError("SparseLinear: mask: expected only False and True (0 and 1), found other values")

    def forward(self, inputs: ArrayLike, *, masks: Masks = ()) -> tuple[Array, Cache]:
        expect_masks(masks, 0)
        W, b, mask = self.state["weight"], self.state["bias"], self.state["mask"]
        x = float64(inputs)
        expect_features(x, W.shape[1], "SparseLinear")
        return linear_forward(x, W * mask, b)  # (..., output_dim)

    def backward(self, cotangents: ArrayLike, cache: Cache) -> tuple[Array, Gradients]:
        dx, dW, db = linear_backward(float64(cotangents), cache)
        return dx, {"weight": dW * self.state["mask"], "bias": db}


class LowRankLinear(NumpyModel):
    """``y = V(U(x))``, ``U`` without bias."""

    shapes: ClassVar[Mapping[str, Shape]] = {
        "U.weight": ("rank", "input_dim"),
        "V.weight": ("output_dim", "rank"),
        "V.bias": ("output_dim",),
    }

    def forward(self, inputs: ArrayLike, *, masks: Masks = ()) -> tuple[Array, Cache]:
        expect_masks(masks, 0)
        h, cacheU = self._linear("U", float64(inputs))  # (..., rank)
        y, cacheV = self._linear("V", h)  # (..., output_dim)
        return y, (cacheU, cacheV)

    def backward(self, cotangents: ArrayLike, cache: Cache) -> tuple[Array, Gradients]:
        cacheU, cacheV = cache
        dh, dV, db = linear_backward(float64(cotangents), cacheV)  # (..., rank)
        dx, dU, _ = linear_backward(dh, cacheU)  # (..., input_dim)
        return dx, {"U.weight": dU, "V.weight": dV, "V.bias": db}


class AdaptiveWidthLinear(NumpyModel):
    """``y = x Wᵀ``, cut or gated to ``width = sigmoid(selector) * max_width`` outputs.

    Args:
        state: ``weight`` of shape ``(max_width, input_dim)`` and ``selector`` of shape ``(1,)``.
        gate: ``"hard"`` gives the first ``int(width)`` columns alone, and the selector has no gradient; ``"soft"`` and
            ``"straight_through"`` give all of them times a gate, as the PyTorch reference does.
        ramp: width of the soft slope in units.
    """

    shapes: ClassVar[Mapping[str, Shape]] = {"weight": ("max_width", "input_dim"), "selector": (1,)}

    def __init__(
        self,
        state: Mapping[str, ArrayLike],
        *,
        gate: Literal["hard", "straight_through", "soft"] = "hard",
        ramp: float = 8.0,
    ) -> None:
        super().__init__(state)
        if gate not in ("hard", "straight_through", "soft"):
            raise ValueError(f"AdaptiveWidthLinear: expected gate hard, straight_through or soft, found {gate!r}")
        self.gate, self.ramp = gate, ramp

    def forward(self, inputs: ArrayLike, *, masks: Masks = ()) -> tuple[Array, Cache]:
        expect_masks(masks, 0)
        x, W = float64(inputs), self.state["weight"]
        max_width = W.shape[0]
        expect_features(x, W.shape[1], "AdaptiveWidthLinear")
        share = NUMPY_ACTIVATIONS["sigmoid"].forward(self.state["selector"])[0]
        active = int(share * max_width)
        if self.gate == "hard":
            return linear_forward(x, W[:active])  # (..., active)
        z, cache = linear_forward(x, W)  # (..., max_width)
        unit = np.arange(max_width)
        slope = (share * max_width - unit) / self.ramp + 0.5  # (max_width,)
        gates = np.clip(slope, 0.0, 1.0) if self.gate == "soft" else (unit < active).astype(np.float64)
        return z * gates, (cache, z, gates, slope, share)

    def backward(self, cotangents: ArrayLike, cache: Cache) -> tuple[Array, Gradients]:
        dout = float64(cotangents)
        max_width, input_dim = self.state["weight"].shape
        if self.gate == "hard":
            dx, dW, _ = linear_backward(dout, cache)  # (..., input_dim), (active, input_dim)
            inactive = np.zeros((max_width - len(dW), input_dim))
            return dx, {"weight": np.concatenate([dW, inactive])}  # the selector is behind int(): no gradient
        linear_cache, z, gates, slope, share = cache
        dx, dW, _ = linear_backward(dout * gates, linear_cache)
        dgates = (dout * z).reshape(-1, max_width).sum(axis=0)  # (samples, max_width) -> (max_width,)
        inside = (slope >= 0.0) & (slope <= 1.0)  # where the clip lets the gradient through, bounds included
        dwidth = (dgates * inside).sum() / self.ramp
        dselector = np.array([dwidth * max_width * share * (1.0 - share)])  # (1,)
        return dx, {"weight": dW, "selector": dselector}
