"""How data gets to the devices: all of it at the start, or chunk by chunk while the chunk before is worked on.

Either way a step sees the same rows, in the same program but for where it finds them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from fcjax.agreement import everyone
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.epoch import Arrays, Plan, sample_order
from fcjax.memory_size import readable_size
from fcjax.parallel import Parallel

__all__ = ["TRAIN", "Chunk", "Resident", "Streamed", "make_feed"]

TRAIN = "train"
EVALUATION_BATCH = 1000
# Of a device's memory, for data; the rest is for parameters, moments and activations.
FRACTION = 0.5


@dataclass(frozen=True)
class Chunk:
    """Consecutive steps of one pass over one part: from ``first`` up to, not including, ``last``."""

    part: str
    epoch: int
    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of steps."""
        return self.last - self.first


class Resident:
    """All parts lie on every device.

    Args:
        parallel: the devices.
        splits: by part.
        plans: how the rows of each part are shared out.
        segments: into how many pieces each pass is cut.
    """

    own_per_replica = False

    def __init__(
        self, parallel: Parallel, splits: Mapping[str, Split], plans: Mapping[str, Plan], segments: Mapping[str, int]
    ) -> None:
        self.plans = dict(plans)
        self.ends = {part: _ends(plan.steps, segments[part]) for part, plan in plans.items()}
        self._data = {part: parallel.share(Arrays(**split.arrays())) for part, split in splits.items()}

    def __str__(self) -> str:
        return "data on the devices"

    def example(self, chunk: Chunk) -> dict[str, Any]:
        """What a program for ``chunk`` is compiled for: arguments of ``Parallel.compile``."""
        return {"shared": (self._data[chunk.part],)}

    def take(self, chunk: Chunk) -> Arrays:
        """The data for ``chunk``."""
        return self._data[chunk.part]

    def fetch_after(self, chunk: Chunk) -> None:
        """There is nothing to fetch."""


