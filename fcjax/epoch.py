"""A segment of an epoch, or of an evaluation, as one function for one compiled program: data lives on the device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fcjax.metrics import Sums
from fcjax.shuffling import shuffled
from fcjax.train_state import TrainState
from fcjax.train_step import ORDER, Batch, Learner, stream_key

__all__ = ["Arrays", "Plan", "add_up", "evaluate", "sample_order", "train_segment"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Arrays:
    """Rows on the device, as stored: the arrays of a ``Split``.

    With ``first`` None they are a whole split, in its own order. Otherwise they are a chunk: this device's rows of
    consecutive steps, ``first`` the first of them, in the order in which they are taken.
    """

    inputs: Any
    targets: Any
    soft_targets: Any = None
    first: Any = None


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

    def places(self, step: Any, device: Any) -> Any:
        """Where in the order of samples the rows of ``device`` in batch ``step`` stand, shape ``(share,)``.

        Padding repeats samples from the start: what a normalisation layer sees of it are likely values.
        """
        return (step * self.batch_size + device * self.share + np.arange(self.share, dtype=np.int32)) % self.samples

    def batch(self, data: Arrays, order: jax.Array | None, step: jax.Array, device: jax.Array) -> Batch:
        """The share of ``device`` in batch number ``step``.

        Args:
            data: the whole split, or a chunk that holds this step.
            order: of a whole split, a permutation of the samples, shape ``(samples,)``; None for the order as stored.
            step: from 0 to ``steps - 1``.
            device: from 0 to ``devices - 1``.
        """
        rows = device * self.share + jnp.arange(self.share, dtype=jnp.int32)
        mask = (rows < self.batch_size) & (step * self.batch_size + rows < self.samples)
        if data.first is not None:
            sample = (step - data.first) * self.share + jnp.arange(self.share, dtype=jnp.int32)
        else:
            place = self.places(step, device)
            sample = place if order is None else order[place]
        count = jnp.minimum(self.batch_size, self.samples - step * self.batch_size).astype(jnp.int32)
        soft = None if data.soft_targets is None else data.soft_targets[sample]
        return Batch(data.inputs[sample], data.targets[sample], rows, mask, count, soft)


def sample_order(key: jax.Array, epoch: Any, samples: int) -> jax.Array:
    """The order in which an epoch takes the samples, a permutation of shape ``(samples,)``.

    It depends on the run's key and the number of the epoch alone, so that it is the same whatever the number of
    devices, segments and chunks, and the same after a restart.
    """
    return shuffled(stream_key(key, ORDER, epoch), samples)


def train_segment(
    learner: Learner, plan: Plan, length: int, state: TrainState, data: Arrays, device: jax.Array
) -> tuple[TrainState, Sums]:
    """The next ``length`` updates of the current epoch; with ``plan.steps`` of them, a whole epoch in a new order.

    Args:
        learner: the training step.
        plan: shares out the rows.
        length: number of steps, none of them in the next epoch.
        state: its ``step`` tells which epoch it is, and where in it.
        data: the training set, the same on every device; or a chunk of it that holds these steps.
        device: this device's number, an int32 scalar.

    Returns:
        The state afterwards, and the sums over the samples of each step, every leaf with a leading axis ``(length,)``;
        both the same on every device.
    """
    epoch, first = state.step // plan.steps, state.step % plan.steps
    order = sample_order(state.key, epoch, plan.samples) if data.first is None else None

    def body(state: TrainState, step: jax.Array) -> tuple[TrainState, Sums]:
        return learner.train_step(state, plan.batch(data, order, step, device))

    state, sums = _loop(body, state, first, length)
    return state, learner.total(sums)


def evaluate(learner: Learner, plan: Plan, length: int, state: TrainState, data: Arrays, device: jax.Array) -> Sums:
    """The sums over the samples of each of ``length`` batches, from the first or the chunk's; see ``train_segment``."""
    first = 0 if data.first is None else data.first

    def body(nothing: None, step: jax.Array) -> tuple[None, Sums]:
        return nothing, learner.evaluation_step(state, plan.batch(data, None, step, device))

    _, sums = _loop(body, None, first, length)
    return learner.total(sums)


def _loop(body: Callable[[Any, jax.Array], tuple[Any, Sums]], carry: Any, first: Any, length: int) -> tuple[Any, Sums]:
    """``scan`` over ``length`` steps from ``first``, in which every step rounds alike whatever the length.

    XLA dissolves a loop of one step, and what is left is fused and rounded in another way than the step of a longer
    loop. So a single step is put into a loop whose end the compiler does not know.
    """
    first = jnp.asarray(first, jnp.int32)
    if length > 1:
        return jax.lax.scan(body, carry, first + jnp.arange(length, dtype=jnp.int32))
    nothing = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), jax.eval_shape(body, carry, first)[1])
    end = jnp.where(first >= 0, 1, 0)  # always 1

    def step(number: jax.Array, both: tuple[Any, Sums]) -> tuple[Any, Sums]:
        carry, sums = body(both[0], first + number)
        return carry, jax.tree.map(lambda all_of_them, one: all_of_them.at[number].set(one), both[1], sums)

    return jax.lax.fori_loop(0, end, step, (carry, nothing))


def add_up(sums: Any, axis: int = 0) -> dict[str, np.ndarray]:
    """Sums of steps added up on the host, in float64: the result doesn't depend on how an epoch was cut up."""
    host = {name: np.asarray(values) for name, values in jax.device_get(sums).items()}
    wide = {name: np.float64 if np.issubdtype(values.dtype, np.inexact) else np.int64 for name, values in host.items()}
    return {name: values.sum(axis=axis, dtype=wide[name]) for name, values in host.items()}
