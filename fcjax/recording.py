"""Writes a run to its folder as it goes, and finds in the folder where to go on."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from fcjax.agreement import by_first, everyone, from_first
from fcjax.checkpoint import CheckpointError, Checkpoints
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset
from fcjax.digests import array_digest, text_digest
from fcjax.resume import fingerprint, refuse_other_settings
from fcjax.run import Run
from fcjax.run_directory import RunDirectory
from fcjax.tensorboard import TensorBoard, refuse_without_writer
from fcjax.train_state import TrainState

__all__ = ["Recorder", "named_arrays"]


class Recorder:
    """The folder of one run; a context manager, so that a checkpoint on its way is written whatever happens.

    Of several processes each has one; process 0 alone reads and writes, but for checkpoints, which all save together.

    Args:
        directory: its files.
        config: when to save, and whether to resume.
        files: further ones that are known before training, texts by name.

    Raises:
        UsageError: in all processes: the folder can't be written, or holds a run that can't be resumed or is
            under way in another process.
    """

    def __init__(self, directory: RunDirectory, config: TrainConfig, files: Mapping[str, str] | None = None) -> None:
        self._directory, self._config, self._files = directory, config, files or {}
        self._writes = jax.process_index() == 0
        self._saved = time.monotonic()
        self._data = ""
        self._board: TensorBoard | None = None
        self._restored: list[dict[str, Any]] | None = None  # the history of a resumed run whose files are yet untouched
        self._resumes = by_first(self._begin) == b"resumes"
        folder = from_first(str(directory.checkpoints.absolute()).encode()) if jax.process_count() > 1 else b""
        self._checkpoints = Checkpoints(
            Path(folder.decode()) if folder else directory.checkpoints, config.keep_checkpoints
        )

    def _begin(self) -> bytes:
        """Makes a new folder, or sees that the one there can be gone on with."""
        if self._config.tensorboard:
            refuse_without_writer()
        self._directory.claim()
        try:
            return self._made_or_found()
        except BaseException:
            self._directory.release()
            raise

    def _made_or_found(self) -> bytes:
        directory, config = self._directory, self._config
        recorded = directory.recorded() if config.resume else None
        if recorded is None:
            directory.create(config.to_json(), self._files)
            return b"begins"
        refuse_other_settings(directory.path, recorded, config)
        if directory.finished == config.epochs:
            raise UsageError(
                f"{directory.path}: expected a run to go on with, found one that is finished after "
                f"{config.epochs} epochs (its results are in summary.json)"
            )
        return b"resumes"

    def open(self, run: Run, dataset: Dataset, say: Callable[[str], None]) -> None:
        """Takes a resumed ``run`` to where its newest whole checkpoint was taken. Its other files are left as they are.

        Raises:
            UsageError: the checkpoint is of another model or of other data.
        """
        self._data = fingerprint(dataset)
        if self._resumes:
            self._go_on(run, dataset.name, say)
        if self._config.tensorboard and self._writes:
            self._board = TensorBoard(self._directory.path / "tensorboard", run.epoch)

    def _go_on(self, run: Run, name: str, say: Callable[[str], None]) -> None:
        snapshot = self._checkpoints.newest(warn=lambda message: say(f"warning: {message}"))
        if snapshot is None:
            say(f"no checkpoint in {self._directory.path}: begins at the start")
        elif snapshot.facts["data"] != self._data:
            raise UsageError(
                f"{self._directory.path}: expected the data that the run was started with, found other data: "
                f"{name} has changed since"
            )
        else:
            run.restore(snapshot)
            say(f"goes on after epoch {run.epoch}, step {run.step}")
        self._restored = list(run.history)

    def _rewind(self) -> None:
        """Brings the files to where a resumed run went on, when it has come further: a failed start loses nothing."""
        history, self._restored = self._restored, None
        if history is not None and self._writes:
            self._directory.rewind(self._config.to_json(), self._files, history)

    def after_segment(self, run: Run, epoch_ended: bool) -> None:
        """Writes what is due: a line of metrics after an epoch, and perhaps a checkpoint."""
        self._rewind()
        if epoch_ended and self._writes:
            self._directory.append_metrics(run.history[-1])
            if self._board:
                self._board.write(run.history[-1], run.seeds)
        every = self._config.checkpoint_every
        due = epoch_ended and every is not None and run.epoch % every == 0
        due = due or time.monotonic() - self._saved >= self._config.checkpoint_seconds or run.finished
        if everyone(due)[0]:  # by the clock of process 0
            self.save(run)

    def save(self, run: Run) -> None:
        """Starts to write a checkpoint in the background."""
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
        self._directory.release()

    def close(self, run: Run, summary: dict[str, object]) -> None:
        """Writes weights and, last, the summary, which marks the run as finished."""
        self.wait()
        self._rewind()
        if not self._writes:
            return
        arrays = named_arrays(run.state)
        # The files that say what the arrays mean: a changed mean or class name would give wrong answers in silence.
        files = {name: text_digest(text) for name, text in self._files.items()}
        about = {"seeds": run.seeds, "sha256": array_digest(arrays), "files": files}
        # In one entry: safetensors writes several in any order, and equal runs should give equal files.
        self._directory.write_weights(arrays, {"fcjax": json.dumps(about, sort_keys=True)})
        self._directory.write_summary(summary)


def named_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """The parameters that evaluation uses, and the buffers, by dotted Flax path, ``{"fc1.kernel": ...}``."""
    leaves = [
        *jax.tree_util.tree_leaves_with_path(state.evaluated),
        *jax.tree_util.tree_leaves_with_path(state.buffers),
    ]
    return {".".join(str(entry.key) for entry in path): np.asarray(leaf) for path, leaf in leaves}
