"""Laws of the initialisers, against the exact distributions: Kolmogorov-Smirnov, bounds, variance."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.typing import NDArray
from scipy import stats

from fcjax import initializers
from fcjax.layers import SparseLinear, torch_linear
from fcjax.models import MLP

FAN_IN, FAN_OUT = 300, 200  # rectangular, so that a law of the wrong fan is another law
LAWS = {
    "torch_linear_kernel": (initializers.torch_linear_kernel(), "uniform", 1 / math.sqrt(3 * FAN_IN)),
    "torch_linear_bias": (initializers.torch_linear_bias(FAN_IN), "uniform", 1 / math.sqrt(3 * FAN_IN)),
    "xavier_uniform": (initializers.xavier_uniform(), "uniform", math.sqrt(2 / (FAN_IN + FAN_OUT))),
    "xavier_normal": (initializers.xavier_normal(), "norm", math.sqrt(2 / (FAN_IN + FAN_OUT))),
    "kaiming_uniform": (initializers.kaiming_uniform(), "uniform", math.sqrt(2 / FAN_IN)),
    "kaiming_normal": (initializers.kaiming_normal(), "norm", math.sqrt(2 / FAN_IN)),
}
"""Name -> initializer, family, standard deviation."""


def draws(initializer: initializers.Initializer, seed: int = 0) -> NDArray[np.float32]:
    return np.asarray(initializer(jax.random.key(seed), (FAN_IN, FAN_OUT), jnp.float32)).ravel()  # 60,000 numbers


def follows(sample: NDArray[np.float32], family: str, deviation: float) -> bool:
    """Whether nothing speaks against the law; at 60,000 draws that resolves 1 % of the distribution function."""
    bound = math.sqrt(3) * deviation
    if family == "uniform" and np.abs(sample).max() > bound * (1 + 1e-6):  # the bound itself is rounded to float32
        return False
    law = stats.uniform(-bound, 2 * bound) if family == "uniform" else stats.norm(0, deviation)
    # A right law fails one seed in ten thousand; seeds are fixed.
    return bool(stats.kstest(sample, law.cdf).pvalue > 1e-4) and abs(sample.std() / deviation - 1) < 0.02


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("seed", [0, 1])
def test_law(name: str, seed: int) -> None:
    initializer, family, deviation = LAWS[name]
    assert follows(draws(initializer, seed), family, deviation)


TWINS = {
    "lecun_normal": nnx.initializers.lecun_normal(),
    "he_normal, which is truncated": nnx.initializers.he_normal(),
    "glorot_normal, which is truncated": nnx.initializers.glorot_normal(),
    "zeros": nnx.initializers.zeros,
    "the fan of the transposed kernel": nnx.initializers.variance_scaling(1 / 3, "fan_out", "uniform"),
    "five per cent too wide": nnx.initializers.variance_scaling(1.05**2 / 3, "fan_in", "uniform"),
}


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("name", LAWS)
def test_twin_another_law_is_told_apart(twin: str, name: str) -> None:
    _, family, deviation = LAWS[name]
    assert not follows(draws(TWINS[twin]), family, deviation)


def test_torch_linear_takes_both_laws() -> None:
    layer = torch_linear(50, 4000, rngs=nnx.Rngs(0))
    assert follows(np.asarray(layer.kernel[...]).ravel(), "uniform", 1 / math.sqrt(3 * 50))
    assert layer.bias is not None
    assert follows(np.asarray(layer.bias[...]), "uniform", 1 / math.sqrt(3 * 50))
    assert torch_linear(5, 4, use_bias=False, rngs=nnx.Rngs(0)).bias is None


def test_init_weights_reaches_every_linear_layer_and_no_other() -> None:
    model = MLP((FAN_IN, FAN_OUT, 10), norm="layer", rngs=nnx.Rngs(0))
    old = np.asarray(model.layers[0].kernel[...])
    initializers.init_weights(model, nnx.Rngs(1))
    kernel = np.asarray(model.layers[0].kernel[...])
    assert not np.isclose(kernel, old).all()
    assert follows(kernel.ravel(), "uniform", math.sqrt(2 / (FAN_IN + FAN_OUT)))
    assert all((layer.bias[...] == np.float32(0.01)).all() for layer in model.layers if layer.bias is not None)
    np.testing.assert_array_equal(nnx.state(model.norms[0])["scale"][...], np.ones(FAN_OUT))
    first, second = (np.asarray(layer.kernel[...]).ravel()[:10] for layer in model.layers)
    assert not np.isclose(first, second).any()  # each layer has a draw of its own


def test_init_weights_leaves_other_layers_alone() -> None:
    layer = SparseLinear(5, 4, rngs=nnx.Rngs(0))
    before = np.asarray(layer.kernel[...])
    initializers.init_weights(layer, nnx.Rngs(1))
    np.testing.assert_array_equal(layer.kernel[...], before)
