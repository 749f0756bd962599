"""The Flax models: names and sizes of the article, modes, options and errors (their values are checked in compare)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fcjax.models import MLP, FlaxModel, FlaxModelWithActivation, MNISTClassifier, Regressor


def inputs(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(3), shape)


def kernels(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    linear = [(path, module) for path, module in nnx.iter_modules(model) if isinstance(module, nnx.Linear)]
    return {".".join(map(str, path)): module.kernel[...].shape for path, module in linear}


def test_the_articles_names_and_sizes() -> None:
    rngs = nnx.Rngs(0)
    assert kernels(FlaxModel(3, 5, 2, rngs=rngs)) == {"layer1": (3, 5), "layer2": (5, 2)}
    assert kernels(FlaxModelWithActivation(3, 5, 2, rngs=rngs)) == {"layer1": (3, 5), "layer2": (5, 2)}
    assert kernels(MNISTClassifier(rngs=rngs)) == {"fc1": (784, 512), "fc2": (512, 256), "fc3": (256, 10)}
    assert kernels(Regressor(8, rngs=rngs)) == {"fc1": (8, 64), "fc2": (64, 32), "fc3": (32, 1)}
    assert kernels(MLP((4, 6, 5, 3), rngs=rngs)) == {"layers.0": (4, 6), "layers.1": (6, 5), "layers.2": (5, 3)}


def test_single_sample_and_batch() -> None:
    x = inputs(4, 3)
    for model in (FlaxModel(3, 5, 2, rngs=nnx.Rngs(0)), FlaxModelWithActivation(3, 5, 2, rngs=nnx.Rngs(0))):
        assert model(x).shape == (4, 2)
        # One row alone may be summed in another order: a few roundings (6e-8) of numbers of about 1.
        np.testing.assert_allclose(jnp.stack([model(row) for row in x]), model(x), atol=1e-6)


def test_the_activation_is_after_layer1_only() -> None:
    plain, active = FlaxModel(3, 5, 2, rngs=nnx.Rngs(0)), FlaxModelWithActivation(3, 5, 2, rngs=nnx.Rngs(0))
    x = inputs(50, 3)
    hidden = jnp.maximum(plain.layer1(x), 0)
    # The same operations, compiled apart: a few roundings (6e-8) of numbers of about 1.
    np.testing.assert_allclose(active(x), active.layer2(hidden), rtol=0, atol=1e-6)
    assert jnp.abs(active(x) - plain(x)).max() > 0.01  # a thousand times what rounding does
    assert (active(x) < 0).any()  # nothing is cut off at the output


def test_classifier_modes() -> None:
    model, images = MNISTClassifier(rngs=nnx.Rngs(0)), jnp.abs(inputs(5, 28, 28))
    keyed = [model(images, rngs=jax.random.key(k)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(keyed[0], keyed[1])
    assert not np.array_equal(keyed[0], keyed[2])
    with pytest.raises(ValueError, match="dropout is on but has no key"):
        model(images)
    model.eval()
    outputs = model(images)
    np.testing.assert_array_equal(outputs, model(images.reshape(5, 784)))
    np.testing.assert_array_equal(outputs, model(images[:, None]))
    np.testing.assert_allclose(jnp.exp(outputs).sum(axis=1), 1.0, atol=1e-6)  # float32 sums of ten
    assert jnp.abs(outputs - keyed[0]).max() > 1e-3  # dropout moves log-probabilities by about 0.1


def test_the_two_dropout_calls_draw_apart() -> None:
    """With identical layers before them, equal masks would drop the same units twice."""
    model, key = MNISTClassifier(rngs=nnx.Rngs(0)), jax.random.key(0)
    ones = jnp.ones((5, 256))
    first, second = (model.dropout(ones, rngs=key, stream=stream) > 0 for stream in (1, 2))
    # Independent masks agree in 0.8² + 0.2² = 68 % of 1,280 places, give or take 1.3 %.
    assert 0.6 < (first == second).mean() < 0.76


@pytest.mark.parametrize("norm", [None, "layer", "batch"])
@pytest.mark.parametrize("residual", [False, True])
def test_mlp_blocks_by_hand(norm: Any, residual: bool) -> None:
    model = MLP((4, 6, 6, 3), "tanh", norm=norm, residual=residual, output="sigmoid", rngs=nnx.Rngs(0))
    model.eval()
    x = inputs(7, 4)
    h = np.asarray(x)
    for i in range(2):
        y = h @ np.asarray(model.layers[i].kernel[...]) + np.asarray(nnx.state(model.layers[i])["bias"][...])
        if norm == "layer":
            y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
        elif norm == "batch":
            y = y / np.sqrt(1 + 1e-5)  # running mean 0 and variance 1
        y = np.tanh(y)
        h = h + y if residual and h.shape == y.shape else y
    z = h @ np.asarray(model.layers[2].kernel[...]) + np.asarray(nnx.state(model.layers[2])["bias"][...])
    np.testing.assert_allclose(model(x), 1 / (1 + np.exp(-z)), atol=1e-5)  # float32, three layers of order one


def test_batch_norm_statistics_move_in_training_only() -> None:
    model = MLP((4, 6, 3), norm="batch", rngs=nnx.Rngs(0))
    x = inputs(9, 4)

    def mean() -> np.ndarray:
        return np.asarray(nnx.state(model.norms[0])["mean"][...])

    y = model.layers[0](x)
    model(x)
    # PyTorch's momentum 0.1; means of nine numbers of about 1 in float32, which differ by the order of the sum.
    np.testing.assert_allclose(mean(), 0.1 * y.mean(axis=0), rtol=0, atol=1e-6)
    before = mean()
    model.eval()
    model(x)
    np.testing.assert_array_equal(mean(), before)


def test_mlp_dropout_draws_apart_in_each_block() -> None:
    model = MLP((4, 50, 50, 3), dropout=0.5, rngs=nnx.Rngs(0))
    x, key = inputs(6, 4), jax.random.key(0)
    assert not np.array_equal(model(x, rngs=key), model(x, rngs=jax.random.key(1)))
    first, second = (np.asarray(model.dropout(jnp.ones((6, 50)), rngs=key, stream=i)) for i in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("model", "layer", "size"),
    [
        (lambda: FlaxModel(3, 5, 2, rngs=nnx.Rngs(0)), "layer1", 3),
        (lambda: FlaxModelWithActivation(3, 5, 2, rngs=nnx.Rngs(0)), "layer1", 3),
        (lambda: MNISTClassifier(rngs=nnx.Rngs(0)), "fc1", 784),
        (lambda: Regressor(8, rngs=nnx.Rngs(0)), "fc1", 8),
        (lambda: MLP((4, 6, 3), rngs=nnx.Rngs(0)), r"layers\.0", 4),
    ],
)
def test_wrong_inputs_name_the_layer(model: Any, layer: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"{layer}: expected input of shape \(\.\.\., {size}\), found \(2, 11\)"):
        model()(inputs(2, 11))
    with pytest.raises(ValueError, match=rf"{layer}: expected floating-point input, found uint8"):
        model()(jnp.ones((2, size), jnp.uint8))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sizes": (3,)}, r"at least two positive sizes, found \(3,\)"),
        ({"sizes": (3, 0, 2)}, r"at least two positive sizes, found \(3, 0, 2\)"),
        ({"sizes": (3, 4, 2), "dropout": 1.0}, r"expected dropout in \[0, 1\), found 1.0"),
        ({"sizes": (3, 4, 2), "activation": "swish"}, "found 'swish'"),
        ({"sizes": (3, 4, 2), "output": "argmax"}, "found 'argmax'"),
        ({"sizes": (3, 4, 2), "norm": "group"}, "norm: expected layer, batch or None; found 'group'"),
        ({"sizes": (3, 2), "norm": "group"}, "norm: expected layer, batch or None; found 'group'"),
    ],
)
def test_mlp_refuses_bad_arguments_in_words(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        MLP(**arguments, rngs=nnx.Rngs(0))
