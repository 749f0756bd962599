"""The training step and the epoch on one device: against hand-made arithmetic, and every sample exactly once."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fcjax.datasets import Scaling
from fcjax.epoch import Arrays, Plan, add_up, evaluate, train_segment
from fcjax.layers import Dropout
from fcjax.losses import cross_entropy, squared_error
from fcjax.models import MLP, FlaxModel, MNISTClassifier
from fcjax.train_state import count_parameters, create_state
from fcjax.train_step import Batch, Learner

RNG = np.random.default_rng(0)
ZERO = jnp.int32(0)
PIXELS = Scaling(np.asarray(100, np.float32), np.asarray(70, np.float32))


def weights(layer: nnx.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias in float64."""
    assert layer.bias is not None
    return np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...], np.float64)


def some_batch(rows: int, real: int, features: int = 3, outputs: int = 2) -> Batch:
    inputs = jnp.asarray(RNG.normal(size=(rows, features)), jnp.float32)
    targets = jnp.asarray(RNG.normal(size=(rows, outputs)), jnp.float32)
    return Batch(inputs, targets, jnp.arange(rows, dtype=jnp.int32), jnp.arange(rows) < real, jnp.int32(real))


def test_a_step_is_the_mean_gradient_over_real_rows_by_hand() -> None:
    model = FlaxModel(3, 5, 2, rngs=nnx.Rngs(0))
    pure, state = create_state(model, optax.sgd(0.1), seed=0)
    batch = some_batch(6, real=4)
    scaling = Scaling(np.asarray(0.3, np.float32), np.asarray(1.7, np.float32))
    learner = Learner(pure, "regression", squared_error, optax.sgd(0.1), scaling, None)
    after, sums = jax.jit(learner.train_step)(state, batch)

    x = (np.asarray(batch.inputs[:4], np.float64) - 0.3) / 1.7
    W1, b1 = weights(model.layer1)
    W2, b2 = weights(model.layer2)
    h = x @ W1 + b1  # (4, 5)
    error = h @ W2 + b2 - np.asarray(batch.targets[:4])  # (4, 2)
    dy = 2 * error / error.size
    # One float32 step on numbers of about 1: a few roundings of 6e-8.
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    close(after.params["layer2"]["kernel"], W2 - 0.1 * h.T @ dy)
    close(after.params["layer2"]["bias"], b2 - 0.1 * dy.sum(axis=0))
    close(after.params["layer1"]["kernel"], W1 - 0.1 * x.T @ (dy @ W2.T))
    close(after.params["layer1"]["bias"], b1 - 0.1 * (dy @ W2.T).sum(axis=0))
    assert int(after.step) == 1
    assert int(sums["count"]) == 4
    np.testing.assert_allclose(sums["loss"], (error**2).mean(axis=1).sum(), rtol=1e-6)


def test_padding_leaves_no_trace_and_an_unmasked_step_would_show_it() -> None:
    pure, state = create_state(MLP((3, 7, 2), dropout=0.4, rngs=nnx.Rngs(1)), optax.adam(1e-2), seed=3)
    step = jax.jit(Learner(pure, "regression", squared_error, optax.adam(1e-2)).train_step)
    padded = some_batch(6, real=4)
    other_padding = replace(padded, inputs=padded.inputs.at[4:].set(1e3), targets=padded.targets.at[4:].set(-1e3))
    unmasked = replace(padded, mask=jnp.ones(6, bool))
    first, _ = step(state, padded)
    second, _ = step(state, other_padding)
    third, _ = step(state, unmasked)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first.params, second.params))
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first.params, third.params))


def test_the_step_checks_its_batch() -> None:
    pure, state = create_state(FlaxModel(3, 5, 2, rngs=nnx.Rngs(0)), optax.sgd(0.1), seed=0)
    learner = Learner(pure, "regression", squared_error, optax.sgd(0.1))
    batch = some_batch(6, real=4)
    with pytest.raises(AssertionError, match="shape"):
        learner.train_step(state, replace(batch, mask=batch.mask[:5]))
    with pytest.raises(AssertionError, match="type"):
        learner.train_step(state, replace(batch, mask=jnp.ones(6)))
    with pytest.raises(ValueError, match=r"layer1: expected input of shape \(..., 3\)"):
        learner.train_step(state, replace(batch, inputs=batch.inputs[:, :2]))


def test_dropout_draws_anew_in_every_step_and_rests_in_evaluation() -> None:
    pure, state = create_state(MLP((3, 50, 2), dropout=0.5, rngs=nnx.Rngs(1)), optax.sgd(0.0), seed=3)
    learner = Learner(pure, "regression", squared_error, optax.sgd(0.0))
    batch = some_batch(6, real=6)
    step = jax.jit(learner.train_step)
    state_1, sums_1 = step(state, batch)  # learning rate 0: only the masks can differ
    _, sums_2 = step(state_1, batch)
    _, again = step(state, batch)
    assert sums_1["loss"] != sums_2["loss"]
    assert sums_1["loss"] == again["loss"]
    assert learner.evaluation_step(state, batch)["loss"] == learner.evaluation_step(state_1, batch)["loss"]


