"""B5: stacked linear layers are one layer; with ReLU in between they are not."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fcjax.collapse import collapse
from fcjax.layers import torch_linear
from fcjax.models import FlaxModel


@pytest.fixture(autouse=True)
def _x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def stack(sizes: Sequence[int], seed: int = 0, biases: Sequence[bool] | None = None) -> list[nnx.Linear]:
    rngs = nnx.Rngs(seed)
    return [
        nnx.Linear(m, n, use_bias=b, bias_init=nnx.initializers.normal(), param_dtype=jnp.float64, rngs=rngs)
        for m, n, b in zip(sizes[:-1], sizes[1:], biases or [True] * (len(sizes) - 1), strict=True)
    ]


def run(layers: Sequence[nnx.Linear], x: jax.Array, relu: bool = False) -> jax.Array:
    for i, layer in enumerate(layers):
        x = layer(x)
        x = jax.nn.relu(x) if relu and i < len(layers) - 1 else x
    return x


def inputs(size: int) -> jax.Array:
    return jax.random.normal(jax.random.key(9), (11, size), jnp.float64)


def test_three_layers_by_the_books_formula() -> None:
    layers = stack((4, 6, 5, 3))
    single = collapse(layers)
    W1, W2, W3 = (np.asarray(layer.kernel[...]).T for layer in layers)  # the books' (out, in)
    b1, b2, b3 = (np.asarray(layer.bias[...]) for layer in layers if layer.bias is not None)
    # Sums of six products of order one, twice: rounding of order 1e-15.
    np.testing.assert_allclose(np.asarray(single.kernel[...]).T, W3 @ W2 @ W1, rtol=0, atol=1e-14)
    assert single.bias is not None
    np.testing.assert_allclose(single.bias[...], W3 @ W2 @ b1 + W3 @ b2 + b3, rtol=0, atol=1e-14)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 3, 4]), st.booleans()), min_size=2, max_size=5))
def test_any_stack_collapses(layers: list[tuple[int, bool]]) -> None:
    sizes, biases = [size for size, _ in layers], [bias for _, bias in layers[1:]]
    stacked = stack(sizes, biases=biases)
    single = collapse(stacked)
    assert single.kernel[...].dtype == jnp.float64
    assert single.kernel[...].shape == (sizes[0], sizes[-1])
    assert (single.bias is not None) == any(biases)
    x = inputs(sizes[0])
    # Up to four products of numbers of about 1 to 10: a few hundred roundings of float64 (1e-16) at the very most.
    np.testing.assert_allclose(single(x), run(stacked, x), rtol=0, atol=1e-12)


def test_twin_with_relu_no_single_layer_exists() -> None:
    layers = stack((4, 6, 5, 3))
    x = inputs(4)
    with_relu = run(layers, x, relu=True)
    assert jnp.abs(collapse(layers)(x) - with_relu).max() > 0.1  # of the outputs' own size, about 1
    # Not only this one: an affine map sends the midpoint to the midpoint, and this net does not.
    middle = run(layers, (x[:1] + x[1:2]) / 2, relu=True)
    assert jnp.abs(middle - (with_relu[:1] + with_relu[1:2]) / 2).max() > 0.01


def test_twin_a_dropped_bias_or_a_wrong_order_is_seen() -> None:
    layers = stack((4, 4, 4))
    x = inputs(4)
    assert jnp.abs(collapse(layers[::-1])(x) - run(layers, x)).max() > 0.1
    without = collapse(stack((4, 4, 4), biases=[False, True]))
    assert jnp.abs(without(x) - run(layers, x)).max() > 1e-3  # a bias is about 0.01, since normal() has that deviation


def test_the_articles_first_model_is_one_layer() -> None:
    model = FlaxModel(3, 5, 2, rngs=nnx.Rngs(0))
    x = jnp.array([[3.1, 1.3, 1.2], [2.1, 1.3, 13]], jnp.float32)
    np.testing.assert_allclose(collapse([model.layer1, model.layer2])(x), model(x), atol=1e-5)  # float32, values to 13


def test_one_layer_is_copied_and_nothing_is_changed() -> None:
    (layer,) = stack((4, 3))
    single = collapse([layer])
    single.kernel[...] = jnp.zeros((4, 3))
    assert jnp.abs(layer.kernel[...]).min() > 0


def test_what_cannot_be_collapsed_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="expected at least one layer, found none"):
        collapse([])
    with pytest.raises(ValueError, match="layer 1 gives 5 features, layer 2 expects 6"):
        collapse([*stack((4, 3, 5)), *stack((6, 2))])
    with pytest.raises(TypeError, match=r"layer 1: expected nnx\.Linear, found Dropout"):
        collapse([torch_linear(4, 3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5)])  # type: ignore[list-item]
