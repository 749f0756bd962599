"""The compiled programs of a run, with the data they work on: training by segments, and evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from fcjax.config import TrainConfig
from fcjax.datasets import Dataset, Split
from fcjax.epoch import Arrays, Plan, add_up, evaluate, train_segment
from fcjax.parallel import Parallel
from fcjax.train_state import TrainState
from fcjax.train_step import Learner

__all__ = ["Programs"]

EVALUATION_BATCH = 1000
Sums = dict[str, np.ndarray]


class Programs:
    """What runs on the devices; the data stays there.

    Args:
        learner: the training step.
        parallel: the devices.
        dataset: all of its splits are placed on the devices.
        config: batch size, replicas and segments.
        state: an example, placed on the devices.
    """

    def __init__(
        self, learner: Learner, parallel: Parallel, dataset: Dataset, config: TrainConfig, state: TrainState
    ) -> None:
        self.compile_seconds = 0.0
        self._learner, self._parallel, self._config = learner, parallel, config
        self._plan = self._plan_of(dataset.train, config.batch_size)
        self._data = self._place(dataset.train)
        self._training: dict[int, Callable[..., Any]] = {}
        for length in {end - start for start, end in zip([0, *self.segment_ends], self.segment_ends, strict=False)}:
            self._training[length] = self._training_program(length, state)
        self._evaluations = {
            part: self._evaluation(split, state) for part, split in dataset.parts().items() if part != "train"
        }

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self._plan.steps

    @property
    def segment_ends(self) -> list[int]:
        """Where the segments of an epoch end, in steps from its start; no two lengths differ by more than one."""
        parts = min(self._config.segments, self.steps)
        return [self.steps * (part + 1) // parts for part in range(parts)]

    @property
    def evaluations(self) -> list[str]:
        """The splits that are evaluated."""
        return list(self._evaluations)

    def train(self, state: TrainState, length: int) -> tuple[TrainState, Any]:
        """``length`` steps on; ``state`` is used up. Returns also their sums, still on the devices."""
        if length not in self._training:  # a run is resumed with other segments than it was stopped with
            self._training[length] = self._training_program(length, state)
        return self._training[length](state, self._data)

    def evaluate(self, part: str, state: TrainState) -> Sums:
        """Sums over the split called ``part``, every array with a leading replica axis."""
        return total(self._evaluations[part](state), self._config.replicas)

    def _plan_of(self, split: Split, rows: int) -> Plan:
        return Plan(len(split), rows, len(self._parallel.devices))

    def _place(self, split: Split) -> Arrays:
        return self._parallel.replicate(Arrays(jnp.asarray(split.inputs), jnp.asarray(split.targets)))

    def _training_program(self, length: int, state: TrainState) -> Callable[..., Any]:
        return self._compile(partial(train_segment, self._learner, self._plan, length), state, self._data, donate=True)

    def _evaluation(self, split: Split, state: TrainState) -> Callable[[TrainState], Any]:
        plan = self._plan_of(split, min(EVALUATION_BATCH, len(split)))
        data = self._place(split)
        program = self._compile(partial(evaluate, self._learner, plan), state, data)
        return lambda state: program(state, data)

    def _compile(self, function: Callable[..., Any], *arguments: Any, donate: bool = False) -> Callable[..., Any]:
        program, seconds = self._parallel.compile(function, *arguments, replicas=self._config.replicas, donate=donate)
        self.compile_seconds += seconds
        return program


def total(sums: Any, replicas: int) -> Sums:
    """Sums of steps added up, every array with a leading replica axis."""
    if replicas > 1:
        return add_up(sums, axis=1)
    return {name: values[None] for name, values in add_up(sums, axis=0).items()}
