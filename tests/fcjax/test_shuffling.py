"""Random orders without sorting: permutations always, each equally likely, no two epochs alike."""

import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcjax import shuffling
from fcjax.epoch import sample_order
from fcjax.shuffling import shuffled


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 12, 37, 110, 1009, 2500])
def test_every_sample_is_taken_once(samples: int) -> None:
    keys = jax.random.split(jax.random.key(samples), 50)
    for order in np.asarray(jax.vmap(lambda key: shuffled(key, samples))(keys)):
        assert np.array_equal(np.sort(order), np.arange(samples))


def counted(samples: int, draws: int) -> Counter[tuple[int, ...]]:
    """How often each permutation comes up."""
    keys = jax.random.split(jax.random.key(3), draws)
    orders = jax.jit(jax.vmap(lambda key: shuffled(key, samples)))(keys)
    return Counter(map(tuple, np.asarray(orders).tolist()))


def chi_square(found: Counter[tuple[int, ...]], samples: int, draws: int) -> float:
    """``Σ (seen - expected)² / expected`` over all permutations, in deviations from its mean."""
    cells, expected = math.factorial(samples), draws / math.factorial(samples)
    total = sum((found[order] - expected) ** 2 / expected for order in itertools.permutations(range(samples)))
    return (total - (cells - 1)) / math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 6])
def test_all_permutations_of_few_samples_are_equally_likely(samples: int) -> None:
    draws = 100 * math.factorial(samples)
    # A fair shuffle is 4 deviations off once in 30,000 times; the keys are the same every time.
    assert chi_square(counted(samples, draws), samples, draws) < 4


def test_too_few_rounds_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffling, "ROUNDS", 4)
    draws = 100 * math.factorial(5)
    assert chi_square(counted(5, draws), 5, draws) > 10


def test_neighbours_are_torn_apart() -> None:
    samples = 2500
    order = np.asarray(shuffled(jax.random.key(0), samples)).astype(float)
    place = np.arange(samples)
    # Correlations of independent numbers have deviation 1/√n.
    assert abs(np.corrcoef(place, order)[0, 1]) < 4 / math.sqrt(samples)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / math.sqrt(samples)
    # Of n samples about e^0 = 1 stays where it is.
    assert np.sum(place == order) < 8


def test_epochs_and_runs_have_orders_of_their_own() -> None:
    orders = [
        np.asarray(sample_order(jax.random.key(seed), jnp.int32(epoch), 1000)) for seed in (0, 1) for epoch in (0, 1)
    ]
    for one, other in itertools.combinations(orders, 2):
        # Two random orders agree at one place on average.
        assert np.sum(one == other) < 10
