"""A run under way: its state, how far it has come and what it has measured."""

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from fcjax.checkpoint import CheckpointError, Snapshot, named_leaves, restored
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.early_stopping import Standing, merged, standings
from fcjax.metrics import figures, mean
from fcjax.parallel import Parallel
from fcjax.programs import Programs, joined, total
from fcjax.train_state import TrainState

__all__ = ["Run", "TrainingError"]

Figures = dict[str, list[float | None]]  # name -> one number per replica; None after an early stop, if it is no number


class TrainingError(UsageError):
    """Training can't go on: its loss is no longer a number."""


@dataclass
class Run:
    """Trains segment by segment, and measures after each epoch.

    Args:
        config, dataset, parallel, programs: what is done, on what, and where.
        state: on the devices.
        step: number of steps taken.
        sums: of the steps of the current epoch taken so far, a list of one entry per segment.
        history: what ``metrics.jsonl`` holds.
        train_seconds: spent in training programs, those of earlier processes included.
        loop_seconds: spent in epochs by this process.
    """

    config: TrainConfig
    dataset: Dataset
    parallel: Parallel
    programs: Programs
    state: TrainState
    step: int = 0
    sums: list[Any] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    loop_seconds: float = 0.0
    best: Any = None  # parameters and buffers of each replica's best epoch, on the host, if early stopping is on

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or every replica has stopped early."""
        stopped = self.standings and all(standing.stopped for standing in self.standings)
        return bool(stopped) or self.step >= self.config.epochs * self.programs.steps

    @property
    def standings(self) -> list[Standing]:
        """How far each replica has come by its validation loss; empty without early stopping."""
        if not self.config.patience:
            return []
        return standings([entry["validation"]["loss"] for entry in self.history], self.config.patience)

    def settle(self) -> dict[str, Figures]:
        """At the end: the figures of every evaluated split, and in ``state`` the weights that gave them.

        Those are of the last epoch, or with early stopping of each replica's best.
        """
        last = self.history[-1]
        if not self.standings:
            return {part: last[part] for part in self.programs.evaluations}
        best = [standing.best for standing in self.standings]
        params, buffers = self.best
        average = None if self.state.average is None else params
        own = self.state.params if average is not None else params
        self.state = replace(jax.device_get(self.state), params=own, buffers=buffers, average=average)
        return {
            part: {
                name: [self.history[epoch - 1][part][name][k] for k, epoch in enumerate(best)] for name in last[part]
            }
            for part in self.programs.evaluations
        }

    @property
    def epoch(self) -> int:
        """Number of whole epochs done."""
        return self.step // self.programs.steps

    @property
    def seeds(self) -> list[int]:
        """The seeds of the replicas."""
        return self.config.replica_seeds

    @property
    def samples(self) -> int:
        """Samples trained on per epoch, those of all replicas counted."""
        return len(self.dataset.train) * self.config.replicas

    def segment(self) -> bool:
        """Trains to the next segment boundary; at the end of an epoch also evaluates, records it and returns True."""
        started = time.perf_counter()
        done = self.step % self.programs.steps
        end = next(end for end in self.programs.segment_ends if end > done)
        self.state, sums = jax.block_until_ready(self.programs.train(self.state, self.step, end - done))
        self.epoch_seconds += time.perf_counter() - started
        self.sums.append({name: np.asarray(values) for name, values in jax.device_get(sums).items()})
        self.step += end - done
        ended = end == self.programs.steps
        if ended:
            self._record_epoch()
        self.loop_seconds += time.perf_counter() - started
        return ended

    def snapshot(self) -> Snapshot:
        """All that ``restore`` needs to go on from here."""
        arrays = named_leaves({"state": self.state, "sums": self._joined(), "best": self.best or ()})
        facts = {
            "history": list(self.history),  # it grows while this is still being written
            "train_seconds": self.train_seconds,
            "epoch_seconds": self.epoch_seconds,
        }
        return Snapshot(self.step, arrays, facts, None if self.sums else self._score())

    def restore(self, snapshot: Snapshot) -> None:
        """Goes to where ``snapshot`` was taken.

        Raises:
            CheckpointError: it was taken of another model.
        """
        sums = {name[5:]: array for name, array in snapshot.arrays.items() if name.startswith("sums.")}
        state = {name: array for name, array in snapshot.arrays.items() if name.startswith("state.")}
        best = {name: array for name, array in snapshot.arrays.items() if name.startswith("best.")}
        self.best = restored({"best": self._weights()}, best)["best"] if best else None
        self.state = self.parallel.replicate(restored({"state": self.state}, state)["state"])
        self.step = snapshot.step
        self.sums = [sums] if sums else []
        self.history = list(snapshot.facts["history"])
        self.train_seconds = snapshot.facts["train_seconds"]
        self.epoch_seconds = snapshot.facts["epoch_seconds"]
        if len(self.history) != self.epoch:
            raise CheckpointError(f"step {self.step}: expected {self.epoch} epochs, found {len(self.history)}")

    def figures(self, sums: dict[str, np.ndarray], split: Split) -> dict[str, list[float]]:
        """Figures of every replica."""
        one_each = [
            figures({name: values[k] for name, values in sums.items()}, self.dataset, split.targets)
            for k in range(self.config.replicas)
        ]
        return {name: [one[name] for one in one_each] for name in one_each[0]}

    def _record_epoch(self) -> None:
        sums, self.sums = total(self._joined(), self.config.replicas), []
        entry: dict[str, Any] = {"epoch": self.epoch, "step": self.step}
        stopped = [standing.stopped for standing in self.standings] or [False] * self.config.replicas
        entry["train"] = self._finite("training", self.figures(sums, self.dataset.train), stopped)
        if (scale := self.state.loss_scale) is not None:
            entry["loss_scale"] = np.atleast_1d(jax.device_get(scale.value)).tolist()
            entry["skipped_steps"] = np.atleast_1d(jax.device_get(scale.skipped)).tolist()
        for part in self.programs.evaluations:
            found = self.figures(self.programs.evaluate(part, self.state, self.epoch), self.dataset.parts()[part])
            entry[part] = self._finite(part, found, stopped)
        entry["samples_per_second"] = round(self.samples / self.epoch_seconds, 1)
        entry["seconds"] = round(self.epoch_seconds, 4)
        self.train_seconds, self.epoch_seconds = self.train_seconds + self.epoch_seconds, 0.0
        self.history.append(entry)
        if self.standings:
            improved = [standing.best == self.epoch for standing in self.standings]
            self.best = merged(self.best, self._weights() if any(improved) else None, improved)
        if self.finished:
            self._expect_finite_arrays(self.best if self.standings else self.state)

    def _weights(self) -> Any:
        """The arrays that evaluation uses."""
        return jax.device_get((self.state.evaluated, self.state.buffers))

    def _joined(self) -> dict[str, np.ndarray]:
        """The sums of the current epoch's steps so far, one after the other."""
        return joined(self.sums, self.config.replicas)

    def _score(self) -> float | None:
        """What the best checkpoint is chosen by: the validation loss, or else the training loss; never the test's."""
        if not self.history:
            return None
        entry = self.history[-1]
        return mean(entry.get("validation", entry["train"])["loss"])

    def _finite(self, part: str, figures: dict[str, list[float]], stopped: list[bool]) -> Figures:
        """The same figures; None for what is no number, which only a replica that has stopped may come to."""
        for name, values in figures.items():
            for seed, value, over in zip(self.seeds, values, stopped, strict=True):
                if not (over or math.isfinite(value)):
                    raise self._diverged(f"expected a finite {part} {name}, found {value} (seed {seed})")
        return {name: [v if math.isfinite(v) else None for v in values] for name, values in figures.items()}

    def _expect_finite_arrays(self, result: Any) -> None:
        """A net may have become useless in the last step, after the last loss of training was taken."""
        for name, array in named_leaves(result).items():
            if jax.numpy.issubdtype(array.dtype, np.inexact) and not (finite := np.isfinite(array)).all():
                place = tuple(int(i) for i in np.argwhere(~finite)[0])
                raise self._diverged(f"expected finite numbers in {name}, found {array[place]} at {place}")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"epoch {self.epoch}, step {self.step}: {what}; a learning rate below {self.config.learning_rate} may help"
        )