class Streamed:
    """Two chunks at a time are on the devices: the one that is worked on, and the next.

    Each device holds only its own rows of them. With several replicas, each with an order of its own, a training chunk
    holds the rows of all.

    Args:
        parallel: the devices.
        splits: by part; their arrays may be memory-mapped files.
        plans: how the rows of each part are shared out.
        segments: into how many pieces each pass is cut at least.
        limit: bytes on each device for both chunks.
        keys: of the order of samples, one per replica; one for all where they share it.
        epochs: of the run; nothing is fetched for a further one.

    Raises:
        UsageError: the limit is below two batches.
    """

    def __init__(
        self,
        parallel: Parallel,
        splits: Mapping[str, Split],
        plans: Mapping[str, Plan],
        segments: Mapping[str, int],
        limit: int,
        keys: Sequence[jax.Array],
        epochs: int,
    ) -> None:
        self.plans = dict(plans)
        self.own_per_replica = len(keys) > 1
        self._parallel, self._splits, self._keys, self._epochs = parallel, dict(splits), keys, epochs
        self._ahead: tuple[Chunk, Arrays] | None = None
        self._orders: tuple[int, list[np.ndarray]] = -1, []
        step_bytes = {part: self._copies(part) * plan.share * _row_bytes(splits[part]) for part, plan in plans.items()}
        part, largest = max(step_bytes.items(), key=lambda item: item[1])
        if 2 * largest > limit:
            raise UsageError(
                f"device_memory: expected at least {readable_size(2 * largest)}, for two batches of the {part} part on "
                f"each device; found {readable_size(limit)}"
            )
        pieces = {part: -(-plan.steps // (limit // 2 // step_bytes[part])) for part, plan in plans.items()}
        self.ends = {part: _ends(plan.steps, max(segments[part], pieces[part])) for part, plan in plans.items()}
        self._largest_chunk = step_bytes[TRAIN] * -(-plans[TRAIN].steps // len(self.ends[TRAIN]))

    def __str__(self) -> str:
        count = len(self.ends[TRAIN])
        return f"data streamed, an epoch in {count} chunks of {readable_size(self._largest_chunk)} per device"

    def example(self, chunk: Chunk) -> dict[str, Any]:
        """What a program for ``chunk`` is compiled for: arguments of ``Parallel.compile``; loads nothing."""
        split = self._splits[chunk.part]
        shape = self._shape(chunk)
        arrays = {
            name: self._parallel.example((*shape, *array.shape[1:]), array.dtype)
            for name, array in split.arrays().items()
        }
        first = self._parallel.example(shape[:-1], np.dtype(np.int32))
        return {"own": (Arrays(**arrays, first=first),), "own_per_replica": self._copies(chunk.part) > 1}

    def take(self, chunk: Chunk) -> Arrays:
        """The data for ``chunk``: the one on its way if that is the right one."""
        ahead, self._ahead = self._ahead, None
        return ahead[1] if ahead and ahead[0] == chunk else self._load(chunk)

    def fetch_after(self, chunk: Chunk) -> None:
        """Reads what most likely follows on ``chunk`` and sends it off, while the devices are busy with ``chunk``."""
        following = self._following(chunk)
        self._ahead = (following, self._load(following)) if following else None

    def _following(self, chunk: Chunk) -> Chunk | None:
        """The next piece of the pass, else the first of the next part; after the last part the next epoch begins."""
        for end in self.ends[chunk.part]:
            if end > chunk.last:
                return Chunk(chunk.part, chunk.epoch, chunk.last, end)
        parts = [*self.ends, TRAIN]
        part = parts[parts.index(chunk.part) + 1]
        epoch = chunk.epoch + (part == TRAIN)
        return Chunk(part, epoch, 0, self.ends[part][0]) if epoch < self._epochs else None

    def _load(self, chunk: Chunk) -> Arrays:
        split, plan = self._splits[chunk.part], self.plans[chunk.part]
        orders = self._order(chunk.epoch) if chunk.part == TRAIN else None
        steps = np.arange(chunk.first, chunk.last)[:, None]

        def rows(source: np.ndarray, device: int) -> np.ndarray:
            places = plan.places(steps, device).ravel()  # (length, share) -> (length * share,)
            if orders is None:
                return source[places]
            picked = [source[order[places]] for order in orders]
            return np.stack(picked) if self.own_per_replica else picked[0]

        shape = self._shape(chunk)

        def send(source: np.ndarray) -> jax.Array:
            return self._parallel.spread((*shape, *source.shape[1:]), source.dtype, partial(rows, source))

        first = np.full(shape[1:-1], chunk.first, np.int32)
        sent = self._parallel.spread(shape[:-1], first.dtype, lambda device: first)
        return Arrays(**{name: send(array) for name, array in split.arrays().items()}, first=sent)

    def _order(self, epoch: int) -> list[np.ndarray]:
        """The order of samples of each replica, kept for as long as the epoch lasts."""
        if self._orders[0] != epoch:
            samples = self.plans[TRAIN].samples
            with self._parallel.on_the_host():
                self._orders = epoch, [np.asarray(sample_order(key, epoch, samples)) for key in self._keys]
        return self._orders[1]

    def _copies(self, part: str) -> int:
        return len(self._keys) if part == TRAIN else 1

    def _shape(self, chunk: Chunk) -> tuple[int, ...]:
        """Devices, replicas where they go apart, rows."""
        copies = self._copies(chunk.part)
        rows = chunk.length * self.plans[chunk.part].share
        return (len(self._parallel.devices), *((copies,) if copies > 1 else ()), rows)


def make_feed(
    parallel: Parallel, dataset: Dataset, config: TrainConfig, keys: Sequence[jax.Array]
) -> Resident | Streamed:
    """All data on the devices if it fits there, else streamed; in all processes alike.

    Args:
        parallel: the devices.
        dataset: all of its parts.
        config: ``device_memory`` is the limit; without it half of what the device has, where it says so.
        keys: of the order of samples, one per replica.

    Raises:
        UsageError: the limit is below two batches.
    """
    splits, devices = dataset.parts(), len(parallel.devices)
    rows = {part: config.batch_size if part == TRAIN else min(EVALUATION_BATCH, len(s)) for part, s in splits.items()}
    plans = {part: Plan(len(split), rows[part], devices) for part, split in splits.items()}
    segments = {part: config.segments if part == TRAIN else 1 for part in splits}
    limit = config.device_bytes or _fraction_of_memory(parallel)
    whole = sum(array.nbytes for split in splits.values() for array in split.arrays().values())
    if not limit or whole <= limit:
        return Resident(parallel, splits, plans, segments)
    if config.swept:
        keys = keys[:1]  # the same seed and so the same order for all
    return Streamed(parallel, splits, plans, segments, limit, keys, config.epochs)


def _fraction_of_memory(parallel: Parallel) -> int:
    """Bytes for data on each device, the least of all devices of all processes; 0 where that is not known."""
    return int(FRACTION * min(everyone(parallel.device_memory)))


def _row_bytes(split: Split) -> int:
    return sum(array.nbytes for array in split.arrays().values()) // len(split)


def _ends(steps: int, pieces: int) -> list[int]:
    """Where the pieces of a pass end; no two lengths differ by more than one."""
    pieces = min(pieces, steps)
    return [steps * (piece + 1) // pieces for piece in range(pieces)]
