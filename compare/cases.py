"""What a port is tried on: the given weights and inputs, redrawn weights, and probe inputs.

Besides the user's own call, every check runs on redrawn weights, on inputs that seek exposure, on weights that drive
every layer's output far out, where a clipped range or a threshold shows, and on calls of another size.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np

from compare.case_weights import Scaled
from compare.legs.run import TIES, Case
from compare.legs.torch_leg import TorchLeg
from compare.port import Port
from compare.probes import (
    CANCELLING,
    Ranges,
    bare,
    free_inputs,
    has_ties,
    moved_off_ties,
    other_batch,
    other_lengths,
    probes,
)
from compare.redraw import given_weights, redraw_weights
from compare.result import UsageError
from compare.structure import Call, Inputs, as_call, exact, flatten, is_floating, rebuild, to_numpy

__all__ = ["make_cases", "torch_call", "with_cotangents"]

Arrays = dict[str, np.ndarray]

# How far out the layers are driven: beyond the bounds that people clip at (relu6, a soft cap of 30 or 50, softplus's
# threshold of 20), and so far that only guards against overflow remain.
_DRIVES = (30.0, 1e3)
_FAR_DRIVE = 1e5
# Scores of this size and less, of either sign, leave nothing of an entry from which 1e4 is taken.
_HIDDEN_SCORE = 2500.0


def torch_call(port: Port) -> Call:
    """The call of the torch model, its floating arrays float64 numbers that float32 can hold."""
    call = as_call(port.inputs.torch if isinstance(port.inputs, Inputs) else port.inputs)
    arrays = {path: exact(to_numpy(array)) for path, array in flatten(call).items()}
    for path, array in arrays.items():
        if is_floating(array) and np.isnan(array).any():
            index = [int(i) for i in np.argwhere(np.isnan(array))[0]]
            raise UsageError(f"inputs: {bare(path) or path} holds NaN at {index}, of which nothing can be computed")
    return rebuild(call, arrays)


def make_cases(port: Port, torch64: TorchLeg) -> Iterator[Case]:
    """All cases of a port, without cotangents and masks; the first is the user's own.

    Masks are additions of -1e4, -1e9 or -inf as people like, alike as long as no score comes near them. Where the
    reference masks, probes under which its scores do are set aside.

    Args:
        port: what is checked.
        torch64: the reference, which tells what inputs mean and how large outputs become.
    """
    masked: bool | None = None
    for case in _cases(port, torch64):
        if masked is None:
            masked = _score(case, torch64)[1]
        probe = masked and not case.aside and not case.name.endswith("given inputs")
        if probe and _score(case, torch64)[0] > _HIDDEN_SCORE:
            case = dataclasses.replace(case, aside="where attention scores come near the masks")
        yield case
        del case  # not kept while the next one is made


def _score(case: Case, torch64: TorchLeg) -> tuple[float, bool]:
    """The largest attention score, and whether some are masked."""
    scores = _tried(torch64.scores, case)
    return (0.0, False) if scores is None else (scores.largest, scores.masked)


def _cases(port: Port, torch64: TorchLeg) -> Iterator[Case]:
    call, frozen = torch_call(port), frozenset(port.frozen)
    given, redrawn = given_weights(port.torch_model), redraw_weights(port.torch_model, port.seed + 1)
    ties = TIES if has_ties(call) else ""
    # Whatever differs only at ties and exact zeros must show as that, in the user's own inputs too.
    moved = moved_off_ties(call, frozen, port.seed + 3) if ties else call
    yield Case("given weights, given inputs", given, call, aside=ties)
    large = torch64.large
    if ties:
        yield Case("given weights, given inputs moved off ties", given, moved, forward_only=large)
        yield Case("redrawn weights, given inputs moved off ties", redrawn, moved)
    if any(not np.array_equal(given[name], redrawn[name]) for name in given):
        yield Case("redrawn weights, given inputs", redrawn, call, aside=ties, forward_only=large and bool(ties))
    far = Case("redrawn weights", redrawn, moved)
    if not isinstance(port.inputs, Inputs) or callable(port.inputs.flax):
        free = free_inputs(call, frozen)
        ranges = Ranges(port.ranges or {}, _tried(torch64.lookups, far) or {})
        for name, probe, aside in probes(call, free, ranges, port.seed + 2):
            cancels = name in CANCELLING
            name = f"redrawn weights, {name}"
            yield Case(name, redrawn, probe, aside=aside, cancels=cancels, forward_only=large)
        scaled = _scaled(
            dataclasses.replace(far, name="redrawn weights, inputs for large outputs", forward_only=large),
            free_inputs(moved, frozen),
            lambda case: _largest(torch64.outputs(case, port.seed)),
        )
        if scaled is not None:
            yield scaled
        yield from _other_sizes(far, frozen, ranges, torch64, port.seed + 4)
    yield from _driven(far, torch64)


_T = TypeVar("_T")


def _tried(compute: Callable[[Case], _T], case: Case) -> _T | None:
    """What ``compute`` makes of ``case``; None where the reference refuses it, and so has nothing to say about it."""
    try:
        return compute(case)
    except Exception:
        return None


def _largest(outputs: Arrays) -> float:
    return max((float(np.abs(array).max()) for array in outputs.values() if array.size), default=0.0)


def _driven(case: Case, torch64: TorchLeg) -> Iterator[Case]:
    """The same inputs on weights under which the layers' outputs grow large."""
    masked = _score(case, torch64)[1]
    for size in (*_DRIVES, _FAR_DRIVE):
        found = _drive(case, torch64, size)
        if found is not None and masked and size == _DRIVES[0]:
            # As far as masks still hide: scores grow with the square of what queries and keys are.
            beyond = _score(found, torch64)[0] / _HIDDEN_SCORE
            found = _drive(case, torch64, 0.9 * size / float(np.sqrt(beyond))) if beyond > 1 else found
        if found is None:
            return
        aside = f"where layers return values of {size:g}" if size == _FAR_DRIVE else ""
        yield dataclasses.replace(found, aside=aside, forward_only=torch64.large)
        del found  # not kept while the next ones are made


