"""Inputs that seek exposure.

A single well-behaved input hides an epsilon, a clipped range, a variance computed by cancellation, an index that never
occurs, and every mistake that mixes the samples of a batch of one.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from compare.legs.lookups import Lookup
from compare.legs.run import TIES
from compare.structure import Call, exact, flatten, is_floating, rebuild

__all__ = [
    "CANCELLING",
    "Ranges",
    "bare",
    "free_inputs",
    "has_ties",
    "moved_off_ties",
    "other_batch",
    "other_lengths",
    "probes",
]

Arrays = dict[str, np.ndarray]

CANCELLING = ("tiny variance", "large mean")
"""Probes that vary little about a large mean."""


class Ranges:
    """What integer inputs are drawn from: the user's bounds, else the table they index, else what was observed.

    Args:
        given: the user's, input path -> (low, high), both included.
        lookups: the tables by full path.
    """

    def __init__(self, given: Mapping[str, tuple[int, int]], lookups: Mapping[str, Lookup]) -> None:
        self._given = given
        self._lookups = lookups

    def sequence(self, call: Call, length: int) -> bool:
        """Whether an axis of ``length``, samples apart, holds indices into a table."""
        inputs = flatten(call)
        return any(length in inputs[path].shape[1:] for path in self._lookups if path in inputs)

    def draw(self, path: str, array: np.ndarray, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Integers of ``shape`` for the input at ``path``, the extreme ones among them."""
        lookup = self._lookups.get(path)
        given = self._given.get(bare(path), self._given.get(path))
        low, high = given or (int(array.min()), int(array.max()))
        corners = [low, high]
        if given is None and lookup is not None:
            low, high = min(low, 0), lookup.size - 1
            corners = [high, low, *([lookup.padding] if lookup.padding is not None else [])]
        drawn = random.integers(low, high + 1, shape)
        # Rows that a table hardly ever gives (padding, the last one) are looked up at random places.
        places = random.permutation(drawn.size)[: len(corners)]
        np.put(drawn, places, corners[: len(places)])
        return drawn.astype(array.dtype)


def bare(path: str) -> str:
    """A path of a call as users write it: "0" for "args.0", "mask" for "kwargs.mask"."""
    return path.partition(".")[2]


def free_inputs(call: Call, frozen: frozenset[str]) -> Arrays:
    """The arrays of ``call`` that probes may change."""
    return {p: a for p, a in flatten(call).items() if p not in frozen and bare(p) not in frozen and a.size}


def has_ties(call: Call) -> bool:
    """Whether floating inputs hold exact zeros, or a number twice."""
    floating = [array for array in flatten(call).values() if is_floating(array)]
    return any(not array.all() or np.unique(array).size < array.size for array in floating)


def moved_off_ties(call: Call, frozen: frozenset[str], seed: int) -> Call:
    """``call`` with its free inputs moved by a hundredth of their size."""
    random = np.random.default_rng(seed)
    moved = {
        path: exact(array + 1e-2 * _size(array) * random.standard_normal(array.shape))
        for path, array in free_inputs(call, frozen).items()
        if is_floating(array)
    }
    return rebuild(call, moved)


def probes(call: Call, inputs: Arrays, ranges: Ranges, seed: int) -> Iterator[tuple[str, Call, str]]:
    """Calls of the same shapes: name, call, and in which circumstance right ports may differ.

    Args:
        call: the user's.
        inputs: its arrays that may change.
        ranges: of the integer ones.
        seed: of what is drawn.
    """
    random = np.random.default_rng(seed)
    floating = {path: array for path, array in inputs.items() if is_floating(array)}
    integers = {path: array for path, array in inputs.items() if np.issubdtype(array.dtype, np.integer)}
    drawn = {path: ranges.draw(path, array, random, array.shape) for path, array in integers.items()}

    def made(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Call:
        changed = {path: exact(change(array, random.standard_normal(array.shape))) for path, array in floating.items()}
        return rebuild(call, changed | drawn)

    if not floating:
        if integers:
            yield "other integers", rebuild(call, drawn), ""
        return
    yield "large inputs", made(lambda array, normal: 30.0 * _size(array) * normal), ""
    yield "tiny variance", made(lambda array, normal: _size(array) * (0.5 + 1e-3 * normal)), ""
    yield "large mean", made(lambda array, normal: _size(array) * (300.0 + normal)), ""
    yield "zeros and ties", made(_with_ties), TIES


def _with_ties(array: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Few distinct values, and the first sample all zeros."""
    tied = _size(array) * np.round(normal)
    if array.ndim and array.shape[0] > 1:
        tied[0] = 0.0
    return tied


def other_batch(call: Call, frozen: frozenset[str], ranges: Ranges, seed: int) -> Iterator[Call]:
    """Calls with one sample or with more; the likeliest guess of what a sample is comes first.

    The samples lie along the first axis of the first array. Other arrays have a batch axis if their first is as long.
    """
    inputs = flatten(call)
    first = next((array for array in inputs.values() if array.ndim and array.size), None)
    if first is None:
        return
    count = first.shape[0]
    alike = {path: array for path, array in inputs.items() if array.ndim and array.shape[0] == count}
    same_rank = {path: array for path, array in alike.items() if array.ndim == first.ndim}
    groups = [alike] if len(same_rank) == len(alike) else [alike, same_rank]
    # One sample shows what is squeezed away; a batch norm in training refuses it, but takes one more than given.
    for chosen, samples in itertools.product(groups, [3] if count == 1 else [1, count + 1]):
        rows = np.arange(samples) % count
        random = np.random.default_rng(seed)
        made = {path: array[rows] for path, array in chosen.items()}
        for path in free_inputs(call, frozen).keys() & made.keys():  # samples of their own, not copies
            new = made[path][count:]
            if is_floating(new):
                made[path][count:] = exact(new + _size(chosen[path]) * random.standard_normal(new.shape))
            elif np.issubdtype(new.dtype, np.integer):
                made[path][count:] = ranges.draw(path, chosen[path], random, new.shape)
        yield rebuild(call, made)


def other_lengths(call: Call) -> Iterator[tuple[int, Call]]:
    """Calls in which all axes of one length, samples apart, are one shorter: that length, and the call."""
    inputs = flatten(call)
    first = next((array for array in inputs.values() if array.ndim and array.size), None)
    if first is None:
        return
    lengths = dict.fromkeys(size for array in inputs.values() for size in array.shape[1:] if size > 2)
    for length in lengths:
        yield length, rebuild(call, {p: _shortened(a, {length}, first.shape[0]) for p, a in inputs.items()})


def _shortened(array: np.ndarray, lengths: set[int], samples: int) -> np.ndarray:
    cuts = (
        slice(size - 1) if size in lengths and (axis > 0 or size != samples) else slice(None)
        for axis, size in enumerate(array.shape)
    )
    return np.array(array[tuple(cuts)])


def _size(array: np.ndarray) -> float:
    size = float(np.sqrt(np.mean(np.square(array)))) if np.isfinite(array).all() else 0.0
    return size or 1.0
