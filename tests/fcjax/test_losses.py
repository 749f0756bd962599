"""Losses against their formulas in NumPy, and the shapes they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcjax.losses import cross_entropy, default_loss, negative_log_likelihood, squared_error

LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) * 4
LABELS = np.array([2, 0, 1, 1, 2], np.int32)


def numpy_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return -np.log(probabilities[np.arange(len(labels)), labels])


def test_cross_entropy_is_minus_the_log_of_the_labels_probability() -> None:
    found = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    # A few roundings of float32 on numbers up to about 10.
    np.testing.assert_allclose(found, numpy_cross_entropy(LOGITS, LABELS), rtol=0, atol=5e-6)


def test_cross_entropy_of_the_wrong_axis_is_another_number() -> None:
    square = LOGITS[:3]
    wrong = -jax.nn.log_softmax(square, axis=0)[np.arange(3), LABELS[:3]]
    assert np.abs(wrong - numpy_cross_entropy(square, LABELS[:3])).max() > 0.1  # against 5e-6 that rounding may do


def test_cross_entropy_takes_log_probabilities_as_well() -> None:
    log_probabilities = jax.nn.log_softmax(jnp.asarray(LOGITS))
    once = negative_log_likelihood(log_probabilities, jnp.asarray(LABELS))
    twice = cross_entropy(log_probabilities, jnp.asarray(LABELS))
    np.testing.assert_allclose(once, twice, rtol=0, atol=2e-6)  # the second log-sum-exp rounds once more


def test_gradient_of_cross_entropy_is_softmax_minus_one_hot() -> None:
    found = jax.grad(lambda x: cross_entropy(x, jnp.asarray(LABELS)).sum())(jnp.asarray(LOGITS))
    expected = np.asarray(jax.nn.softmax(LOGITS)) - np.eye(3)[LABELS]
    # Probabilities, at most 1, by two ways of summing in float32 (rounding 6e-8).
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_class_that_is_ruled_out_gives_no_nan() -> None:
    outputs = jnp.array([[0.0, -jnp.inf]])  # a product with a one-hot vector would be 0 * inf
    assert negative_log_likelihood(outputs, jnp.array([0])) == 0.0
    gradient = jax.grad(lambda x: negative_log_likelihood(x, jnp.array([0])).sum())(outputs)
    np.testing.assert_array_equal(gradient, [[-1.0, 0.0]])


def test_squared_error_has_no_half_and_averages_over_outputs() -> None:
    np.testing.assert_array_equal(squared_error(jnp.array([[1.0, 5.0]]), jnp.array([[3.0, 5.0]])), [2.0])


def test_squared_error_refuses_to_broadcast() -> None:
    with pytest.raises(ValueError, match=r"squared_error: expected .* found \(4, 1\) and \(4,\)"):
        squared_error(jnp.zeros((4, 1)), jnp.zeros(4))


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (jnp.zeros((4, 3)), jnp.zeros((4, 1), jnp.int32)),
        (jnp.zeros((4, 3)), jnp.zeros(4)),
        (jnp.zeros((4, 3)), jnp.zeros(3, jnp.int32)),
        (jnp.zeros(4), jnp.zeros(4, jnp.int32)),
    ],
)
@pytest.mark.parametrize("loss", [cross_entropy, negative_log_likelihood])
def test_labels_of_another_kind_are_refused(loss: object, outputs: jax.Array, labels: jax.Array) -> None:
    assert callable(loss)
    with pytest.raises(ValueError, match=r"expected outputs of shape .* integer labels"):
        loss(outputs, labels)


def test_default_loss_follows_the_task() -> None:
    assert default_loss("classification") is cross_entropy
    assert default_loss("regression") is squared_error
