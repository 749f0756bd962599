"""Where two computations first part: checkpoints of both sides, paired and compared in the order of execution."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from compare.legs.watch import Checkpoint, Edge
from compare.mapping.weight_mapping import WeightMapping
from compare.result import Divergence
from compare.verdict import SAMENESS_FACTOR, compare_arrays, spread

__all__ = ["Place", "Room", "alignment", "compare_places", "entrance", "first_divergence", "pair_modules", "rooms"]


@dataclasses.dataclass(frozen=True)
class Place:
    """One checkpoint on both sides.

    Args:
        module, flax_path: its names.
        edge: what went in, or what came out.
        number: of the checkpoint in torch's order.
        error, allowed: largest difference of the values, and what rounding explains.
        gradient_error, gradient_allowed: the same for the gradients.
        same_indices: whether the integer arrays there are equal too, where they can be compared.
        same_shapes: whether the arrays have one shape on both sides.
    """

    module: str
    flax_path: str
    edge: Edge
    number: int
    error: float
    allowed: float
    gradient_error: float = 0.0
    gradient_allowed: float = 0.0
    same_indices: bool = True
    same_shapes: bool = True

    @property
    def agrees(self) -> bool:
        """Whether the values agree."""
        return self.error <= self.allowed

    @property
    def gradient_agrees(self) -> bool:
        """Whether the gradients agree."""
        return self.gradient_error <= self.gradient_allowed


def pair_modules(mapping: WeightMapping, torch_names: Iterable[str], flax_paths: Iterable[str]) -> dict[str, str]:
    """torch module name -> Flax path, as the weights tie them together, and by name where a module holds none.

    A module is paired with the innermost Flax module that holds all of its weights, provided that one holds no weights
    of another torch module beside it.
    """
    torch_names, flax_paths = list(dict.fromkeys(torch_names)), set(flax_paths)
    pairs: dict[str, str] = {}
    for name in torch_names:
        targets = [rule.target for rule in mapping.rules if _within(rule.source, name)]
        if not targets:
            continue
        path = _common_prefix(targets)
        back = [rule.source for rule in mapping.rules if _within(rule.target, path)]
        if path in flax_paths and all(_within(source, name) for source in back):
            pairs[name] = path
    taken = set(pairs.values())
    for name in torch_names:
        parent, _, leaf = name.rpartition(".")
        path = f"{pairs[parent]}.{leaf}" if parent in pairs else name
        if name not in pairs and path in flax_paths and path not in taken:
            pairs[name] = path
    return pairs


def _within(name: str, prefix: str) -> bool:
    return name.startswith(prefix + ".") if prefix else True


def _common_prefix(paths: Sequence[str]) -> str:
    parts = [path.split(".")[:-1] for path in paths]
    common = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return ".".join(column[0] for column in common)


@dataclasses.dataclass(frozen=True)
class Room:
    """What rounding explains at one checkpoint: for each array, and for its gradient."""

    arrays: tuple[float, ...]
    gradients: tuple[float, ...]


def rooms(
    reference: Sequence[Checkpoint],
    perturbed: Sequence[Sequence[Checkpoint]],
    slack: float = 0.0,
    dtype: str = "float64",
) -> list[Room]:
    """The allowance at every checkpoint, measured on perturbed runs, and ``slack`` times the largest value."""
    found = []
    for number, ours in enumerate(reference):
        moved = [run[number] for run in perturbed if number < len(run)]
        arrays = tuple(
            _allowed(array, [run.arrays[i] for run in moved], slack, dtype) for i, array in enumerate(ours.arrays)
        )
        gradients = tuple(
            _allowed(
                _or_zeros(g, ours.arrays[i]),
                [_or_zeros(run.gradients[i], ours.arrays[i]) for run in moved],
                slack,
                dtype,
            )
            for i, g in enumerate(ours.gradients)
        )
        found.append(Room(arrays, gradients))
    return found


def compare_places(
    reference: Sequence[Checkpoint],
    room: Sequence[Room],
    found: Sequence[Checkpoint],
    pairs: Mapping[str, str],
    start: int = 0,
) -> list[Place]:
    """The checkpoints that both sides have, in torch's order of execution.

    The k-th call of a torch module is compared with the k-th call of its Flax partner; arrays of other layouts are
    compared under the permutation of axes that brings them closest. Those before number ``start`` are left out.
    """
    theirs: dict[tuple[str, Edge], list[Checkpoint]] = defaultdict(list)
    for checkpoint in found:
        theirs[checkpoint.module, checkpoint.edge].append(checkpoint)
    calls: dict[tuple[str, Edge], int] = defaultdict(int)
    places = []
    for number, ours in enumerate(reference):
        key = pairs.get(ours.module, ""), ours.edge
        call = calls[key]
        calls[key] += 1
        if number >= start and key[0] and call < len(theirs[key]) and number < len(room):
            places.append(_place(number, ours, room[number], theirs[key][call]))
    return [place for place in places if place.same_shapes or not _prepared(place, places)]


def _prepared(place: Place, places: Sequence[Place]) -> bool:
    """Whether this is the input of a module that one side pads or reshapes in front of it: what comes out is alike."""
    after = [p for p in places if p.number > place.number and (p.module, p.edge) == (place.module, "output")]
    return place.edge == "input" and bool(after) and after[0].same_shapes


def _place(number: int, ours: Checkpoint, room: Room, other: Checkpoint) -> Place:
    values = gradients = (0.0, 0.0)
    alike = True
    # Where one side hands on an array once and the other thrice (query, key, value), so does its gradient fall apart.
    flowing = other.gradients if len(ours.arrays) == len(other.arrays) else ()
    for i, (array, found) in enumerate(zip(ours.arrays, other.arrays, strict=False)):
        permutation = alignment(array, found)
        aligned = found if permutation is None else np.transpose(found, permutation)
        leaf = compare_arrays("", array, aligned, room.arrays[i] if i < len(room.arrays) else 0.0)
        alike = alike and array.shape == aligned.shape
        values = _worse(values, (np.inf if leaf.detail else leaf.error, leaf.allowed))
        if i >= min(len(ours.gradients), len(flowing), len(room.gradients)) or leaf.detail:
            continue
        theirs = _or_zeros(flowing[i], found)
        theirs = theirs if permutation is None else np.transpose(theirs, permutation)
        leaf = compare_arrays("", _or_zeros(ours.gradients[i], array), theirs, room.gradients[i])
        gradients = _worse(gradients, (np.inf if leaf.detail else leaf.error, leaf.allowed))
    same = _same_indices(ours.indices, other.indices)
    return Place(
        ours.module, other.module, ours.edge, number, *values, *gradients, same_indices=same, same_shapes=alike
    )


def _same_indices(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> bool:
    """Leading axes of one are broadcast, as positions are; where each side has its own arrays nothing is said."""
    if len(ours) != len(theirs):
        return True
    return all(np.array_equal(_without_ones(a), _without_ones(b)) for a, b in zip(ours, theirs, strict=True))


def _without_ones(array: np.ndarray) -> np.ndarray:
    while array.ndim and len(array) == 1:
        array = array[0]
    return array


def _allowed(array: np.ndarray, moved: Sequence[np.ndarray], slack: float, dtype: str) -> float:
    fitting = [run for run in moved if run.shape == array.shape]
    return SAMENESS_FACTOR * spread(array, fitting, dtype) + slack * float(np.abs(array).max(initial=0.0))


def _or_zeros(gradient: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    return np.zeros(like.shape) if gradient is None else gradient


def _worse(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """Of two (error, allowed) the one that exceeds its allowance by more."""
    return b if not b[0] * (a[1] or 1e-300) < a[0] * (b[1] or 1e-300) else a


def alignment(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, ...] | None:
    """The permutation of ``theirs`` that comes closest to ``ours``; None for none, or where no shape fits."""
    n = ours.ndim
    if theirs.ndim != n or n < 3 or n > 5:
        return None
    candidates = [tuple(range(n)), (0, n - 1, *range(1, n - 1)), (0, *range(2, n), 1), (1, 0, *range(2, n))]
    fitting = [p for p in candidates if tuple(theirs.shape[axis] for axis in p) == ours.shape]
    if not fitting:
        return None
    with np.errstate(invalid="ignore"):
        return min(
            fitting, key=lambda p: float(np.nan_to_num(np.abs(np.transpose(theirs, p) - ours), nan=np.inf).max())
        )


# What arises before a checkpoint on the way in arose in front of the module, on the way out inside it.
_WHERE: dict[Edge, Literal["inside", "before"]] = {"input": "before", "output": "inside"}


def first_divergence(
    places: Sequence[Place], output: tuple[float, float], parameters: Sequence[str], inputs: tuple[float, float]
) -> Divergence | None:
    """Where the two computations first part, forward, and if they do not, backward.

    Args:
        places: of one case.
        output: error and allowance of the model's outputs.
        parameters: torch names of parameters whose gradients differ.
        inputs: error and allowance of the gradients of the model's inputs.
    """
    place = next((place for place in places if not place.agrees), None)
    if place is not None:
        where = _WHERE[entrance(places, place).edge]
        return Divergence("forward", where, place.module, place.flax_path, place.error, place.allowed)
    if not output[0] <= output[1]:
        return Divergence("forward", "inside", "", "", *output)
    return _backward(places, parameters, inputs)


def entrance(places: Sequence[Place], place: Place) -> Place:
    """The input of ``place``'s module, where integers that went in already differ; else ``place`` itself."""
    before = [p for p in places if p.number < place.number and (p.module, p.edge) == (place.module, "input")]
    return place if place.edge == "input" or not before or before[-1].same_indices else before[-1]


def _backward(places: Sequence[Place], parameters: Sequence[str], inputs: tuple[float, float]) -> Divergence | None:
    for number in reversed(range(len(places))):
        place = places[number]
        if place.gradient_agrees:
            continue
        error, allowed = place.gradient_error, place.gradient_allowed
        if number + 1 == len(places):
            return Divergence("backward", "inside", "", "", error, allowed)
        later = places[number + 1]
        return Divergence("backward", _WHERE[later.edge], later.module, later.flax_path, error, allowed)
    owners = [name.rpartition(".")[0] for name in parameters]
    for place in reversed(places):
        if place.module in owners:
            return Divergence("backward", "inside", place.module, place.flax_path, np.inf, 0.0)
    if owners:
        return Divergence("backward", "inside", owners[-1], "", np.inf, 0.0)
    if not inputs[0] <= inputs[1]:
        module, path = (places[0].module, places[0].flax_path) if places else ("", "")
        return Divergence("backward", "before" if places else "inside", module, path, *inputs)
    return None