def _drive(case: Case, torch64: TorchLeg, size: float) -> Case | None:
    factors = _tried(lambda case: torch64.driven(case, size), case)
    if factors is None:
        return None
    weights = Scaled(case.weights, factors)
    if not all(np.isfinite(weights[name]).all() for name in factors):
        return None
    return Case(f"weights for layer outputs of {size:.3g}", weights, case.call, driven=True)


def _other_sizes(case: Case, frozen: frozenset[str], ranges: Ranges, torch64: TorchLeg, seed: int) -> Iterator[Case]:
    """Another batch size, and another length if the reference takes one."""
    given = _tried(torch64.outputs, case)
    if given is None:
        return
    refused = None
    for call in other_batch(case.call, frozen, ranges, seed):
        count = len(next(array for array in flatten(call).values() if array.ndim))
        batch = Case(f"redrawn weights, batch of {count}", case.weights, call, forward_only=True)
        outputs = _tried(torch64.outputs, batch)
        if outputs is not None:
            aside = "" if _samples_apart(given, outputs) else "with a first axis of another length"
            yield dataclasses.replace(batch, aside=aside, other_size=bool(aside))
            break
        refused = refused or batch
    else:
        if refused is not None:
            yield refused  # it is listed with the reason
    for length, call in other_lengths(case.call):
        name = f"redrawn weights, axes of {length} one shorter"
        shorter = Case(name, case.weights, call, aside="at another length than the given one", forward_only=True)
        outputs = _tried(torch64.outputs, shorter)
        if outputs is None:
            continue
        if ranges.sequence(case.call, length):  # of tokens: there are as many as a text has
            shorter = dataclasses.replace(shorter, aside="")
        yield dataclasses.replace(shorter, other_size=bool(shorter.aside) and not _follows(given, outputs, length))
        break


def _follows(given: Arrays, shorter: Arrays, length: int) -> bool:
    """Whether all that is shorter in the outputs is as long as in the inputs: no stride that rounds a length."""
    shapes = [(array.shape, shorter[path].shape) for path, array in given.items() if path in shorter]
    pairs = [pair for before, after in shapes for pair in zip(before, after, strict=False) if pair[0] != pair[1]]
    return bool(pairs) and all(pair == (length, length - 1) for pair in pairs)


def _samples_apart(given: Arrays, more: Arrays) -> bool:
    """Whether the first rows of the outputs do not notice how many samples there are: then that axis is a batch."""
    seen = False
    for path, array in given.items():
        other = more.get(path)
        if other is None or other.ndim != array.ndim or other.shape == array.shape or not array.ndim:
            continue
        common = min(len(array), len(other))
        first, second = array[:common], other[:common]
        if first.shape != second.shape:
            return False
        # Matrix products of other shapes sum in another order; a sample that is seen moves the outputs far more.
        size = _largest({"": array[np.isfinite(array)]})
        if not np.allclose(first, second, rtol=1e-6, atol=1e-6 * size, equal_nan=True):
            return False
        seen = True
    return seen


# Probabilities of e^-300 are zero in float32 and not in float64: a logarithm taken of them shows.
_LARGE_OUTPUT = 300.0


def _scaled(case: Case, free: Arrays, largest_output: Callable[[Case], float]) -> Case | None:
    """``case`` with its inputs scaled until the largest output is about 300; None where that can't be reached."""
    floating = {path: array for path, array in free.items() if is_floating(array)}

    def scaled(exponent: float) -> Case:
        arrays = {path: exact(10.0**exponent * array) for path, array in floating.items()}
        return dataclasses.replace(case, call=rebuild(case.call, arrays))

    low, high = -2.0, 6.0
    try:
        while high - low > 0.1:
            middle = (low + high) / 2
            too_large = not largest_output(scaled(middle)) <= _LARGE_OUTPUT
            low, high = (low, middle) if too_large else (middle, high)
        reached = largest_output(scaled(low))
    except Exception:  # a reference that refuses such inputs has nothing to say about them
        return None
    return scaled(low) if _LARGE_OUTPUT / 2 <= reached <= _LARGE_OUTPUT else None


def with_cotangents(case: Case, outputs: Mapping[str, np.ndarray], seed: int) -> Case:
    """``case`` with a random cotangent for every floating output, unless it is compared forward only.

    Random, since the gradient of the sum or mean of the outputs can vanish identically (after a softmax or a norm).
    """
    if case.forward_only:
        return case
    random = np.random.default_rng(seed)
    cotangents = {
        path: exact(random.standard_normal(array.shape)) for path, array in outputs.items() if is_floating(array)
    }
    return dataclasses.replace(case, cotangents=cotangents)
