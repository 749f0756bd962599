"""The same training on 1, 2, 4 and 8 devices, under pmap, jit and shard_map; and mistakes that must show."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fcjax.config import UsageError
from fcjax.datasets import Scaling
from fcjax.epoch import Arrays, Plan, add_up, evaluate, train_segment
from fcjax.layers import row_keys
from fcjax.losses import squared_error
from fcjax.models import MLP
from fcjax.parallel import Parallel, make_parallel
from fcjax.shuffling import shuffled
from fcjax.train_state import TrainState, create_state
from fcjax.train_step import DROPOUT, ORDER, Learner, stream_key

# 37 samples in batches of 10: the last batch has 7 rows, and 10 rows make uneven shares on 4 and on 8 devices.
SAMPLES, BATCH, FEATURES = 37, 10, 6
STEPS = -(-SAMPLES // BATCH)
EPOCHS = 13  # 52 steps
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(2.0, 3.0, size=(SAMPLES, FEATURES))
TARGETS = RNG.normal(size=(SAMPLES, 2))
SCALING = Scaling(np.asarray(2.0, np.float32), np.asarray(3.0, np.float32))


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def start(optimizer: optax.GradientTransformation, dtype: Any) -> tuple[Any, TrainState]:
    model = MLP((FEATURES, 11, 2), dropout=0.3, rngs=nnx.Rngs(3))
    nnx.update(model, jax.tree.map(lambda x: x.astype(dtype), nnx.state(model, nnx.Param)))
    return create_state(model, optimizer, seed=7)


def train(
    parallel: Parallel, optimizer: optax.GradientTransformation, dtype: Any, epochs: int, kind: type[Learner] = Learner
) -> tuple[TrainState, dict[str, Any]]:
    """The state after ``epochs`` epochs and the sums of the last."""
    pure, state = start(optimizer, dtype)
    learner = kind(pure, "regression", squared_error, optimizer, SCALING, None, parallel.axis_name)
    plan = Plan(SAMPLES, BATCH, len(parallel.devices))
    state = parallel.replicate(state)
    data = parallel.replicate(Arrays(jnp.asarray(INPUTS, dtype), jnp.asarray(TARGETS, dtype)))
    epoch, _ = parallel.compile(partial(train_segment, learner, plan, plan.steps), state, data, donate=True)
    for _ in range(epochs):
        state, sums = epoch(state, data)
    return state, add_up(sums)


def reference(optimizer: optax.GradientTransformation, epochs: int) -> Any:
    """Parameters after plain training on whole batches: no padding, no mask, no scan, one device."""
    pure, state = start(optimizer, jnp.float64)
    x, y = (jnp.asarray(INPUTS) - 2.0) / 3.0, jnp.asarray(TARGETS)

    @jax.jit
    def update(params: Any, moments: Any, rows: jax.Array, keys: jax.Array) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            outputs, _ = pure.train(params, state.buffers, x[rows], keys)
            return jnp.mean((outputs - y[rows]) ** 2)

        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    params, moments = state.params, state.opt_state
    for epoch in range(epochs):
        order = shuffled(stream_key(state.key, ORDER, jnp.int32(epoch)), SAMPLES)
        for step in range(STEPS):
            rows = order[step * BATCH : (step + 1) * BATCH]
            key = stream_key(state.key, DROPOUT, jnp.int32(epoch * STEPS + step))
            params, moments = update(params, moments, rows, row_keys(key, jnp.arange(len(rows))))
    return params


def largest_difference(one: Any, other: Any) -> float:
    differences = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), one, other)
    return float(max(jax.tree.leaves(differences)))


def replicas_agree(state: TrainState) -> bool:
    """Whether every device holds the same bits in every leaf."""
    plain = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state)
    return all(
        np.asarray(leaf.addressable_shards[0].data).tobytes() == np.asarray(shard.data).tobytes()
        for leaf in jax.tree.leaves(plain)
        for shard in leaf.addressable_shards
    )


ADAM = optax.adam(1e-2)


@pytest.mark.usefixtures("float64")
def test_all_strategies_and_device_counts_train_alike() -> None:
    expected = reference(ADAM, EPOCHS)
    failures: list[tuple[object, ...]] = []
    for strategy, devices in [("jit", 1), ("pmap", 1), ("pmap", 2), ("pmap", 4), ("pmap", 8), ("shard", 4)]:
        state, sums = train(make_parallel(strategy, devices), ADAM, jnp.float64, EPOCHS)
        # 52 steps in float64: the sums' order differs by about 1e-16 a step, which Adam may amplify.
        difference = largest_difference(state.params, expected)
        if not (difference <= 1e-10 and replicas_agree(state) and sums["count"] == SAMPLES):
            failures.append((strategy, devices, difference, replicas_agree(state), sums["count"]))
        if not all(len(leaf.sharding.device_set) == devices for leaf in jax.tree.leaves(state.params)):
            failures.append((strategy, devices, "not on all devices"))
    assert not failures
    assert largest_difference(start(ADAM, jnp.float64)[1].params, expected) > 0.1  # it did train


@dataclass(frozen=True)
class ForgetsToSum(Learner):
    """The planted mistake: each device follows its own gradient."""

    def total(self, tree: Any) -> Any:
        return tree


@dataclass(frozen=True)
class MeansOfMeans(Learner):
    """The planted mistake: averages over devices what is already divided by the number of rows of all of them."""

    def total(self, tree: Any) -> Any:
        return jax.lax.pmean(tree, self.axis_name)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mistake", [ForgetsToSum, MeansOfMeans])
def test_a_wrong_reduction_is_caught(mistake: type[Learner]) -> None:
    # Plain SGD: Adam would hide a wrong factor.
    optimizer = optax.sgd(1e-2)
    wrong, sums = train(make_parallel("pmap", 4), optimizer, jnp.float64, 1, mistake)
    assert largest_difference(reference(optimizer, 1), wrong.params) > 1e-4
    assert sums["count"] != SAMPLES
    assert replicas_agree(wrong) == (mistake is MeansOfMeans)


def test_gradients_in_float32_agree_after_one_step() -> None:
    """With SGD at rate 1 the change of the parameters is the gradient; one epoch is then cut to one batch."""
    gradients = {}
    for strategy, devices in [("jit", 1), ("pmap", 8)]:
        parallel = make_parallel(strategy, devices)
        pure, state = start(optax.sgd(1.0), jnp.float32)
        learner = Learner(pure, "regression", squared_error, optax.sgd(1.0), SCALING, None, parallel.axis_name)
        data = parallel.replicate(Arrays(jnp.asarray(INPUTS, jnp.float32), jnp.asarray(TARGETS, jnp.float32)))
        placed = parallel.replicate(state)
        step, _ = parallel.compile(partial(train_segment, learner, Plan(SAMPLES, SAMPLES, devices), 1), placed, data)
        after, _ = step(placed, data)
        gradients[strategy] = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, state.params)
    # Sums of 37 terms of about 1, and a difference of parameters of about 1: a few float32 roundings of 6e-8.
    assert largest_difference(gradients["jit"], gradients["pmap"]) <= 1e-6
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients["jit"])) > 1e-2


def test_evaluation_is_shared_out_and_counts_every_sample_once() -> None:
    pure, state = start(ADAM, jnp.float32)
    found = {}
    for strategy, devices in [("jit", 1), ("pmap", 8)]:
        parallel = make_parallel(strategy, devices)
        learner = Learner(pure, "regression", squared_error, ADAM, SCALING, None, parallel.axis_name)
        data = parallel.replicate(Arrays(jnp.asarray(INPUTS, jnp.float32), jnp.asarray(TARGETS, jnp.float32)))
        placed = parallel.replicate(state)
        program, _ = parallel.compile(partial(evaluate, learner, Plan(SAMPLES, 20, devices), 2), placed, data)
        found[strategy] = add_up(program(placed, data))
    assert found["jit"]["count"] == found["pmap"]["count"] == SAMPLES
    np.testing.assert_allclose(found["jit"]["loss"], found["pmap"]["loss"], rtol=1e-6)  # the order of float32 sums


def test_donation_spares_the_source() -> None:
    source = jnp.arange(4.0)
    parallel = make_parallel("pmap", 1)
    placed = parallel.replicate(source)
    double, seconds = parallel.compile(lambda x, device: 2 * x, placed, donate=True)
    np.testing.assert_array_equal(double(placed), [0, 2, 4, 6])
    assert placed.is_deleted()
    np.testing.assert_array_equal(source, [0, 1, 2, 3])
    assert seconds > 0


@pytest.mark.parametrize(
    ("strategy", "devices", "message"),
    [
        ("ddp", None, r"strategy: expected one of pmap, jit, shard; found 'ddp'"),
        ("pmap", 9, r"devices: expected cpu, gpu, or a number from 1 to 8 .* found '9'"),
        ("pmap", 0, r"found '0'"),
        ("pmap", "-1", r"found '-1'"),
        ("pmap", "tpu", r"found 'tpu'"),
        ("jit", 2, r"jit runs on 1 device, found 2"),
    ],
)
def test_impossible_devices_are_refused(strategy: str, devices: str | int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_parallel(strategy, devices)


def test_devices_are_all_local_ones_unless_told_otherwise() -> None:
    assert len(make_parallel("pmap").devices) == 8
    assert len(make_parallel("pmap", "cpu").devices) == 8
    assert len(make_parallel("pmap", "3").devices) == 3
    assert len(make_parallel("jit").devices) == 1
