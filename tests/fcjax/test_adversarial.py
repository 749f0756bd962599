"""Training inputs moved towards a greater loss: how far, in which direction, and alike on any number of devices."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.layers import row_keys
from fcjax.losses import cross_entropy, squared_error
from fcjax.models import MLP
from fcjax.train_state import create_state
from fcjax.train_step import Batch, Learner
from fcjax.trainer import fit

RNG = np.random.default_rng(0)
ROWS, FEATURES = 40, 6
X = jnp.asarray(RNG.normal(size=(ROWS, FEATURES)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 3, ROWS))
KEYS = row_keys(jax.random.key(0), jnp.arange(ROWS))


def test_every_row_moves_up_its_own_loss_by_a_random_distance() -> None:
    model = MLP((FEATURES, 9, 3), dropout=0.5, rngs=nnx.Rngs(0))
    pure, state = create_state(model, optax.sgd(0.1), seed=0)
    learner = Learner(pure, "classification", cross_entropy, optax.sgd(0.1), adversarial=0.3)
    moved = learner._moved(state, X, LABELS, KEYS)
    change = np.asarray(moved - X, np.float64)
    distance = np.sqrt((change**2).mean(axis=1))  # root mean square over the inputs
    assert (distance <= 0.3 * (1 + 1e-5)).all()
    # 40 uniform draws from [0, 0.3]: their mean has a standard error of 0.014.
    assert abs(distance.mean() - 0.15) < 0.05
    assert len(np.unique(distance.round(5))) > 30

    model.eval()
    gradient = np.asarray(jax.vmap(jax.grad(lambda x, y: cross_entropy(model(x[None]), y[None])[0]))(X, LABELS))
    cosine = (gradient * change).sum(axis=1) / np.linalg.norm(gradient, axis=1) / np.linalg.norm(change, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-4)  # float32 gradients, and a difference of numbers of about 1
    gain = cross_entropy(model(moved), LABELS) - cross_entropy(model(X), LABELS)
    assert (np.asarray(gain) > 0).all()
    assert (np.asarray(cross_entropy(model(2 * X - moved), LABELS) - cross_entropy(model(X), LABELS)) < 0).all()


def test_a_loss_without_slope_moves_nothing() -> None:
    pure, state = create_state(MLP((FEATURES, 4, 2), rngs=nnx.Rngs(0)), optax.sgd(0.1), seed=0)
    learner = Learner(pure, "regression", squared_error, optax.sgd(0.1), adversarial=0.3)
    exact = pure.evaluate(state.params, state.buffers, X)
    np.testing.assert_array_equal(learner._moved(state, X, exact, KEYS), X)


def test_the_step_learns_from_moved_inputs() -> None:
    pure, state = create_state(MLP((FEATURES, 4, 2), rngs=nnx.Rngs(0)), optax.sgd(0.1), seed=0)
    y = jnp.asarray(RNG.normal(size=(ROWS, 2)), jnp.float32)
    batch = Batch(X, y, jnp.arange(ROWS), jnp.ones(ROWS, bool), jnp.int32(ROWS))
    plain = Learner(pure, "regression", squared_error, optax.sgd(0.1))
    moving = replace(plain, adversarial=0.3)
    assert float(moving.train_step(state, batch)[1]["loss"]) > 1.02 * float(plain.train_step(state, batch)[1]["loss"])
    # Evaluation sees samples as they are.
    assert float(moving.evaluation_step(state, batch)["loss"]) == float(plain.evaluation_step(state, batch)["loss"])


def test_the_same_on_any_number_of_devices_with_batch_normalisation() -> None:
    split = Split(np.asarray(X), np.asarray(X[:, :1] * X[:, 1:2]))
    dataset = Dataset("product", "regression", split, split)
    config = TrainConfig(epochs=2, batch_size=15, adversarial=0.4, devices="1")

    def net(rngs: nnx.Rngs) -> nnx.Module:
        model = MLP((FEATURES, 5, 1), norm="batch", rngs=rngs)
        nnx.update(model, jax.tree.map(lambda p: p.astype(jnp.float64), nnx.state(model)))
        return model

    with jax.enable_x64(True):
        found = [
            fit(net, dataset, replace(config, devices=devices, adversarial=far), progress=False).summary["test"]["rmse"]
            for devices, far in (("1", 0.4), ("3", 0.4), ("1", 0.0))
        ]
    # Six steps in float64; sums over devices round in another order.
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)
    assert abs(found[2][0] / found[0][0] - 1) > 1e-6


def test_a_distance_is_not_negative() -> None:
    with pytest.raises(UsageError, match="adversarial: expected a finite number of at least 0, found -1"):
        TrainConfig(adversarial=-1).check()
