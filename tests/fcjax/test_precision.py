"""Lower precision: what is cast and what is not; the loss scale's rules, written out; skipped steps."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fcjax.config import Precision, TrainConfig
from fcjax.datasets import Dataset, Split
from fcjax.losses import cross_entropy, squared_error
from fcjax.models import MLP
from fcjax.precision import BACKOFF, GROWTH, INITIAL_SCALE, INTERVAL, LossScale, Policy, all_finite
from fcjax.train_state import TrainState, create_state
from fcjax.train_step import Batch, Learner
from fcjax.trainer import fit

RNG = np.random.default_rng(0)


def some_batch(rows: int = 6) -> Batch:
    inputs = jnp.asarray(RNG.normal(size=(rows, 3)), jnp.float32)
    targets = jnp.asarray(RNG.normal(size=(rows, 2)), jnp.float32)
    return Batch(inputs, targets, jnp.arange(rows, dtype=jnp.int32), jnp.ones(rows, bool), jnp.int32(rows))


def learner_of(precision: str, matmul: str = "float32") -> tuple[Learner, TrainState]:
    policy = Policy(precision, matmul)
    optimizer = optax.adam(1e-2)
    model = MLP((3, 7, 2), norm="layer", rngs=nnx.Rngs(0))
    pure, state = create_state(model, optimizer, 0, scale_loss=policy.scales_loss)
    return Learner(pure, "regression", squared_error, optimizer, policy=policy), state


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_network_computes_low_and_everything_else_in_float32(precision: str) -> None:
    learner, state = learner_of(precision)
    text = str(jax.make_jaxpr(learner.train_step)(state, some_batch()))
    short = {"bfloat16": "bf16", "float16": "f16"}[precision]
    products = [line for line in text.splitlines() if " dot_general[" in line]
    assert products
    assert all(f":{short}[" in line for line in products)
    after, sums = jax.jit(learner.train_step)(state, some_batch())
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype("float32")}
    assert sums["loss"].dtype == jnp.float32
    plain, _ = learner_of("float32")
    batch = some_batch()
    exact, low = (jax.jit(each.evaluation_step)(state, batch)["loss"] for each in (plain, learner))
    assert exact != low
    np.testing.assert_allclose(low, exact, rtol=0.05)  # a few roundings of 2^-8 of numbers of about 1


def test_softmax_and_loss_are_float32_and_half_precision_would_show() -> None:
    logits = jnp.asarray(RNG.normal(size=(50, 10)) * 5, jnp.bfloat16)
    labels = jnp.zeros(50, jnp.int32)
    model = MLP((10, 10), rngs=nnx.Rngs(0))
    pure, _ = create_state(model, optax.sgd(0.1), 0)
    learner = Learner(pure, "classification", cross_entropy, optax.sgd(0.1), policy=Policy("bfloat16"))
    batch = Batch(logits, labels, jnp.arange(50, dtype=jnp.int32), jnp.ones(50, bool), jnp.int32(50))
    exact = logits.astype(jnp.float32)
    expected = float(cross_entropy(exact, labels).sum())

    @jax.jit
    def measured(logits: jax.Array) -> jax.Array:
        return learner._measure(logits, labels, batch, learner._losses(logits, labels, cross_entropy))["loss"]

    found = measured(logits)
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32's own rounding
    low = -jax.nn.log_softmax(logits)[:, 0].astype(jnp.float32).sum()
    assert abs(float(low) - expected) > 1e-4 * expected


def test_matrix_products_are_as_the_policy_says() -> None:
    for matmul, name in {"float32": "HIGHEST", "tf32": "HIGH"}.items():
        learner, state = learner_of("float32", matmul)
        text = str(jax.make_jaxpr(learner.train_step)(state, some_batch()))
        assert text.count("dot_general") == text.count(f"(Precision.{name}, Precision.{name})") == 5
    assert Policy("float32", "tf32").on("cpu") == {"precision": "float32", "matmul": "float32"}
    assert Policy("float32", "tf32").on("gpu") == {"precision": "float32", "matmul": "tf32"}
    assert Policy("bfloat16", "tf32").on("gpu") == {"precision": "bfloat16", "matmul": "bfloat16"}
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, float16; found 'int8'"):
        Policy("int8")
    with pytest.raises(ValueError, match="matmul: expected one of float32, tf32; found 'fast'"):
        Policy("float32", "fast")


def rule(flags: list[bool], value: float, good: int) -> tuple[float, int]:
    """GradScaler's documented rule in float32."""
    scale = np.float32(value)
    for finite in flags:
        if not finite:
            scale, good = np.float32(scale * np.float32(BACKOFF)), 0
            continue
        good += 1
        if good == INTERVAL:
            with np.errstate(over="ignore"):
                grown = np.float32(scale * np.float32(GROWTH))
            scale, good = (grown if np.isfinite(grown) else scale), 0
    return float(scale), good


