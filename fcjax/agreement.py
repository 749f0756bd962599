"""What all processes of a run must know alike before they go on."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from fcjax.config import UsageError

__all__ = ["by_first", "everyone", "from_first"]


def everyone(number: int) -> list[int]:
    """The number that each process brings, in the order of the processes. All of them must call this.

    Args:
        number: fits into 64 bits.
    """
    if jax.process_count() == 1:
        return [number]
    # As bytes: without x64, JAX would cut it to 32 bits.
    gathered = multihost_utils.process_allgather(np.array([number], np.int64).view(np.uint8))
    return [int(value) for value in np.ascontiguousarray(gathered).view(np.int64).ravel()]


def from_first(content: bytes) -> bytes:
    """What process 0 brings, in every process. All of them must call this."""
    if jax.process_count() == 1:
        return content
    size = everyone(len(content))[0]
    if not size:
        return b""
    own = np.frombuffer(content, np.uint8) if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).astype(np.uint8).tobytes()


def by_first(work: Callable[[], bytes]) -> bytes:
    """What ``work`` gives in process 0, which alone does it, in every process. All of them must call this.

    Raises:
        UsageError: in every process, where process 0 raised one.
    """
    if jax.process_count() == 1:
        return work()
    content, error = b"", None
    if jax.process_index() == 0:
        try:
            content = work()
        except UsageError as caught:
            error = caught
    message = from_first(str(error).encode() if error else b"")
    if message:
        raise error or UsageError(message.decode())
    return from_first(content)
