"""What the tests of ``compare`` share: seeded reference models whose biases are never zero, and inputs."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

Make = Callable[[Callable[[], torch.nn.Module]], torch.nn.Module]
Rows = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def seeded() -> Make:
    """Makes a torch model the same way every time, and moves every vector off its initial zeros or ones."""

    def make(construct: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = construct()
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
        return model

    return make


@pytest.fixture(scope="session")
def rows() -> Rows:
    """Standard normal float32 inputs of any shape."""

    def draw(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    return draw
