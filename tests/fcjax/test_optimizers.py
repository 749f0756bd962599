"""Each optimiser against PyTorch's documented rule, written out in NumPy."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
import pytest

from fcjax.config import OPTIMIZERS as NAMES
from fcjax.config import UsageError
from fcjax.optimizers import OPTIMIZERS, make_optimizer

RATE, STEPS = 0.05, 12
START = np.random.default_rng(0).normal(size=(3, 2))
GRADIENTS = np.random.default_rng(1).normal(size=(STEPS, 3, 2))


def torch_rule(name: str) -> Iterator[np.ndarray]:
    """The parameters after each step."""
    p, m, v = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for t, g in enumerate(GRADIENTS, start=1):
        if name == "sgd":
            p = p - RATE * g
        elif name == "momentum":
            m = 0.9 * m + g
            p = p - RATE * m
        elif name == "rmsprop":
            v = 0.99 * v + 0.01 * g**2
            p = p - RATE * g / (np.sqrt(v) + 1e-8)
        else:
            if name == "adamw":
                p = p * (1 - RATE * 1e-2)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            p = p - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield p


def worst(optimizer: optax.GradientTransformation, name: str) -> float:
    """The largest difference to the rule over all steps."""
    with jax.enable_x64(True):
        params = jax.numpy.asarray(START)
        state = optimizer.init(params)
        differences = []
        for gradient, expected in zip(GRADIENTS, torch_rule(name), strict=True):
            updates, state = optimizer.update(jax.numpy.asarray(gradient), state, params)
            params = optax.apply_updates(params, updates)
            differences.append(np.abs(np.asarray(params) - expected).max())
    return max(differences)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_follows_pytorch(name: str) -> None:
    assert worst(make_optimizer(name, RATE), name) <= 1e-10  # float64 throughout


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_optaxs_own_defaults_do_not(name: str) -> None:
    assert worst(getattr(optax, name)(RATE), name) > 1e-4


def test_table_and_command_line_agree() -> None:
    assert tuple(OPTIMIZERS) == NAMES


def test_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"optimizer: expected one of sgd, .*; found 'adagrad'"):
        make_optimizer("adagrad", RATE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adam", "momentum": 0.9}, "momentum: expected with sgd, momentum or rmsprop, found with adam"),
        (
            {"name": "sgd", "nesterov": True},
            "nesterov: expected with sgd and a momentum above 0, found with sgd and 0.0",
        ),
        ({"name": "adamw", "nesterov": True}, "nesterov: expected with sgd"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_optimizer(**settings, learning_rate=RATE)
