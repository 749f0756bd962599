"""Seeded torch models and inputs for the corpus."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import torch

__all__ = ["channels_last", "ids", "rows", "seeded"]

Module = TypeVar("Module", bound=torch.nn.Module)


def seeded(make: Callable[[], Module], seed: int = 0) -> Module:
    """The same torch model every time, its vectors (biases, scales) off their initial zeros and ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    return model


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 inputs."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ids(*shape: int, vocabulary: int, seed: int = 0) -> np.ndarray:
    """Integers from 0 up to, not including, ``vocabulary``."""
    return np.random.default_rng(seed).integers(0, vocabulary, shape)


def channels_last(x: jax.Array) -> jax.Array:
    """(batch, channels, height, width) -> (batch, height, width, channels)"""
    return jnp.transpose(x, (0, 2, 3, 1))