def after_updates(flags: list[bool], value: float, good: int) -> tuple[float, int]:
    scale = replace(LossScale.create(value), good=jnp.int32(good))
    for finite in flags:
        scale = scale.update(jnp.bool_(finite))
    assert int(scale.skipped) == flags.count(False)
    return float(scale.value), int(scale.good)


@settings(max_examples=30, deadline=None)
@given(
    flags=st.lists(st.booleans(), max_size=12),
    exponent=st.integers(-126, 127),
    good=st.integers(INTERVAL - 6, INTERVAL - 1) | st.just(0),
)
def test_the_scale_follows_the_rule(flags: list[bool], exponent: int, good: int) -> None:
    if exponent - flags.count(False) < -126:
        return  # below the normal numbers XLA rounds to zero; a scale of 2^-126 is no scale
    assert after_updates(flags, 2.0**exponent, good) == rule(flags, 2.0**exponent, good)


def test_a_scale_that_grows_one_step_late_is_caught() -> None:
    steps = [True] * 3
    assert after_updates(steps, 4.0, INTERVAL - 3) == (8.0, 0)
    assert after_updates(steps, 4.0, INTERVAL - 4) != (8.0, 0)


def same(one: object, other: object) -> bool:
    return bool(jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other)))


def test_an_overflow_skips_the_step_and_leaves_parameters_and_moments() -> None:
    learner, state = learner_of("float16")
    state = replace(state, loss_scale=LossScale.create(1024.0))
    step = jax.jit(learner.train_step)
    state, _ = step(state, some_batch())  # moments are no longer zero
    good = some_batch()
    bad = replace(good, inputs=good.inputs.at[1, 2].set(1e6))  # beyond float16's 65504
    after, sums = step(state, bad)
    assert state.loss_scale is not None
    assert after.loss_scale is not None
    assert same((after.params, after.opt_state, after.buffers), (state.params, state.opt_state, state.buffers))
    assert float(after.loss_scale.value) == 512.0
    assert (int(after.loss_scale.good), int(after.loss_scale.skipped)) == (0, 1)
    assert int(after.step) == int(state.step) + 1
    assert (int(sums["count"]), float(sums["loss"])) == (0, 0.0)
    once_more, sums = step(after, good)
    assert not same(once_more.params, after.params)
    assert int(sums["count"]) == 6
    # The twin: without a scale the same batch ruins the parameters.
    ruined, _ = jax.jit(learner.train_step)(replace(state, loss_scale=None), bad)
    assert not all_finite(ruined.params)


def test_scaled_gradients_are_the_gradients() -> None:
    learner, state = learner_of("float32")
    batch = some_batch()
    plain, _ = jax.jit(learner.train_step)(state, batch)
    scaled, _ = jax.jit(learner.train_step)(replace(state, loss_scale=LossScale.create()), batch)
    assert same(plain.params, scaled.params)  # a power of two: not one bit differs
    odd, _ = jax.jit(learner.train_step)(replace(state, loss_scale=LossScale.create(60000.0)), batch)
    # Adam's first update is a sign, whatever the gradient's last bit; its moments keep that bit.
    assert not same(plain.opt_state, odd.opt_state)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_learns_and_tells_its_precision(precision: Precision, tmp_path: Path) -> None:
    x = RNG.normal(size=(60, 5)).astype(np.float32)
    split = Split(x, x[:, :1] - 2 * x[:, 1:2])
    config = TrainConfig(
        epochs=5, batch_size=8, learning_rate=5e-2, devices="2", precision=precision, run_dir=tmp_path, seeds=2
    )
    result = fit(
        lambda rngs: MLP((5, 9, 1), rngs=rngs), Dataset("plane", "regression", split, split), config, progress=False
    )
    losses = [np.mean(entry["train"]["loss"]) for entry in result.history]
    assert losses[-1] < 0.5 * losses[0]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["precision"], summary["matmul"]) == (precision, precision)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert ("loss_scale" in last) == (precision == "float16")
    if precision == "float16":
        # 40 steps are too few for the scale to grow.
        assert last["loss_scale"] == [INITIAL_SCALE * BACKOFF**skipped for skipped in last["skipped_steps"]]
