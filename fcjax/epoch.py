"""A segment of an epoch, or a whole evaluation, as one function for one compiled program: data lives on the device."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fcjax.metrics import Sums
from fcjax.train_state import TrainState
from fcjax.train_step import ORDER, Batch, Learner, stream_key

__all__ = ["Arrays", "Plan", "add_up", "evaluate", "train_segment"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Arrays:
    """A split on the device, as stored: ``inputs`` ``(n, ...)`` and ``targets`` ``(n,)`` or ``(n, outputs)``."""

    inputs: jax.Array
    targets: jax.Array


@dataclass(frozen=True)
class Plan:
    """Which device takes which row of which batch.

    Of every global batch device ``d`` takes rows ``d * share`` up to ``(d + 1) * share``. Rows past the end of the
    batch or of the split are padding, so that each sample is taken exactly once.

    Args:
        samples: size of the split.
        batch_size: rows of a global batch, all devices together.
        devices: how many devices share it.
    """

    samples: int
    batch_size: int
    devices: int

    @property
    def steps(self) -> int:
        """Batches of an epoch, the uneven last one included."""
        return -(-self.samples // self.batch_size)

    @property
    def share(self) -> int:
        """Rows of a batch on each device, padding included."""
        return -(-self.batch_size // self.devices)

    def batch(self, data: Arrays, order: jax.Array | None, step: jax.Array, device: jax.Array) -> Batch:
        """The share of ``device`` in batch number ``step``.

        Args:
            data: the whole split.
            order: a permutation of the samples, shape ``(samples,)``; None for the order as stored.
            step: from 0 to ``steps - 1``.
            device: from 0 to ``devices - 1``.
        """
        rows = device * self.share + jnp.arange(self.share, dtype=jnp.int32)
        place = step * self.batch_size + rows
        mask = (rows < self.batch_size) & (place < self.samples)
        # Padding repeats samples from the start: what a normalisation layer sees of it are likely values.
        place = place % self.samples
        sample = place if order is None else order[place]
        count = jnp.minimum(self.batch_size, self.samples - step * self.batch_size).astype(jnp.int32)
        return Batch(data.inputs[sample], data.targets[sample], rows, mask, count)


def train_segment(
    learner: Learner, plan: Plan, length: int, state: TrainState, data: Arrays, device: jax.Array
) -> tuple[TrainState, Sums]:
    """The next ``length`` updates of the current epoch; with ``plan.steps`` of them, a whole epoch in a new order.

    The order depends on the run's key and the number of the epoch alone, so that it is the same whatever the number
    of devices and segments, and the same after a restart.

    Args:
        learner: the training step.
        plan: shares out the rows.
        length: number of steps, none of them in the next epoch.
        state: its ``step`` tells which epoch it is, and where in it.
        data: the training set, the same on every device.
        device: this device's number, an int32 scalar.

    Returns:
        The state afterwards, and the sums over the samples of each step, every leaf with a leading axis ``(length,)``;
        both the same on every device.
    """
    epoch, first = state.step // plan.steps, state.step % plan.steps
    order = jax.random.permutation(stream_key(state.key, ORDER, epoch), plan.samples)

    def body(state: TrainState, step: jax.Array) -> tuple[TrainState, Sums]:
        return learner.train_step(state, plan.batch(data, order, step, device))

    state, sums = jax.lax.scan(body, state, first + jnp.arange(length, dtype=jnp.int32))
    return state, learner.total(sums)


def evaluate(learner: Learner, plan: Plan, state: TrainState, data: Arrays, device: jax.Array) -> Sums:
    """The sums over the samples of each of ``plan.steps`` batches, each in one; see ``train_segment``."""

    def body(nothing: None, step: jax.Array) -> tuple[None, Sums]:
        return nothing, learner.evaluation_step(state, plan.batch(data, None, step, device))

    _, sums = jax.lax.scan(body, None, jnp.arange(plan.steps, dtype=jnp.int32))
    return learner.total(sums)


def add_up(sums: Any, axis: int = 0) -> dict[str, np.ndarray]:
    """Sums of steps added up on the host, in float64: the result doesn't depend on how an epoch was cut up."""
    host = {name: np.asarray(values) for name, values in jax.device_get(sums).items()}
    wide = {name: np.float64 if np.issubdtype(values.dtype, np.inexact) else np.int64 for name, values in host.items()}
    return {name: values.sum(axis=axis, dtype=wide[name]) for name, values in host.items()}
