"""The table of activations on its own; the comparison with PyTorch and NumPy is in the tests of ``compare``."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcjax.activations import ACTIVATIONS, get_activation


def test_gelu_is_the_exact_one_and_gelu_tanh_is_not() -> None:
    x = np.linspace(-5, 5, 101)
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x])
    with jax.enable_x64(True):
        assert np.abs(ACTIVATIONS["gelu"](jnp.asarray(x)) - exact).max() < 1e-15  # values up to 5, one rounding
        assert 4e-4 < np.abs(ACTIVATIONS["gelu_tanh"](jnp.asarray(x)) - exact).max() < 5e-4


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_is_computed_in_float32_at_least(name: str) -> None:
    logits = jnp.array([[1.0, 2.0, 3.5, -4.0]], jnp.bfloat16)
    found = ACTIVATIONS[name](logits)
    assert found.dtype == jnp.float32
    exact = ACTIVATIONS[name](logits.astype(jnp.float32))
    assert jnp.abs(found - exact).max() < 1e-6  # the logits are the same numbers in both precisions
    naive = {"softmax": jax.nn.softmax, "log_softmax": jax.nn.log_softmax}[name](logits)
    assert jnp.abs(naive.astype(jnp.float32) - exact).max() > 1e-4  # the twin: bfloat16 would be seen


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_shape_is_kept_and_the_precision_of_elementwise_functions(name: str, dtype: jnp.dtype) -> None:
    found = ACTIVATIONS[name](jnp.ones((2, 3), dtype))
    assert found.shape == (2, 3)
    assert found.dtype == (jnp.float32 if "softmax" in name else dtype)


def test_softmax_is_over_the_last_axis() -> None:
    x = jnp.arange(6.0).reshape(2, 3) ** 2
    assert jnp.allclose(ACTIVATIONS["softmax"](x).sum(axis=1), 1.0, atol=1e-6)
    assert not jnp.allclose(ACTIVATIONS["softmax"](x).sum(axis=0), 1.0, atol=0.1)


def test_leaky_slope_at_zero_is_the_small_one() -> None:
    slope = jax.vmap(jax.grad(get_activation("leaky_relu")))(jnp.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(slope, [0.01, 0.01, 1.0], rtol=1e-6)  # 0.01 is rounded to float32


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"activation: expected one of linear, relu, .*; found 'swish'"):
        get_activation("swish")
