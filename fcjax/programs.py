"""The compiled programs of a run, with the data they work on: training by segments, and evaluation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fcjax.config import TrainConfig
from fcjax.datasets import Dataset
from fcjax.epoch import add_up, evaluate, train_segment
from fcjax.feeding import TRAIN, Chunk, make_feed
from fcjax.parallel import Parallel
from fcjax.train_state import TrainState
from fcjax.train_step import Learner

__all__ = ["Programs", "joined", "total"]

Sums = dict[str, np.ndarray]


class Programs:
    """What runs on the devices.

    Args:
        learner: the training step.
        parallel: the devices.
        dataset: its parts are placed on the devices, at once or chunk by chunk.
        config: batch size, replicas, segments and memory.
        state: an example, placed on the devices.

    Raises:
        UsageError: there is too little memory.
    """

    def __init__(
        self, learner: Learner, parallel: Parallel, dataset: Dataset, config: TrainConfig, state: TrainState
    ) -> None:
        self.compile_seconds = 0.0
        self._learner, self._parallel, self._config = learner, parallel, config
        self.feed = make_feed(parallel, dataset, config, _keys(parallel, state))
        self._compiled: dict[tuple[str, int], Callable[..., Any]] = {}
        for part, ends in self.feed.ends.items():
            for first, last in zip([0, *ends], ends, strict=False):
                self._program(Chunk(part, 0, first, last), state)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.feed.plans[TRAIN].steps

    @property
    def segment_ends(self) -> list[int]:
        """Where the segments of an epoch end, in steps from its start."""
        return self.feed.ends[TRAIN]

    @property
    def evaluations(self) -> list[str]:
        """The splits that are evaluated."""
        return [part for part in self.feed.ends if part != TRAIN]

    def train(self, state: TrainState, step: int, length: int) -> tuple[TrainState, Any]:
        """``length`` steps on from ``step``; ``state`` is used up. Returns also their sums, still on the devices."""
        epoch, first = divmod(step, self.steps)
        return self._run(Chunk(TRAIN, epoch, first, first + length), state)

    def evaluate(self, part: str, state: TrainState, epoch: int) -> Sums:
        """Sums over the split called ``part`` after ``epoch`` epochs, every array with a leading replica axis."""
        ends = self.feed.ends[part]
        found = []
        for first, last in zip([0, *ends], ends, strict=False):
            # Fetched at once, or the devices would be sent chunks faster than they work on them.
            found.append(jax.device_get(self._run(Chunk(part, epoch - 1, first, last), state)))
        return total(joined(found, self._config.replicas), self._config.replicas)

    def _run(self, chunk: Chunk, state: TrainState) -> Any:
        """Starts the program for ``chunk`` and, while it runs, brings the next one."""
        result = self._program(chunk, state)(state, self.feed.take(chunk))
        self.feed.fetch_after(chunk)
        return result

    def _program(self, chunk: Chunk, state: TrainState) -> Callable[..., Any]:
        """Compiled when first needed: a resumed run may have other segments than it was stopped with."""
        key = (chunk.part, chunk.length)
        if key not in self._compiled:
            training = chunk.part == TRAIN
            function = partial(
                train_segment if training else evaluate, self._learner, self.feed.plans[chunk.part], chunk.length
            )
            example = self.feed.example(chunk)
            self._compiled[key], seconds = self._parallel.compile(
                function, state, *example.pop("shared", ()), **example, replicas=self._config.replicas, donate=training
            )
            self.compile_seconds += seconds
        return self._compiled[key]


def _keys(parallel: Parallel, state: TrainState) -> list[jax.Array]:
    """The key of each replica, on the host."""
    key = state.key.addressable_data(0)
    numbers = np.asarray(jax.random.key_data(key))
    with parallel.on_the_host():
        return [
            jax.random.wrap_key_data(jnp.asarray(one), impl=jax.random.key_impl(key))
            for one in numbers.reshape(key.size, -1)
        ]


def joined(parts: Sequence[Sums], replicas: int) -> Sums:
    """The sums of consecutive steps, one part after the other."""
    axis = 0 if replicas == 1 else 1
    return {name: np.concatenate([np.asarray(part[name]) for part in parts], axis) for name in (parts or [{}])[0]}


def total(sums: Any, replicas: int) -> Sums:
    """Sums of steps added up, every array with a leading replica axis."""
    if replicas > 1:
        return add_up(sums, axis=1)
    return {name: values[None] for name, values in add_up(sums, axis=0).items()}
