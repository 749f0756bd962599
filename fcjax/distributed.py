"""Several processes, on one machine or many, as one run: connecting them, and making sure that they agree."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
import numpy as np
from jax.experimental import multihost_utils

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset
from fcjax.resume import FREE, fingerprint

__all__ = ["LostProcessError", "connect", "explaining_a_lost_process", "refuse_disagreement"]


class LostProcessError(UsageError):
    """Another process of the run has died."""


HEARTBEAT_SECONDS = 30  # after a process has died, the others end within about this time
CONNECT_SECONDS = 120
SHUTDOWN_SECONDS = 120  # one that fails on its own, with a full disk, waits so long for the others


def connect(config: TrainConfig) -> None:
    """Joins the other processes of the run, if the settings name any; must come before JAX is first used.

    A process that dies takes the others down: JAX ends them with a message that names the one that died.

    Raises:
        UsageError: the others can't be reached.
    """
    if (config.coordinator is None and config.num_processes is None) or jax.distributed.is_initialized():
        return
    # "auto" leaves it to JAX to ask SLURM, Kubernetes or the TPU.
    address = None if config.coordinator == "auto" else config.coordinator
    try:
        jax.distributed.initialize(
            address,
            config.num_processes,
            config.process_id,
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        with suppress(RuntimeError):
            jax.distributed.shutdown()
        raise UsageError(
            f"coordinator: expected {config.num_processes} processes to meet at {config.coordinator}, found: "
            f"{str(error).splitlines()[0]}"
        ) from error


@contextmanager
def explaining_a_lost_process() -> Iterator[None]:
    """Says in one sentence what a broken exchange of gradients means.

    Raises:
        LostProcessError: the connection to another process broke.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0][:200]
        raise LostProcessError(f"another of the {jax.process_count()} processes has died or left: {reason}") from error


def refuse_disagreement(config: TrainConfig, dataset: Dataset) -> None:
    """Raises a ``UsageError`` in every process where one of them has other settings or other data than process 0."""
    if jax.process_count() == 1:
        return
    settings = {
        name: value
        for name, value in config.to_json().items()
        if name not in FREE - {"device_memory", "segments", "strategy"}
    }
    digests = [hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()]
    digests.append(bytes.fromhex(fingerprint(dataset)))
    every = multihost_utils.process_allgather(np.frombuffer(b"".join(digests), np.uint8).reshape(2, 32))
    for what, row in (("settings", 0), ("data", 1)):
        other = [number for number, found in enumerate(every) if (found[row] != every[0][row]).any()]
        if other:
            raise UsageError(
                f"{what}: expected the same in every process, found others than in process 0 in process "
                f"{', '.join(map(str, other))}"
            )
