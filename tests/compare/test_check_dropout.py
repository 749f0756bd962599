"""Laws of dropout: right ports pass, each mistake is named."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

import compare

pytestmark = pytest.mark.usefixtures("small_programs")

Array = jax.Array


class TorchNet(nn.Module):
    """5-8-8-3 with two rates."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.drop1, self.drop2 = nn.Dropout(0.2), nn.Dropout(0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.drop1(torch.relu(self.fc1(x)))
        return self.fc3(self.drop2(torch.tanh(self.fc2(h))))


class FlaxNet(nnx.Module):
    """The port; the rates are torch's unless given."""

    def __init__(self, rates: tuple[float, float] = (0.2, 0.4), **settings: Any) -> None:
        rngs = nnx.Rngs(0)
        self.fc1, self.fc2 = nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        self.fc3 = nnx.Linear(8, 3, rngs=rngs)
        self.drop1, self.drop2 = (nnx.Dropout(rate, rngs=rngs, **settings) for rate in rates)

    def __call__(self, x: Array) -> Array:
        h = self.drop1(jax.nn.relu(self.fc1(x)))
        return self.fc3(self.drop2(jnp.tanh(self.fc2(h))))


class FlaxKeyed(FlaxNet):
    """The port with keys that are passed at the call."""

    split: bool = True

    def __call__(self, x: Array, rngs: Any = None) -> Array:
        keys = (None, None) if rngs is None else jax.random.split(rngs) if self.split else (rngs, rngs)
        h = self.drop1(jax.nn.relu(self.fc1(x)), rngs=keys[0])
        return self.fc3(self.drop2(jnp.tanh(self.fc2(h)), rngs=keys[1]))


class OneKey(FlaxKeyed):
    split = False


class SameKey(FlaxNet):
    """A key that is the same at every call."""

    def __call__(self, x: Array) -> Array:
        h = self.drop1(jax.nn.relu(self.fc1(x)), rngs=jax.random.key(3))
        return self.fc3(self.drop2(jnp.tanh(self.fc2(h)), rngs=jax.random.key(4)))


class Functional(FlaxNet):
    """Dropout written out, scaled as it is told."""

    def __init__(self, scale: Callable[[float], float], ignore_mode: bool = False) -> None:
        super().__init__()
        self.scale, self.ignore_mode = scale, ignore_mode

    def dropped(self, x: Array, rate: float, key: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x * self.scale(rate), 0.0)

    def __call__(self, x: Array, train: bool = False, rngs: Any = None) -> Array:
        keys = jax.random.split(jax.random.key(0) if rngs is None else rngs)
        on = train or self.ignore_mode
        h = jax.nn.relu(self.fc1(x))
        h = jnp.tanh(self.fc2(self.dropped(h, 0.2, keys[0]) if on else h))
        return self.fc3(self.dropped(h, 0.4, keys[1]) if on else h)


class OneMissing(FlaxNet):
    def __call__(self, x: Array) -> Array:
        return self.fc3(self.drop2(jnp.tanh(self.fc2(jax.nn.relu(self.fc1(x))))))


class AlwaysOn(FlaxNet):
    def __call__(self, x: Array) -> Array:
        h = self.drop1(jax.nn.relu(self.fc1(x)), deterministic=False)
        return self.fc3(self.drop2(jnp.tanh(self.fc2(h)), deterministic=False))


class Unscaled(nnx.Dropout):
    """Draws a mask in a way of its own and forgets the scale."""

    def __call__(self, inputs: Array, *, deterministic: Any = None, rngs: Any = None) -> Array:
        if self.deterministic:
            return inputs
        assert self.rngs is not None
        return inputs * (jax.random.uniform(self.rngs(), inputs.shape) >= self.rate)


class OwnDropout(FlaxNet):
    def __init__(self) -> None:
        super().__init__()
        rngs = nnx.Rngs(1)
        self.drop1, self.drop2 = Unscaled(0.2, rngs=rngs), Unscaled(0.4, rngs=rngs)


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        h = linen.Dropout(0.2, deterministic=not train)(jax.nn.relu(linen.Dense(8, name="fc1")(x)))
        h = linen.Dropout(0.4, deterministic=not train)(jnp.tanh(linen.Dense(8, name="fc2")(h)))
        return linen.Dense(3, name="fc3")(h)


def checked(seeded: Any, rows: Any, flax: Any, **fields: Any) -> compare.Report:
    """``check_dropout`` on a batch of 16."""
    return compare.check_dropout(seeded(TorchNet), flax, rows(16, 5), **fields)


RIGHT: dict[str, Callable[[], Any]] = {
    "NNX": FlaxNet,
    "keys at the call": FlaxKeyed,
    "functional": lambda: Functional(lambda rate: 1 / (1 - rate)),
    "Linen": LinenNet,
}


@pytest.mark.parametrize("port", RIGHT)
def test_right_dropout_passes(seeded: Any, rows: Any, port: str) -> None:
    for seed in (0, 500):
        report = checked(seeded, rows, RIGHT[port](), seed=seed)
        assert report.passed, report.text()
        assert report.causes == ()


WRONG: dict[str, tuple[Callable[[], Any], str, str]] = {
    "keep probability for rate": (lambda: FlaxNet((0.8, 0.6)), "rate", "dropout_keep_for_rate"),
    "another rate": (lambda: FlaxNet((0.2, 0.3)), "rate", "dropout_rate"),
    "unscaled": (lambda: Functional(lambda rate: 1.0), "scale", "dropout_unscaled"),
    "unscaled, in a class of its own": (OwnDropout, "scale", "dropout_unscaled"),
    "divided by the rate": (lambda: Functional(lambda rate: 1 / rate), "scale", "dropout_scale"),
    "one key for two layers": (OneKey, "independence", "dropout_key_reused"),
    "one key for all calls": (SameKey, "independence", "dropout_same_every_call"),
    "one mask for all samples": (
        lambda: FlaxNet(broadcast_dims=(0,)),
        "independence",
        "dropout_same_every_sample",
    ),
    "on in evaluation": (AlwaysOn, "evaluation", "dropout_on_in_eval"),
    "mode ignored": (lambda: Functional(lambda r: 1 / (1 - r), True), "evaluation", "dropout_on_in_eval"),
    "one missing": (OneMissing, "dropouts", "dropout_missing"),
    "both missing": (lambda: FlaxNet((0.0, 0.0)), "dropouts", "dropout_missing"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_named(seeded: Any, rows: Any, mistake: str) -> None:
    make, check, cause = WRONG[mistake]
    report = checked(seeded, rows, make())
    assert report.check(check).status == "failed", report.text()
    assert report.status == "failed"
    assert cause in {c.name for c in report.causes}, report.text()


def test_dropout_that_torch_has_not(seeded: Any, rows: Any) -> None:
    class Plain(TorchNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc3(torch.tanh(self.fc2(torch.relu(self.fc1(x)))))

    report = compare.check_dropout(seeded(Plain), FlaxNet(), rows(16, 5))
    assert [c.name for c in report.causes] == ["dropout_extra"]
    nothing = compare.check_dropout(seeded(Plain), FlaxNet((0.0, 0.0)), rows(16, 5))
    assert nothing.status == "inconclusive"


def test_wrong_usage(seeded: Any, rows: Any) -> None:
    with pytest.raises(compare.UsageError, match="at least 2"):
        checked(seeded, rows, FlaxNet(), calls=1)
    with pytest.raises(compare.UsageError, match="does not take these inputs"):
        compare.check_dropout(seeded(TorchNet), FlaxNet(), np.zeros((4, 6), np.float32))
