"""PyTorch's activation functions under the names that the Flax and NumPy tables use."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["TORCH_ACTIVATIONS", "get_torch_activation"]


def linear(x: Tensor) -> Tensor:
    """The identity ``y = x``."""
    return x


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    return F.gelu(x, approximate="tanh")


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, also where PyTorch's default would return ``x`` instead (beyond 20, an error of 2e-9)."""
    return F.softplus(x, threshold=40.0)  # exp(-40) = 4e-18 vanishes against 40 in float64 too


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis."""
    return F.softmax(x, dim=-1)


def log_softmax(x: Tensor) -> Tensor:
    """Log-softmax over the last axis."""
    return F.log_softmax(x, dim=-1)


TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": linear,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": softplus,
    "softmax": softmax,
    "log_softmax": log_softmax,
}


def get_torch_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation called ``name``; a ``ValueError`` that lists all of them for any other name."""
    if name not in TORCH_ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(TORCH_ACTIVATIONS)}; found {name!r}")
    return TORCH_ACTIVATIONS[name]
