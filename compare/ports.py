"""The built-in ports: every model of the article as torch, Flax and NumPy, in one table."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import fcjax
from compare.models import numpy_mlp, numpy_models, torch_models
from compare.port import Port
from fcjax.summary import fully_connected_count

__all__ = ["CONSISTENCY_INPUT", "PORTS"]

CONSISTENCY_INPUT = np.array([[3.1, 1.3, 1.2], [2.1, 1.3, 13.0]])
"""What the article's own consistency script feeds to its 3-5-2 nets."""

_MLP: dict[str, Any] = {
    "sizes": (5, 7, 7, 3),
    "activation": "gelu",
    "dropout": 0.3,
    "norm": "layer",
    "residual": True,
}
_BATCH_NORM_MLP: dict[str, Any] = {"sizes": (5, 8, 6, 3), "activation": "tanh", "norm": "batch"}


def _images(batch: int) -> np.ndarray:
    """Images as the trained nets see them: standardised grey values."""
    return np.random.default_rng(0).standard_normal((batch, 28, 28)).astype(np.float32)


def _rows(batch: int, features: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, features)).astype(np.float32)


def _linear(inputs: np.ndarray) -> Port:
    return Port(
        _seeded(lambda: torch_models.TorchModel(3, 5, 2)),
        _undrawn(lambda: fcjax.FlaxModel(3, 5, 2, rngs=nnx.Rngs(0))),
        inputs,
        numpy_model=numpy_models.DiyModel,
        formula=fully_connected_count((3, 5, 2)),
    )


def _with_activation() -> Port:
    return Port(
        _seeded(lambda: torch_models.TorchModelWithActivation(3, 5, 2)),
        _undrawn(lambda: fcjax.FlaxModelWithActivation(3, 5, 2, rngs=nnx.Rngs(0))),
        CONSISTENCY_INPUT,
        numpy_model=numpy_models.DiyModelWithActivation,
        formula=fully_connected_count((3, 5, 2)),
    )


def _mnist(mode: Any) -> Port:
    return Port(
        _seeded(torch_models.MNISTClassifier),
        _undrawn(lambda: fcjax.MNISTClassifier(rngs=nnx.Rngs(0))),
        _images(4),
        numpy_model=numpy_models.MNISTClassifier,
        mode=mode,
        formula=fully_connected_count((784, 512, 256, 10)),
    )


def _regressor() -> Port:
    return Port(
        _seeded(lambda: torch_models.Regressor(8)),
        _undrawn(lambda: fcjax.Regressor(8, rngs=nnx.Rngs(0))),
        _rows(6, 8),
        numpy_model=numpy_models.Regressor,
        formula=fully_connected_count((8, 64, 32, 1)),
    )


def _sparse() -> Port:
    return Port(
        _seeded(lambda: torch_models.SparseLinear(7, 4)),
        _undrawn(lambda: fcjax.SparseLinear(7, 4, rngs=nnx.Rngs(0))),
        _rows(6, 7),
        numpy_model=numpy_models.SparseLinear,
        formula=fully_connected_count((7, 4)),
    )


def _low_rank() -> Port:
    return Port(
        _seeded(lambda: torch_models.LowRankLinear(20, 12, rank=5)),
        _undrawn(lambda: fcjax.LowRankLinear(20, 12, rank=5, rngs=nnx.Rngs(0))),
        _rows(6, 20),
        numpy_model=numpy_models.LowRankLinear,
        formula=5 * (20 + 12) + 12,
    )


def _adaptive(gate: Any) -> Port:
    return Port(
        _seeded(lambda: torch_models.AdaptiveWidthLinear(7, 4, 16, gate=gate)),
        _undrawn(lambda: fcjax.AdaptiveWidthLinear(7, 4, 16, gate=gate, rngs=nnx.Rngs(0))),
        _rows(6, 7),
        # The torch layer returns its active columns alone, the Flax layer zeros in the others.
        outputs=(lambda y: torch.nn.functional.pad(y, (0, 16 - y.shape[-1])), None),
        numpy_model=functools.partial(numpy_models.AdaptiveWidthLinear, gate=gate),
        formula=7 * 16 + 1,
    )


def _init_weights() -> Port:
    model = _seeded(lambda: torch_models.TorchModelWithActivation(3, 5, 2))
    model.apply(torch_models.init_weights)

    def flax_model() -> nnx.Module:
        made = fcjax.FlaxModelWithActivation(3, 5, 2, rngs=nnx.Rngs(0))
        fcjax.init_weights(made, nnx.Rngs(1))
        return made

    return Port(
        model,
        _undrawn(flax_model),
        CONSISTENCY_INPUT,
        numpy_model=numpy_models.DiyModelWithActivation,
        formula=fully_connected_count((3, 5, 2)),
    )


def _mlp(settings: Mapping[str, Any], mode: Any) -> Port:
    train = {"train": True} if mode == "train" and settings.get("norm") == "batch" else {}
    return Port(
        _seeded(lambda: torch_models.MLP(**settings)),
        _undrawn(lambda: fcjax.MLP(**settings, rngs=nnx.Rngs(0))),
        _rows(6, 5),
        numpy_model=lambda state: _TrainingMode(numpy_mlp.MLP(state, **settings), train),
        mode=mode,
    )


class _TrainingMode:
    """A NumPy model whose forward pass is told the mode, as a torch module knows it."""

    def __init__(self, model: numpy_mlp.MLP, keywords: Mapping[str, Any]) -> None:
        self.parameters, self.backward = model.parameters, model.backward
        self.forward = functools.partial(model.forward, **keywords)


def _undrawn(make: Callable[[], nnx.Module]) -> nnx.Module:
    """The model with zeros for weights: the check copies torch's, and drawing them would cost seconds to compile."""
    graphdef, state = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


def _seeded(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


PORTS: dict[str, Callable[[], Port]] = {
    "A1 TorchModel": lambda: _linear(CONSISTENCY_INPUT),
    "A1 TorchModel, one sample": lambda: _linear(CONSISTENCY_INPUT[0]),
    "A2 TorchModelWithActivation": _with_activation,
    "A3 MNISTClassifier": lambda: _mnist("eval"),
    "A3 MNISTClassifier, training": lambda: _mnist("train"),
    "A4 Regressor": _regressor,
    "A5 SparseLinear": _sparse,
    "A6 LowRankLinear": _low_rank,
    "A7 AdaptiveWidthLinear, hard": lambda: _adaptive("hard"),
    "A7 AdaptiveWidthLinear, straight-through": lambda: _adaptive("straight_through"),
    "A7 AdaptiveWidthLinear, soft": lambda: _adaptive("soft"),
    "A8 init_weights": _init_weights,
    "MLP, layer norm, residual, training": lambda: _mlp(_MLP, "train"),
    "MLP, batch norm": lambda: _mlp(_BATCH_NORM_MLP, "eval"),
    "MLP, batch norm, training": lambda: _mlp(_BATCH_NORM_MLP, "train"),
}
"""Name -> function that makes the port, in the order of the table."""
