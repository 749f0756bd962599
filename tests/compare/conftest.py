"""What the tests of ``compare`` share: seeded reference models whose biases are never zero, and inputs."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest
import torch

from compare.diagnose import Diagnosis

Make = Callable[[Callable[[], torch.nn.Module]], torch.nn.Module]
Rows = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def small_programs() -> Iterator[None]:
    """For checks of tiny models: compiling well and computing on many threads both cost more than they save."""
    threads, optimised = torch.get_num_threads(), not jax.config.read("jax_disable_most_optimizations")
    torch.set_num_threads(1)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    torch.set_num_threads(threads)
    jax.config.update("jax_disable_most_optimizations", not optimised)


@pytest.fixture(scope="module")
def verdict_only() -> Iterator[None]:
    """Leaves out the search for the place and the cause of a failure, which has tests of its own and takes longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compare.checking.diagnose", lambda *_: Diagnosis(None))
        yield


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