def test_running_statistics_follow_the_batch_and_stay_in_evaluation() -> None:
    pure, state = create_state(MLP((3, 4, 2), norm="batch", rngs=nnx.Rngs(1)), optax.sgd(0.0), seed=3)
    assert count_parameters(state.params) == 3 * 4 + 4 + 4 * 2 + 2 + 2 * 4  # the statistics don't count
    learner = Learner(pure, "regression", squared_error, optax.sgd(0.0))
    after, _ = jax.jit(learner.train_step)(state, some_batch(8, real=8))
    before_mean, after_mean = state.buffers["norms"][0]["mean"], after.buffers["norms"][0]["mean"]
    assert float(jnp.abs(after_mean - before_mean).max()) > 1e-3
    assert after_mean.dtype == before_mean.dtype


def test_a_model_keeps_its_weights_and_its_mode() -> None:
    model = MNISTClassifier(rngs=nnx.Rngs(0))
    model.train()
    before = np.asarray(model.fc1.kernel[...]).copy()
    create_state(model, optax.sgd(0.1), seed=0)
    assert not model.dropout.deterministic
    np.testing.assert_array_equal(model.fc1.kernel[...], before)


class OwnRandomState(nnx.Module):
    """Draws its dropout from itself, which would give every device the same mask."""

    def __init__(self) -> None:
        self.fc1 = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.fc1(x))


def test_models_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(ValueError, match="OwnRandomState: expected keys for dropout at the call"):
        create_state(OwnRandomState(), optax.sgd(0.1), seed=0)
    with pytest.raises(ValueError, match="Dropout: expected a model with parameters"):
        create_state(Dropout(0.5), optax.sgd(0.1), seed=0)


@settings(max_examples=15, deadline=None)
@given(samples=st.integers(1, 40), batch_size=st.integers(1, 16), devices=st.integers(1, 9))
def test_every_sample_is_taken_exactly_once(samples: int, batch_size: int, devices: int) -> None:
    batch_size = min(batch_size, samples)
    assert taken(Plan(samples, batch_size, devices)) == list(range(samples))


class LossyPlan(Plan):
    """The planted mistake: shares rounded down."""

    @property
    def share(self) -> int:
        return self.batch_size // self.devices


def test_a_plan_that_loses_samples_is_caught() -> None:
    assert taken(LossyPlan(20, 10, 4)) != list(range(20))


def taken(plan: Plan) -> list[int]:
    """All samples that are not masked, sorted, over all steps and devices; counts are checked against them."""
    data = Arrays(jnp.arange(plan.samples), jnp.arange(plan.samples))
    order = jnp.asarray(RNG.permutation(plan.samples))
    over_devices = jax.vmap(plan.batch, in_axes=(None, None, None, 0))
    over_steps = jax.jit(jax.vmap(over_devices, in_axes=(None, None, 0, None)))
    batches = over_steps(
        data, order, jnp.arange(plan.steps, dtype=jnp.int32), jnp.arange(plan.devices, dtype=jnp.int32)
    )  # every leaf: (steps, devices, ...)
    mask = np.asarray(batches.mask)
    if type(plan) is Plan:
        np.testing.assert_array_equal(mask.sum(axis=(1, 2)), np.asarray(batches.count)[:, 0])
    return sorted(np.asarray(batches.inputs)[mask].tolist())


def test_masked_evaluation_is_plain_evaluation() -> None:
    model = MLP((4, 9, 3), dropout=0.3, rngs=nnx.Rngs(5))
    pure, state = create_state(model, optax.sgd(0.1), seed=0)
    inputs = RNG.integers(0, 256, size=(23, 2, 2)).astype(np.uint8).reshape(23, 4)
    labels = RNG.integers(0, 3, size=23).astype(np.int32)
    learner = Learner(pure, "classification", cross_entropy, optax.sgd(0.1), PIXELS)
    plan = Plan(23, 5, 1)
    data = Arrays(jnp.asarray(inputs), jnp.asarray(labels))
    sums = add_up(jax.jit(partial(evaluate, learner, plan, plan.steps))(state, data, ZERO))

    x = (inputs.astype(np.float64) - 100) / 70
    first, last = model.layers
    (W1, b1), (W2, b2) = weights(first), weights(last)
    logits = np.maximum(x @ W1 + b1, 0) @ W2 + b2
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(23), labels]
    assert int(sums["count"]) == 23
    assert int(sums["correct"]) == (logits.argmax(axis=1) == labels).sum()
    np.testing.assert_allclose(sums["loss"], losses.sum(), rtol=1e-5)  # 23 float32 losses of about 1


def test_each_epoch_has_its_own_order_and_a_restart_repeats_it() -> None:
    pure, state = create_state(FlaxModel(1, 3, 1, rngs=nnx.Rngs(0)), optax.sgd(0.01), seed=0)
    learner = Learner(pure, "regression", squared_error, optax.sgd(0.01))
    data = Arrays(jnp.arange(10.0)[:, None], jnp.arange(10.0)[:, None] % 3)
    epoch = jax.jit(partial(train_segment, learner, Plan(10, 4, 1), 3))
    first, sums = epoch(state, data, ZERO)
    assert (int(first.step), np.asarray(sums["count"]).tolist()) == (3, [4, 4, 2])
    same, _ = epoch(state, data, ZERO)
    other, _ = epoch(replace(state, step=jnp.int32(3)), data, ZERO)  # the second epoch, from the same parameters
    kernel = first.params["layer1"]["kernel"]
    np.testing.assert_array_equal(kernel, same.params["layer1"]["kernel"])
    assert (np.asarray(kernel) != np.asarray(other.params["layer1"]["kernel"])).any()
