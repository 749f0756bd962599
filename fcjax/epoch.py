"""A whole epoch, or a whole evaluation, as one function for one compiled program: the data lives on the device."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fcjax.metrics import Sums
from fcjax.train_state import TrainState
from fcjax.train_step import ORDER, Batch, Learner, stream_key

__all__ = ["Arrays", "Plan", "evaluate", "train_epoch"]


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


def train_epoch(
    learner: Learner, plan: Plan, state: TrainState, data: Arrays, device: jax.Array
) -> tuple[TrainState, Sums]:
    """One pass over the training set in a new order: ``plan.steps`` updates.

    The order depends on the run's key and the number of the epoch alone, so that it is the same whatever the number
    of devices, and the same after a restart.

    Args:
        learner: the training step.
        plan: shares out the rows.
        state: before the epoch; its ``step`` tells which epoch it is.
        data: the training set, the same on every device.
        device: this device's number, an int32 scalar.

    Returns:
        The state after the epoch and the sums over all samples, both the same on every device.
    """
    order = jax.random.permutation(stream_key(state.key, ORDER, state.step // plan.steps), plan.samples)

    def body(state: TrainState, step: jax.Array) -> tuple[TrainState, Sums]:
        return learner.train_step(state, plan.batch(data, order, step, device))

    state, sums = jax.lax.scan(body, state, jnp.arange(plan.steps, dtype=jnp.int32))
    return state, learner.total(_add_up(sums))


def evaluate(learner: Learner, plan: Plan, state: TrainState, data: Arrays, device: jax.Array) -> Sums:
    """The sums over all samples of ``data``, each counted once; arguments as in ``train_epoch``."""

    def body(nothing: None, step: jax.Array) -> tuple[None, Sums]:
        return nothing, learner.evaluation_step(state, plan.batch(data, None, step, device))

    _, sums = jax.lax.scan(body, None, jnp.arange(plan.steps, dtype=jnp.int32))
    return learner.total(_add_up(sums))


def _add_up(sums: Sums) -> Sums:
    """Over the steps: ``(steps,) -> ()``, name by name."""
    return jax.tree.map(lambda x: x.sum(axis=0, dtype=x.dtype), sums)
