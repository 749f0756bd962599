"""The loss scale against torch.amp.GradScaler, step by step, through forced overflows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

from fcjax.losses import squared_error
from fcjax.precision import LossScale
from fcjax.train_state import create_state
from fcjax.train_step import Batch, Learner

RNG = np.random.default_rng(0)
ROWS, STEPS, RATE, INTERVAL = 5, 24, 0.05, 4
X = RNG.normal(size=(STEPS, ROWS, 3)).astype(np.float32)
Y = RNG.normal(size=(STEPS, ROWS, 2)).astype(np.float32)
OVERFLOWS = (0, 1, 7, 9, 10, 19)
for step in OVERFLOWS:
    X[step, 2, 1] = np.inf if step % 2 else np.nan
W, B = RNG.normal(size=(3, 2)).astype(np.float32), RNG.normal(size=2).astype(np.float32)


def torch_steps() -> Iterator[tuple[float, int, np.ndarray, int]]:
    """Scale, good steps, weights and Adam's own count after each step."""
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(W.T))
        layer.bias.copy_(torch.tensor(B))
    optimizer = torch.optim.Adam(layer.parameters(), lr=RATE)
    scaler = torch.amp.GradScaler("cpu", growth_interval=INTERVAL)
    assert scaler.is_enabled()
    for x, y in zip(X, Y, strict=True):
        optimizer.zero_grad()
        scaler.scale(((layer(torch.tensor(x)) - torch.tensor(y)) ** 2).mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        moments = optimizer.state[layer.weight]
        taken = int(moments["step"]) if moments else 0
        yield scaler.get_scale(), scaler._get_growth_tracker(), layer.weight.detach().numpy().T.copy(), taken


def our_steps(scale: LossScale) -> Iterator[tuple[float, int, np.ndarray, int]]:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    nnx.update(model, {"kernel": jnp.asarray(W), "bias": jnp.asarray(B)})
    optimizer = optax.adam(RATE)
    pure, state = create_state(model, optimizer, 0)
    state = replace(state, loss_scale=scale)
    step = jax.jit(Learner(pure, "regression", squared_error, optimizer).train_step)
    rows = jnp.arange(ROWS, dtype=jnp.int32)
    for x, y in zip(X, Y, strict=True):
        batch = Batch(jnp.asarray(x), jnp.asarray(y), rows, jnp.ones(ROWS, bool), jnp.int32(ROWS))
        state, _ = step(state, batch)
        assert state.loss_scale is not None
        moments: Any = state.opt_state[0]
        kernel = np.asarray(state.params["kernel"])
        yield float(state.loss_scale.value), int(state.loss_scale.good), kernel, int(moments.count)


def first_difference(scale: LossScale) -> str | None:
    """Where the two part: scale and counts exactly, weights to 1e-5 (Adam divides by small gradients)."""
    for number, (ours, theirs) in enumerate(zip(our_steps(scale), torch_steps(), strict=True)):
        if (ours[0], ours[1], ours[3]) != (theirs[0], theirs[1], theirs[3]):
            return f"step {number}: {ours[0], ours[1], ours[3]} against {theirs[0], theirs[1], theirs[3]}"
        if not np.abs(ours[2] - theirs[2]).max() <= 1e-5:
            return f"step {number}: weights differ by {np.abs(ours[2] - theirs[2]).max()}"
    return None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Late(LossScale):
    """The planted mistake: grows one good step late, as Flax's DynamicScale does."""

    def update(self, finite: jax.Array) -> LossScale:
        due = finite & (self.good == INTERVAL)
        plain = super().update(finite)
        return replace(plain, value=jnp.where(due, self.value * 2, plain.value), good=jnp.where(due, 0, plain.good))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Never(LossScale):
    """The planted mistake: takes every step."""

    def update(self, finite: jax.Array) -> LossScale:
        return self


def test_every_step_is_torchs() -> None:
    assert first_difference(LossScale.create(interval=INTERVAL)) is None


def test_planted_mistakes_are_caught() -> None:
    assert "step 5" in str(first_difference(Late(**vars(LossScale.create()))))
    assert "step 0" in str(first_difference(Never(**vars(LossScale.create()))))
    assert "step 0" in str(first_difference(LossScale.create(1024.0, interval=INTERVAL)))


def test_the_defaults_are_torchs() -> None:
    scaler, ours = torch.amp.GradScaler("cpu"), LossScale.create()
    assert scaler.get_scale() == float(ours.value)
    assert (scaler.get_growth_interval(), scaler.get_growth_factor(), scaler.get_backoff_factor()) == (
        ours.interval,
        2.0,
        0.5,
    )
