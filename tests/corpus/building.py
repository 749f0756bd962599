"""What every port of the corpus is built with: seeded models and seeded inputs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import compare

__all__ = ["build", "integers", "normal"]


def build(name: str, make_torch: Callable[[], torch.nn.Module], flax_model: Any, inputs: Any, **fields: Any) -> Any:
    """A ``compare.Port`` whose torch weights are the same every time; torch's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return compare.Port(make_torch(), flax_model, inputs, name=name, **fields)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(high: int, *shape: int, seed: int = 0) -> np.ndarray:
    """int32 numbers from 0 to ``high`` - 1, both ends among them."""
    values = np.random.default_rng(seed).integers(0, high, size=shape).astype(np.int32)
    values.flat[0], values.flat[-1] = 0, high - 1
    return values
