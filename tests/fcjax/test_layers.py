"""The layers that Flax does not have: masks, gates, keys, and what they refuse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fcjax.layers import AdaptiveWidthLinear, Buffer, Dropout, LowRankLinear, SparseLinear, row_keys


def inputs(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(3), shape)


# Dropout


def test_dropout_keeps_the_given_share_and_scales_it() -> None:
    x = jnp.ones((400, 500))
    y = np.asarray(Dropout(0.3)(x, rngs=jax.random.key(0)))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    assert abs((y > 0).mean() - 0.7) < 0.005  # 200,000 draws: a standard deviation of 0.001
    assert abs((y > 0).mean() - 0.3) > 0.1  # the twin: rate taken for keep probability
    assert np.abs((y > 0).mean(axis=0) - 0.7).max() < 0.15  # 400 rows each, 0.023: no column shares its decisions


def test_dropout_masks_follow_the_row_not_its_place() -> None:
    """The second half of a batch gets the same mask alone, given its rows in the whole batch."""
    layer, x, key = Dropout(0.5), jnp.ones((8, 100)), jax.random.key(1)
    whole = layer(x, rngs=row_keys(key, jnp.arange(8)))
    half = layer(x[4:], rngs=row_keys(key, jnp.arange(4, 8)))
    np.testing.assert_array_equal(whole[4:], half)
    np.testing.assert_array_equal(whole, layer(x, rngs=key))  # a scalar key means rows 0, 1, 2...
    wrong = layer(x[4:], rngs=row_keys(key, jnp.arange(4)))  # the twin: rows counted from zero on each device
    assert not np.array_equal(whole[4:], wrong)
    assert len(np.unique(np.asarray(whole), axis=0)) == 8


def test_dropout_streams_differ_and_calls_repeat() -> None:
    layer, x, key = Dropout(0.5), jnp.ones((4, 100)), jax.random.key(1)
    np.testing.assert_array_equal(layer(x, rngs=key, stream=1), layer(x, rngs=key, stream=1))
    assert not np.array_equal(layer(x, rngs=key, stream=1), layer(x, rngs=key, stream=2))


def test_dropout_off() -> None:
    x = inputs(4, 5)
    layer = Dropout(0.5)
    layer.eval()
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(Dropout(0.0)(x), x)
    np.testing.assert_array_equal(Dropout(1.0)(x), jnp.zeros_like(x))
    np.testing.assert_array_equal(Dropout(0.5)(x, deterministic=True), x)
    with pytest.raises(ValueError, match="dropout is on but has no key: pass rngs= at the call"):
        Dropout(0.5)(x)


# SparseLinear


def test_sparse_formula_and_mask() -> None:
    layer = SparseLinear(7, 5, 0.4, rngs=nnx.Rngs(1))
    layer.bias[...] = jnp.arange(5.0)
    x = inputs(3, 7)
    W, mask = np.asarray(layer.kernel[...]), np.asarray(layer.mask[...])
    # Sums of seven float32 products of order one.
    np.testing.assert_allclose(layer(x), x @ (W * mask) + np.arange(5.0), atol=1e-5)
    assert np.abs(np.asarray(layer(x)) - np.asarray(x @ W + np.arange(5.0))).max() > 0.01  # the twin: no mask
    assert mask.any()
    assert not mask.all()
    gradient = jax.grad(lambda kernel: (x @ jnp.where(mask, kernel, 0)).sum())(layer.kernel[...])
    assert not np.asarray(gradient)[~mask].any()


def test_the_mask_is_a_buffer() -> None:
    layer = SparseLinear(7, 5, rngs=nnx.Rngs(0))
    assert set(nnx.state(layer, nnx.Param)) == {"kernel", "bias"}
    assert set(nnx.state(layer, Buffer)) == {"mask"}
    assert not np.array_equal(layer.mask[...], SparseLinear(7, 5, rngs=nnx.Rngs(1)).mask[...])


@pytest.mark.parametrize(("scale", "expected"), [("article", 200.0), ("fan_in", 1.0)])
def test_sparse_scales(scale: Any, expected: float) -> None:
    layer = SparseLinear(400, 300, rngs=nnx.Rngs(0), scale=scale)
    assert abs(layer.mask[...].mean() - 0.5) < 0.01  # 120,000 draws: a standard deviation of 0.0015
    # Output variance for unit inputs: 200 inputs survive on average.
    assert np.asarray(layer(inputs(200, 400))).var() == pytest.approx(expected, rel=0.1)


def test_an_output_without_any_input_is_not_divided_by_zero() -> None:
    layer = SparseLinear(2, 400, 0.9, rngs=nnx.Rngs(0))
    assert not layer.mask[...].any(axis=0).all()
    assert jnp.isfinite(layer(inputs(3, 2))).all()


# LowRankLinear


def test_low_rank_is_the_product_of_two() -> None:
    layer = LowRankLinear(7, 5, 2, rngs=nnx.Rngs(0))
    x = inputs(3, 7)
    assert layer.U.bias is None
    assert layer.V.bias is not None
    product = np.asarray(layer.U.kernel[...]) @ np.asarray(layer.V.kernel[...])
    assert np.linalg.matrix_rank(product) == 2
    np.testing.assert_allclose(layer(x), x @ product + layer.V.bias[...], atol=1e-5)  # float32, order one


# AdaptiveWidthLinear


def adaptive(gate: Any, selector: float = 1.0, ramp: float = 3.0) -> AdaptiveWidthLinear:
    layer = AdaptiveWidthLinear(7, 5, 10, gate=gate, ramp=ramp, rngs=nnx.Rngs(0))
    layer.selector[...] = jnp.array([selector])
    return layer


def selector_gradient(gate: str) -> float:
    graphdef, parameters = nnx.split(adaptive(gate))

    def loss(parameters: nnx.State) -> jax.Array:
        return nnx.merge(graphdef, parameters)(inputs(3, 7)).sum()

    return float(jax.grad(loss)(parameters)["selector"][...][0])


def test_hard_gate_is_the_articles_slice_with_zeros_behind() -> None:
    layer, x = adaptive("hard"), inputs(3, 7)
    active = int(1 / (1 + np.exp(-1.0)) * 10)
    assert active == 7
    np.testing.assert_allclose(layer(x)[:, :active], x @ layer.kernel[...][:, :active], atol=1e-5)
    assert not layer(x)[:, active:].any()
    assert layer(x).shape == jax.jit(lambda x: layer(x))(x).shape == (3, 10)


def test_only_the_hard_gate_leaves_the_selector_dead() -> None:
    assert selector_gradient("hard") == 0.0
    assert abs(selector_gradient("soft")) > 1e-3
    assert selector_gradient("straight_through") == pytest.approx(selector_gradient("soft"), rel=1e-5)


@pytest.mark.parametrize("selector", [-2.0, 0.3, 1.0, 1.7, 4.0])
def test_straight_through_is_hard_to_the_last_bit(selector: float) -> None:
    np.testing.assert_array_equal(adaptive("straight_through", selector).gates(), adaptive("hard", selector).gates())


def test_twin_another_order_of_the_straight_through_sum_is_not() -> None:
    soft = np.array([0.3, 0.7, 0.1, 0.62857145], np.float32)
    assert ((np.float32(1) + soft) - soft != 1).any()
    assert (np.float32(1) + (soft - soft) == 1).all()


def test_soft_gate_is_monotone_and_ends_in_exact_zeros() -> None:
    gates = np.asarray(adaptive("soft").gates())
    assert (np.diff(gates) <= 0).all()
    assert gates[0] == 1
    assert gates[-1] == 0
    assert ((gates > 0) & (gates < 1)).sum() == 3  # the ramp


@pytest.mark.parametrize("gate", ["hard", "straight_through", "soft"])
@pytest.mark.parametrize("selector", [-30.0, 0.0, 1.0, 40.0])
def test_compact_is_narrower_and_gives_the_same(gate: str, selector: float) -> None:
    layer, x = adaptive(gate, selector), inputs(3, 7)
    compact, full = layer.compact(), np.asarray(layer(x))
    width = compact.out_features
    assert width == {-30.0: 0, 0.0: 5, 1.0: 7, 40.0: 10}[selector] or gate == "soft"
    np.testing.assert_allclose(compact(x), full[:, :width], atol=1e-5)  # float32: gate before or after the sum
    assert not full[:, width:].any()


def test_compact_keeps_float64() -> None:
    with jax.enable_x64(True):
        layer = adaptive("soft")
        layer.kernel.set_value(layer.kernel[...].astype(jnp.float64))
        assert layer.compact().kernel[...].dtype == jnp.float64


# Bad input


@pytest.mark.parametrize("make", [SparseLinear, LowRankLinear])
def test_wrong_inputs_name_the_layer(make: Any) -> None:
    layer = make(7, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=make.__name__ + r".*: expected input of shape \(\.\.\., 7\), found \(3, 5\)"):
        layer(inputs(3, 5))
    with pytest.raises(ValueError, match="expected floating-point input, found int32"):
        layer(jnp.ones((3, 7), jnp.int32))


def test_bad_arguments_are_refused_in_words() -> None:
    rngs = nnx.Rngs(0)
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"expected sparsity in \[0, 1\), found"):
            SparseLinear(3, 2, sparsity, rngs=rngs)
    with pytest.raises(ValueError, match="expected scale fan_in or article, found 'fan_out'"):
        SparseLinear(3, 2, scale="fan_out", rngs=rngs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected gate hard, straight_through or soft, found 'firm'"):
        AdaptiveWidthLinear(3, 2, 4, gate="firm", rngs=rngs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at least 1 unit, found 0\.5"):
        AdaptiveWidthLinear(3, 2, 4, ramp=0.5, rngs=rngs)
