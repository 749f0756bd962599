"""A pair of models with any function behind one linear layer."""

from collections.abc import Callable
from typing import Any

import jax
import torch
from flax import nnx
from torch import nn

__all__ = ["Applied", "TorchApplied"]


class Applied(nnx.Module):
    """A linear layer and a function."""

    def __init__(self, function: Callable[[jax.Array], Any]) -> None:
        self.fc, self.function = nnx.Linear(5, 3, rngs=nnx.Rngs(0)), function

    def __call__(self, x: jax.Array) -> Any:
        return self.function(self.fc(x))


class TorchApplied(nn.Module):
    """The same in torch."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.function = nn.Linear(5, 3), function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.fc(x))
