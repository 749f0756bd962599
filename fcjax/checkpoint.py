"""Checkpoints: all that a run needs to go on bit for bit. Written in the background; there whole or not at all.

RUN/checkpoints/000001200       the state after 1200 steps, in Orbax's format: arrays and JSON, nothing pickled
"""

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fcjax.agreement import by_first, everyone
from fcjax.config import UsageError
from fcjax.digests import array_digest

if TYPE_CHECKING:
    from orbax.checkpoint import v1 as ocp

__all__ = ["CheckpointError", "Checkpoints", "Snapshot", "named_leaves", "restored"]

_DELETED, _DAMAGED = ".deleted", ".damaged"


class CheckpointError(UsageError):
    """A checkpoint can't be written, or doesn't belong to this run."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds.

    Args:
        step: number of steps taken, which is the checkpoint's name.
        arrays: by dotted path.
        facts: plain JSON values.
        score: the lower the better; None where the state was not evaluated.
    """

    step: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]
    score: float | None = None

    def digest(self) -> str:
        """SHA-256 of everything in it."""
        return array_digest(self.arrays, json.dumps([self.step, self.facts, self.score], sort_keys=True))


class Checkpoints:
    """The checkpoints of one run: the last ``keep`` and the best.

    Several processes save together and read alike, in a folder that all of them see; process 0 alone removes and
    renames.

    Args:
        folder: made when the first one is written.
        keep: how many of the last to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder.absolute()  # Orbax takes no other
        self._keep = keep
        self._scores: dict[int, float | None] = {}
        self._pending: tuple[Snapshot, ocp.AsyncResponse[None]] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Starts to write ``snapshot`` and returns; waits first for the one before.

        Raises:
            CheckpointError: it, or the one before, could not be written. Those already there are untouched.
        """
        self.wait()
        if snapshot.step in self._scores:
            return  # saved at this very step already: a signal just after a regular save
        orbax = _orbax()
        path = self.folder / f"{snapshot.step:09d}"
        about = {"facts": snapshot.facts, "score": snapshot.score, "sha256": snapshot.digest()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            response = orbax.save_checkpointables_async(
                path, {"arrays": snapshot.arrays}, custom_metadata=about, overwrite=True
            )
        except Exception as error:  # Orbax raises whatever its backends do
            raise self._failure(snapshot.step, error) from error
        self._pending = snapshot, response

    def wait(self) -> None:
        """Until the last one is written, and then deletes those that are no longer kept; raises as ``save`` does."""
        if self._pending is None:
            return
        (snapshot, response), self._pending = self._pending, None
        try:
            response.result()
        except Exception as error:
            raise self._failure(snapshot.step, error) from error
        self.note(snapshot)
        if jax.process_index():
            return
        kept = self._kept()
        for step in self._scores.keys() - kept:
            # Renamed first: killed half way, a half-deleted folder must not look like a checkpoint.
            with suppress(OSError):  # a checkpoint too many is no reason to stop
                doomed = (self.folder / f"{step:09d}").rename(self.folder / f"{step:09d}{_DELETED}")
                shutil.rmtree(doomed)
        self._scores = {step: self._scores[step] for step in kept}

    def note(self, snapshot: Snapshot) -> None:
        """Remembers that this one is there."""
        self._scores[snapshot.step] = snapshot.score

    def newest(self, warn: Callable[[str], None]) -> Snapshot | None:
        """The last checkpoint that is whole; None where there is none. Clears away what a killed run left half done.

        All processes read the same ones in the same order: Orbax counts what each does, and saves only where all have
        done as much.

        Args:
            warn: is told of every damaged one, which is renamed to ``*.damaged``.

        Raises:
            CheckpointError: in all processes: one of them doesn't see what the others do, or a damaged checkpoint can't
                be renamed.
        """
        found = None
        for name in by_first(self._present).decode().split():
            path = self.folder / name
            snapshot, problem = _read(path)
            digests = everyone(int(snapshot.digest()[:15], 16) if snapshot else 0)
            if len(set(digests)) > 1:
                raise CheckpointError(
                    f"{path}: expected the same in every process, found different contents: is it in a folder that all "
                    "machines share?"
                )
            if snapshot is None:
                by_first(partial(_put_aside, path, problem, warn))
                continue
            self.note(snapshot)
            found = found or snapshot
        return found

    def _present(self) -> bytes:
        """The names of all checkpoints, the newest first."""
        self._clear()
        return " ".join(sorted((path.name for path in self.folder.glob("[0-9]" * 9)), reverse=True)).encode()

    def _kept(self) -> set[int]:
        kept = set(sorted(self._scores)[-self._keep :])
        scored = [(score, step) for step, score in self._scores.items() if score is not None]
        return kept | {min(scored)[1]} if scored else kept

    def _clear(self) -> None:
        if jax.process_index():
            return
        for path in [*self.folder.glob(f"*{_DELETED}"), *self.folder.glob("*.orbax-checkpoint-tmp*")]:
            shutil.rmtree(path, ignore_errors=True)

    def _failure(self, step: int, error: Exception) -> CheckpointError:
        self._clear()
        good = f"the last good one is of step {max(self._scores)}" if self._scores else "there is none before it"
        reason = "no space left on the device" if "RESOURCE_EXHAUSTED" in str(error) else _first_line(error)
        return CheckpointError(f"{self.folder}: the checkpoint of step {step} can't be written ({reason}); {good}")


def named_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Copies of the arrays of ``tree`` on the host, by dotted path; a random key as its numbers.

    Empty arrays are left out: Orbax can't store them, and their shape says everything.
    """
    # Copied, since the devices' own memory is given back to the next training step while Orbax still writes.
    return {name: np.array(_plain(leaf), copy=True) for name, leaf in _leaves(tree) if leaf.size}


def restored(template: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The arrays in the structure of ``template``, the inverse of ``named_leaves``.

    Raises:
        CheckpointError: a name is missing or left over, or a shape or dtype differs; the message names the first.
    """
    leaves = []
    rest = dict(arrays)
    for name, leaf in _leaves(template):
        plain = _plain(leaf)
        empty = np.zeros(plain.shape, plain.dtype) if plain.size == 0 else None
        found = rest.pop(name, empty)
        if found is None:
            raise CheckpointError(f"{name}: expected in the checkpoint, not found: was it of another model?")
        if (found.shape, found.dtype) != (plain.shape, plain.dtype):
            raise CheckpointError(
                f"{name}: expected {plain.dtype} of shape {plain.shape}, found {found.dtype} of shape {found.shape} in "
                "the checkpoint: was it of another model?"
            )
        leaves.append(
            jax.random.wrap_key_data(jax.numpy.asarray(found), impl=jax.random.key_impl(leaf))
            if _is_key(leaf)
            else found
        )
    if rest:
        raise CheckpointError(f"{min(rest)}: found in the checkpoint, but the model has no such array")
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in paths]


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    # One device's copy: the whole may belong to several processes, of which one alone is asked.
    return jax.random.key_data(leaf.addressable_data(0))


