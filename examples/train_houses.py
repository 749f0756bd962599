"""Regressor on house prices: eight features in, one price out, with the data-parallel training step written out.

    python examples/train_houses.py               synthetic houses: test RMSE about 21, where a perfect predictor has 20

Features and prices are brought to mean 0 and standard deviation 1 for the network; errors are reported in the prices'
own unit.
"""

import argparse
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from fcjax import Regressor, load, squared_error

Arrays = Any  # a tree of arrays
dataset = load("housing")
features = dataset.train.inputs.shape[1]
graph, parameters = nnx.split(Regressor(features, rngs=nnx.Rngs(0)), nnx.Param)
parameters = nnx.as_pure(parameters)
optimizer = optax.adam(1e-3)


# Parameters and optimiser state go in and out once (None), a batch has one slice per device (0).
@partial(jax.pmap, axis_name="devices", in_axes=(None, None, 0, 0), out_axes=(None, None, None), donate_argnums=(0, 1))
def train_step(parameters: Arrays, moments: Arrays, x: jax.Array, y: jax.Array) -> tuple[Arrays, Arrays, jax.Array]:
    """One update; x (share, features), y (share, 1), both scaled."""

    def mean_loss(parameters: Arrays) -> jax.Array:
        return squared_error(nnx.merge(graph, parameters)(x), y).mean()

    loss, gradients = jax.value_and_grad(mean_loss)(parameters)
    loss, gradients = jax.lax.pmean((loss, gradients), "devices")
    updates, moments = optimizer.update(gradients, moments, parameters)
    return optax.apply_updates(parameters, updates), moments, loss


@jax.jit
def predict(parameters: Arrays, x: jax.Array) -> jax.Array:
    """Scaled prices, (n, features) -> (n, 1)."""
    return nnx.merge(graph, parameters)(x)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains Regressor with pmap.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128, help="over all devices")
    options = parser.parse_args()
    assert dataset.input_scaling is not None
    assert dataset.target_scaling is not None

    x = dataset.input_scaling.apply(dataset.train.inputs)  # (n, features)
    y = dataset.target_scaling.apply(dataset.train.targets)  # (n, 1)
    devices = jax.local_device_count()
    share = options.batch_size // devices
    steps = len(y) // (share * devices)  # here the last few samples of each order are left out
    print(f"{devices} x {jax.devices()[0].device_kind}, {len(y)} houses, {steps} steps of {share} per device")

    weights, moments = parameters, optimizer.init(parameters)
    order = np.random.default_rng(0)
    for epoch in range(options.epochs):
        for rows in order.permutation(len(y))[: steps * share * devices].reshape(steps, devices, share):
            weights, moments, loss = train_step(weights, moments, x[rows], y[rows])
        scaled = predict(weights, dataset.input_scaling.apply(dataset.test.inputs))
        error = dataset.target_scaling.inverse(np.asarray(scaled)) - dataset.test.targets
        print(f"epoch {epoch + 1}  loss {loss:.4f}  test RMSE {np.sqrt(np.square(error).mean()):.2f}")
    print(f"a perfect predictor has RMSE {dataset.noise_floor}")


if __name__ == "__main__":
    main()
