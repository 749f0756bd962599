"""Each hand-written backward pass against central differences, entry by entry."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compare.models import numpy_layers as layers
from compare.models.numpy_activations import NUMPY_ACTIVATIONS

Array = NDArray[np.float64]
STEP = 1e-5
# Truncation STEP² and rounding 1e-16/STEP are both of order 1e-11, times values of order one to ten.
ALLOWED = 1e-8


def differences(function: Callable[..., Array], arguments: Sequence[Array], cotangent: Array) -> list[Array]:
    """The gradients of ``sum(function(*arguments) * cotangent)`` by central differences."""
    gradients = []
    for k, argument in enumerate(arguments):
        gradient = np.empty_like(argument)
        for index in np.ndindex(argument.shape):
            values = []
            for sign in (1, -1):
                moved = [a.copy() for a in arguments]
                moved[k][index] += sign * STEP
                values.append((function(*moved) * cotangent).sum())
            gradient[index] = (values[0] - values[1]) / (2 * STEP)
        gradients.append(gradient)
    return gradients


def worst(found: Sequence[Array], expected: Sequence[Array]) -> float:
    assert [f.shape for f in found] == [e.shape for e in expected]
    return max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


MOMENTS = (numbers(4, seed=8), numbers(4, seed=9) ** 2 + 0.1)
KEEP = numbers(3, 4, seed=7) > -0.5
Passes = tuple[Callable[..., Any], Callable[..., Any], list[Array]]
LAYERS: dict[str, Passes] = {
    "linear": (layers.linear_forward, layers.linear_backward, [numbers(3, 5), numbers(4, 5), numbers(4)]),
    "linear, one sample": (layers.linear_forward, layers.linear_backward, [numbers(5), numbers(4, 5), numbers(4)]),
    "linear, two axes": (layers.linear_forward, layers.linear_backward, [numbers(2, 3, 5), numbers(4, 5), numbers(4)]),
    "layer norm": (layers.layer_norm_forward, layers.layer_norm_backward, [numbers(3, 4), numbers(4), numbers(4)]),
    "batch norm": (layers.batch_norm_forward, layers.batch_norm_backward, [numbers(3, 4), numbers(4), numbers(4)]),
    "batch norm, evaluation": (
        lambda x, gamma, beta: layers.batch_norm_eval_forward(x, gamma, beta, *MOMENTS),
        layers.batch_norm_eval_backward,
        [numbers(3, 4), numbers(4), numbers(4)],
    ),
    "dropout": (
        lambda x: layers.dropout_forward(x, KEEP, 0.3),
        lambda dout, cache: (layers.dropout_backward(dout, cache),),
        [numbers(3, 4)],
    ),
}


def error(passes: Passes) -> float:
    forward, backward, arguments = passes
    out, cache = forward(*arguments)[:2]
    cotangent = numbers(*out.shape, seed=1)
    return worst(backward(cotangent, cache), differences(lambda *a: forward(*a)[0], arguments, cotangent))


@pytest.mark.parametrize("name", LAYERS)
def test_backward_is_the_derivative_of_forward(name: str) -> None:
    assert error(LAYERS[name]) <= ALLOWED


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mistake", ["a sign", "a gradient of zero", "a factor two"])
def test_twin_a_wrong_backward_is_seen_in_every_result(name: str, mistake: str) -> None:
    forward, backward, arguments = LAYERS[name]
    factor = {"a sign": -1.0, "a gradient of zero": 0.0, "a factor two": 2.0}[mistake]
    for k in range(len(arguments)):

        def wrong(dout: Array, cache: Any, k: int = k) -> list[Array]:
            return [g * factor if i == k else g for i, g in enumerate(backward(dout, cache))]

        assert error((forward, wrong, arguments)) > 1000 * ALLOWED


def test_twin_a_layer_norm_whose_variance_is_held_constant_is_seen() -> None:
    forward, _, arguments = LAYERS["layer norm"]

    def wrong(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
        z, inverse, gamma = cache
        dz = dout * gamma
        return inverse * (dz - dz.mean(-1, keepdims=True)), (dout * z).sum(0), dout.sum(0)

    assert error((forward, wrong, arguments)) > 1000 * ALLOWED


@pytest.mark.parametrize("name", NUMPY_ACTIVATIONS)
def test_activation_backward_is_the_derivative_of_forward(name: str) -> None:
    forward, backward = NUMPY_ACTIVATIONS[name]
    x = np.linspace(-4.0, 4.0, 20).reshape(4, 5)  # 0, where some have a kink, is not among them
    cotangent = numbers(4, 5)
    assert worst([backward(cotangent, x)], differences(forward, [x], cotangent)) <= ALLOWED


@pytest.mark.parametrize("name", sorted(set(NUMPY_ACTIVATIONS) - {"linear"}))
def test_twin_the_derivative_of_another_activation_is_seen(name: str) -> None:
    x = np.linspace(-4.0, 4.0, 20).reshape(4, 5)
    expected = differences(NUMPY_ACTIVATIONS[name].forward, [x], numbers(4, 5))
    others = [n for n in NUMPY_ACTIVATIONS if n != name]
    # The closest pair are the two forms of GELU, 1e-3 apart.
    assert all(worst([NUMPY_ACTIVATIONS[n].backward(numbers(4, 5), x)], expected) > 1000 * ALLOWED for n in others)


def test_batch_norm_needs_two_samples() -> None:
    with pytest.raises(ValueError, match=r"expected input of shape \(batch of at least 2, features\), found \(1, 4\)"):
        layers.batch_norm_forward(numbers(1, 4), numbers(4), numbers(4))


def test_a_keep_mask_that_would_broadcast_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a keep-mask of shape \(3, 4\), found \(4,\)"):
        layers.dropout_forward(numbers(3, 4), np.ones(4, bool), 0.5)
