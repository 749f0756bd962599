"""Writes a run to its folder as it goes, and finds in the folder where to go on."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import jax
import numpy as np

from fcjax.checkpoint import CheckpointError, Checkpoints
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset
from fcjax.resume import fingerprint, refuse_other_settings
from fcjax.run import Run
from fcjax.run_directory import RunDirectory
from fcjax.tensorboard import TensorBoard, refuse_without_writer
from fcjax.train_state import TrainState

__all__ = ["Recorder", "named_arrays"]


class Recorder:
    """The folder of one run; a context manager, so that a checkpoint on its way is written whatever happens.

    Args:
        directory: its files.
        config: when to save, and whether to resume.
    """

    def __init__(self, directory: RunDirectory, config: TrainConfig) -> None:
        self._directory, self._config = directory, config
        self._checkpoints = Checkpoints(directory.checkpoints, config.keep_checkpoints)
        self._saved = time.monotonic()
        self._data = ""
        self._board: TensorBoard | None = None
        if config.tensorboard:
            refuse_without_writer()
        recorded = directory.recorded() if config.resume else None
        self._resumes = recorded is not None
        if recorded is None:
            directory.create(config.to_json())
            return
        refuse_other_settings(directory.path, recorded, config)
        if directory.finished and recorded["epochs"] == config.epochs:
            raise UsageError(
                f"{directory.path}: expected a run to go on with, found one that is finished after "
                f"{config.epochs} epochs (its results are in summary.json)"
            )

    def open(self, run: Run, dataset: Dataset, say: Callable[[str], None]) -> None:
        """Takes a resumed ``run`` to where its newest whole checkpoint was taken.

        Raises:
            UsageError: the checkpoint is of another model or of other data.
        """
        self._data = fingerprint(dataset)
        if self._resumes:
            self._go_on(run, dataset, say)
        if self._config.tensorboard:
            self._board = TensorBoard(self._directory.path / "tensorboard", run.epoch)

    def _go_on(self, run: Run, dataset: Dataset, say: Callable[[str], None]) -> None:
        snapshot = self._checkpoints.newest(warn=lambda message: say(f"warning: {message}"))
        if snapshot is None:
            say(f"no checkpoint in {self._directory.path}: begins at the start")
        else:
            if snapshot.facts["data"] != self._data:
                raise UsageError(
                    f"{self._directory.path}: expected the data that the run was started with, found other data: "
                    f"{dataset.name} has changed since"
                )
            run.restore(snapshot)
            say(f"goes on after epoch {run.epoch}, step {run.step}")
        self._directory.rewind(self._config.to_json(), run.history)

    def after_segment(self, run: Run, epoch_ended: bool) -> None:
        """Writes what is due: a line of metrics after an epoch, and perhaps a checkpoint."""
        if epoch_ended:
            self._directory.append_metrics(run.history[-1])
            if self._board:
                self._board.write(run.history[-1], run.seeds)
        every = self._config.checkpoint_every
        due = epoch_ended and every is not None and run.epoch % every == 0
        if due or time.monotonic() - self._saved >= self._config.checkpoint_seconds or run.finished:
            self.save(run)

    def save(self, run: Run) -> None:
        """Starts to write a checkpoint in the background; not yet where several processes share the run."""
        if jax.process_count() > 1:
            return
        snapshot = run.snapshot()
        snapshot.facts["data"] = self._data
        self._checkpoints.save(snapshot)
        self._saved = time.monotonic()

    def wait(self) -> None:
        """Until the last checkpoint is written."""
        self._checkpoints.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._board:
            self._board.close()
        with suppress(CheckpointError):  # what ended the run matters more
            self.wait()

    def close(self, run: Run, summary: dict[str, object]) -> None:
        """Writes weights and, last, the summary, which marks the run as finished."""
        self.wait()
        metadata = {"format": "fcjax", "seeds": json.dumps(run.seeds)}
        self._directory.write_weights(named_arrays(run.state), metadata)
        self._directory.write_summary(summary)


def named_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """The parameters that evaluation uses, and the buffers, by dotted Flax path, ``{"fc1.kernel": ...}``."""
    leaves = [
        *jax.tree_util.tree_leaves_with_path(state.evaluated),
        *jax.tree_util.tree_leaves_with_path(state.buffers),
    ]
    return {".".join(str(entry.key) for entry in path): np.asarray(leaf) for path, leaf in leaves}