def _read(path: Path) -> tuple[Snapshot | None, str]:
    """The checkpoint, or None and what is wrong with it."""
    orbax = _orbax()
    try:
        with _alone(orbax):
            about: Any = orbax.checkpointables_metadata(path).custom_metadata
            arrays = orbax.load_checkpointables(path)["arrays"]
        snapshot = Snapshot(int(path.name), arrays, about["facts"], about["score"])
        if snapshot.digest() != about["sha256"]:
            raise ValueError("its contents have changed since it was written")
    except Exception as error:  # a damaged file makes Orbax raise all sorts of things
        return None, _first_line(error)
    return snapshot, ""


def _put_aside(path: Path, problem: str, warn: Callable[[str], None]) -> bytes:
    """Renames a damaged checkpoint."""
    warn(f"checkpoint {path} is damaged and left aside: {problem}")
    aside = _unused(path.with_name(path.name + _DAMAGED))
    try:
        path.rename(aside)
    except OSError as failure:
        reason = failure.strerror or failure
        raise CheckpointError(f"{path}: damaged, and can't be renamed to {aside.name}: {reason}") from failure
    return b""


def _orbax() -> Any:
    """Loaded when first used. Its log repeats every error with a page of traceback: what matters is raised."""
    from orbax.checkpoint import v1

    logging.getLogger("absl").addFilter(_not_from_orbax)
    return v1


def _alone(orbax: Any) -> AbstractContextManager[Any]:
    """Of several processes each reads for itself, and Orbax must not wait for the others: one of them may fail."""
    if jax.process_count() == 1:
        return nullcontext()
    own = jax.process_index()
    options = orbax.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix="fcjax"
    )
    return orbax.Context(multiprocessing_options=options)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _unused(path: Path) -> Path:
    number = 2
    while path.exists():
        path = path.with_name(f"{path.name.split('-')[0]}-{number}")
        number += 1
    return path
