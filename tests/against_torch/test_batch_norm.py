"""Batch normalisation in the trainer, on 1, 3 and 8 devices with padded shares, against PyTorch on the whole batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from compare.models import torch_models
from fcjax import train_step
from fcjax.epoch import Arrays, Plan, train_segment
from fcjax.export import torch_arrays
from fcjax.losses import squared_error
from fcjax.models import MLP
from fcjax.parallel import make_parallel
from fcjax.shuffling import shuffled
from fcjax.train_state import create_state
from fcjax.train_step import ORDER, Learner, stream_key

SAMPLES, BATCH, EPOCHS, RATE, SIZES = 23, 10, 4, 0.05, (4, 7, 5, 2)  # batches of 10, 10 and 3
RNG = np.random.default_rng(0)
X, Y = RNG.normal(1.0, 2.0, size=(SAMPLES, 4)), RNG.normal(size=(SAMPLES, 2))


def start() -> MLP:
    """The same random weights each time, in float64, norms included."""
    rng = np.random.default_rng(1)
    model = MLP(SIZES, norm="batch", rngs=nnx.Rngs(0))
    for kind in (nnx.Param, nnx.BatchStat):
        state = nnx.state(model, kind)
        nnx.update(model, jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.2, 1.0, a.shape)), state))
    return model


def ours(strategy: str, devices: int) -> dict[str, np.ndarray]:
    parallel = make_parallel(strategy, devices)
    optimizer = optax.sgd(RATE)
    pure, state = create_state(start(), optimizer, seed=5)
    learner = Learner(pure, "regression", squared_error, optimizer, axis_name=parallel.axis_name)
    data = parallel.replicate(Arrays(jnp.asarray(X), jnp.asarray(Y)))
    state = parallel.replicate(state)
    plan = Plan(SAMPLES, BATCH, devices)
    epoch, _ = parallel.compile(partial(train_segment, learner, plan, plan.steps), state, data)
    for _ in range(EPOCHS):
        state, _ = epoch(state, data)
    return torch_arrays(pure.build(*jax.device_get((state.params, state.buffers))))


def theirs() -> dict[str, np.ndarray]:
    """PyTorch on whole batches, in the same order."""
    model: Any = torch_models.MLP(SIZES, norm="batch").double()
    model.load_state_dict({name: torch.tensor(a) for name, a in torch_arrays(start()).items()})
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    key = create_state(start(), optax.sgd(RATE), seed=5)[1].key
    for epoch in range(EPOCHS):
        order = np.asarray(shuffled(stream_key(key, ORDER, jnp.int32(epoch)), SAMPLES))
        for first in range(0, SAMPLES, BATCH):
            rows = order[first : first + BATCH]
            optimizer.zero_grad()
            ((model(torch.tensor(X[rows])) - torch.tensor(Y[rows])) ** 2).mean().backward()
            optimizer.step()
    return {name: a.detach().numpy() for name, a in model.state_dict().items() if not name.endswith("tracked")}


def difference(strategy: str, devices: int) -> tuple[float, float]:
    """The largest in weights, and in running statistics."""
    with jax.enable_x64(True):
        found, expected = ours(strategy, devices), theirs()
    gaps = {name: float(np.abs(found[name] - a).max()) for name, a in expected.items()}
    running = max(gap for name, gap in gaps.items() if "running" in name)
    return max(gap for name, gap in gaps.items() if "running" not in name), running


@pytest.mark.parametrize(("strategy", "devices"), [("jit", 1), ("pmap", 3), ("pmap", 8), ("shard", 3)])
def test_statistics_are_those_of_the_whole_batch(strategy: str, devices: int) -> None:
    weights, running = difference(strategy, devices)
    # 12 steps in float64: sums of ten numbers in another order.
    assert weights <= 1e-10
    assert running <= 1e-10


@contextmanager
def plain(mask: Any, axis_name: Any) -> Iterator[None]:
    """The planted mistake: each device normalises its own rows, padding included."""
    yield


def test_devices_on_their_own_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "whole_batch", plain)
    weights, running = difference("pmap", 3)
    assert weights > 1e-3
    assert running > 1e-3
