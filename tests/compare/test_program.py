"""Programs that are compiled quickly, and those that must not be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compare.legs.program import compile_program, finds_extrema_again

pytestmark = pytest.mark.usefixtures("small_programs")


def pooled(weight: jax.Array, points: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    """The largest of normalised features over all points, as PointNet takes it."""
    features = (points @ weight - mean) * jax.lax.rsqrt(variance + 1e-5)  # (samples, points, features)
    return (features.max(1) * jnp.arange(1.0, 11.0)).sum()


def test_the_gradient_of_a_maximum_is_not_lost() -> None:
    random = np.random.default_rng(0)
    weight, points = random.standard_normal((8, 10)), random.standard_normal((3, 14, 8))
    mean, variance = random.standard_normal(10), random.random(10) + 0.5
    with jax.enable_x64(True):
        given = [jnp.asarray(array) for array in (weight, points, mean, variance)]
        program = compile_program(jax.make_jaxpr(jax.grad(pooled))(*given), given, "float64")
        (found,) = program.run(given)
    largest = ((points @ weight - mean) / np.sqrt(variance + 1e-5)).argmax(1)  # (samples, features)
    scale = np.arange(1.0, 11.0) / np.sqrt(variance + 1e-5)
    expected = np.stack([points[np.arange(3), largest[:, k]].sum(0) * scale[k] for k in range(10)], 1)
    assert np.abs(np.asarray(found) - expected).max() < 1e-12 * np.abs(expected).max()  # sums of three products


def test_a_maximum_that_takes_no_gradient_is_compiled_quickly() -> None:
    x = jnp.ones((3, 4))
    gradient = lambda function: jax.make_jaxpr(jax.grad(lambda x: (function(x) ** 2).sum()))(x).jaxpr  # noqa: E731
    assert finds_extrema_again(gradient(lambda x: x.max(1)))
    assert finds_extrema_again(gradient(jax.jit(lambda x: x.min(1))))
    assert not finds_extrema_again(gradient(jax.nn.softmax))
