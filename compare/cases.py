"""What a port is tried on: the given weights and inputs, redrawn weights, and probe inputs.

Freshly initialised weights hide mistakes: zero biases hide a dropped bias, unit scales a dropped scale. And a single
well-behaved input hides an epsilon, a clipped range or a variance computed by cancellation. So every check also runs
on redrawn weights and on inputs that seek exposure.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from compare.legs.run import Case
from compare.port import Port
from compare.result import UsageError
from compare.structure import Call, Inputs, as_call, flatten, is_floating, rebuild, to_numpy
from compare.weights import TorchLeaf, torch_leaves

__all__ = ["given_weights", "make_cases", "redraw_weights", "torch_call"]

Arrays = dict[str, np.ndarray]


def torch_call(port: Port) -> Call:
    """The call of the torch model, its floating arrays float64 numbers that float32 can hold."""
    call = as_call(port.inputs.torch if isinstance(port.inputs, Inputs) else port.inputs)
    arrays = {path: _exact(to_numpy(array)) for path, array in flatten(call).items()}
    for path, array in arrays.items():
        if is_floating(array) and np.isnan(array).any():
            index = [int(i) for i in np.argwhere(np.isnan(array))[0]]
            raise UsageError(f"inputs: {_bare(path) or path} holds NaN at {index}, of which nothing can be computed")
    return rebuild(call, arrays)


def _exact(array: np.ndarray) -> np.ndarray:
    # What both precisions are given must be the same number, or the rounding of the input would count as an error.
    return array.astype(np.float32).astype(np.float64) if is_floating(array) else array


def given_weights(model: torch.nn.Module) -> Arrays:
    """Parameters and buffers of ``model`` by name, floating ones as float64."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: _exact(to_numpy(tensor)) for name, tensor in named.items()}


def redraw_weights(model: torch.nn.Module, seed: int) -> Arrays:
    """Other weights of the same kind: each parameter at its own scale, biases non-zero, variances positive.

    Matrices are drawn anew, vectors are moved by half of their own size, and zeros become ``N(0, 1/fan_in)``. Running
    means and variances are drawn too; every other buffer (a mask, a table) stays.
    """
    random = np.random.default_rng(seed)
    leaves = torch_leaves(model)
    return {name: _redraw(leaves[name], array, random, leaves) for name, array in given_weights(model).items()}


def _redraw(
    leaf: TorchLeaf, array: np.ndarray, random: np.random.Generator, leaves: Mapping[str, TorchLeaf]
) -> np.ndarray:
    if not is_floating(array) or array.size == 0:
        return array
    normal = random.standard_normal(array.shape)
    if not leaf.parameter:
        kind = leaf.name.rpartition(".")[2]
        if kind == "running_var":
            return _exact(np.exp(normal / 2))
        return _exact(normal) if kind == "running_mean" else array
    size = float(np.sqrt(np.mean(np.square(array))))
    if not np.isfinite(size):
        return array
    if size == 0.0:
        return _exact(normal / np.sqrt(_fan_in(leaf, leaves)))
    return _exact(normal * size if array.ndim >= 2 else array + normal * size / 2)


def _fan_in(leaf: TorchLeaf, leaves: Mapping[str, TorchLeaf]) -> int:
    sibling = leaves.get(leaf.name.rpartition(".")[0] + ".weight", leaf)
    return max(int(np.prod(sibling.shape[1:])), 1)


def make_cases(port: Port, largest_output: Callable[[Case], float]) -> Iterator[Case]:
    """All cases of a port, without cotangents and masks; the first is the user's own.

    Args:
        port: what is checked.
        largest_output: the largest absolute value that the reference returns; it may raise.
    """
    call = torch_call(port)
    given, redrawn = given_weights(port.torch_model), redraw_weights(port.torch_model, port.seed + 1)
    tied = _has_ties(call)
    # Whatever differs only at ties and exact zeros must show as that, in the user's own inputs too.
    moved = _moved_off_ties(call, frozenset(port.frozen), port.seed) if tied else call
    yield Case("given weights, given inputs", given, call, kinks=tied)
    if tied:
        yield Case("given weights, given inputs moved off ties", given, moved)
        yield Case("redrawn weights, given inputs moved off ties", redrawn, moved)
    if any(not np.array_equal(given[name], redrawn[name]) for name in given):
        yield Case("redrawn weights, given inputs", redrawn, call, kinks=tied)
    if isinstance(port.inputs, Inputs) and not callable(port.inputs.flax):
        return
    free = _free_inputs(call, frozenset(port.frozen))
    for name, probe, kinks in _probes(call, free, port.ranges or {}, port.seed + 2):
        yield Case(f"redrawn weights, {name}", redrawn, probe, kinks=kinks)
    driven = _driven(
        Case("redrawn weights, inputs for large outputs", redrawn, moved),
        _free_inputs(moved, frozenset(port.frozen)),
        largest_output,
    )
    if driven is not None:
        yield driven


def _has_ties(call: Call) -> bool:
    """Whether floating inputs hold exact zeros, or a number twice."""
    floating = [array for array in flatten(call).values() if is_floating(array)]
    return any(not array.all() or np.unique(array).size < array.size for array in floating)


def _moved_off_ties(call: Call, frozen: frozenset[str], seed: int) -> Call:
    random = np.random.default_rng(seed + 3)
    moved = {
        path: _exact(array + 1e-2 * _size(array) * random.standard_normal(array.shape))
        for path, array in _free_inputs(call, frozen).items()
        if is_floating(array)
    }
    return rebuild(call, moved)


def _free_inputs(call: Call, frozen: frozenset[str]) -> Arrays:
    """The arrays of ``call`` that probes may change."""
    return {p: a for p, a in flatten(call).items() if p not in frozen and _bare(p) not in frozen and a.size}


# Probabilities of e^-300 are zero in float32 and not in float64: a logarithm taken of them shows.
_LARGE_OUTPUT = 300.0


def _driven(case: Case, free: Arrays, largest_output: Callable[[Case], float]) -> Case | None:
    """``case`` with its inputs scaled until the largest output is about 300; None where that can't be reached."""
    floating = {path: array for path, array in free.items() if is_floating(array)}

    def scaled(exponent: float) -> Case:
        arrays = {path: _exact(10.0**exponent * array) for path, array in floating.items()}
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


def _probes(
    call: Call, inputs: Arrays, ranges: Mapping[str, tuple[int, int]], seed: int
) -> Iterator[tuple[str, Call, bool]]:
    random = np.random.default_rng(seed)
    floating = {path: array for path, array in inputs.items() if is_floating(array)}
    integers = {path: array for path, array in inputs.items() if np.issubdtype(array.dtype, np.integer)}
    drawn = {path: random.integers(*_bounds(path, a, ranges), a.shape).astype(a.dtype) for path, a in integers.items()}

    def made(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Call:
        changed = {path: _exact(change(array, random.standard_normal(array.shape))) for path, array in floating.items()}
        return rebuild(call, changed | drawn)

    if not floating:
        if integers:
            yield "other integers", rebuild(call, drawn), False
        return
    yield "large inputs", made(lambda array, normal: 30.0 * _size(array) * normal), False
    yield "tiny variance", made(lambda array, normal: _size(array) * (0.5 + 1e-3 * normal)), False
    yield "large mean", made(lambda array, normal: _size(array) * (300.0 + normal)), False
    yield "zeros and ties", made(lambda array, normal: _size(array) * np.round(normal)), True


def _size(array: np.ndarray) -> float:
    size = float(np.sqrt(np.mean(np.square(array)))) if np.isfinite(array).all() else 0.0
    return size or 1.0


def _bare(path: str) -> str:
    """A path of a call as users write it: "0" for "args.0", "mask" for "kwargs.mask"."""
    return path.partition(".")[2]


def _bounds(path: str, array: np.ndarray, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    low, high = ranges.get(_bare(path), ranges.get(path, (int(array.min()), int(array.max()))))
    return low, high + 1


def with_cotangents(case: Case, outputs: Mapping[str, np.ndarray], seed: int) -> Case:
    """``case`` with a random cotangent for every floating output.

    Random, since the gradient of the sum or mean of the outputs can vanish identically (after a softmax or a norm).
    """
    random = np.random.default_rng(seed)
    cotangents = {
        path: _exact(random.standard_normal(array.shape)) for path, array in outputs.items() if is_floating(array)
    }
    return dataclasses.replace(case, cotangents=cotangents)
