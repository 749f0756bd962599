"""How far rounding moves the reference, and how accurate both sides are in the working precision.

Gradients are looked at one by one, as they arise: a set of them is as large as the model.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from compare.legs.flax_leg import FlaxLeg
from compare.legs.run import Case, Reduce, Run
from compare.legs.torch_leg import TorchLeg
from compare.result import Leaf
from compare.verdict import GRADIENT_PRECISION_FACTOR, compare_arrays, deviation, least_spread

__all__ = ["PERTURBED_RUNS", "flax_in_working_precision", "moved_by_rounding", "spreads", "working_precision"]

# Perturbed runs of the reference: with three the largest of them reaches half of the true spread nine times in ten,
# which the factors of the verdict cover. Where few numbers are moved all of them may miss the sensitive direction;
# there more runs cost nothing; of a large model, whose arrays' spread is the largest of many numbers, two are enough.
PERTURBED_RUNS = 3
_PERTURBED_RUNS_IF_SMALL = 8
_SMALL = 1000


def moved_by_rounding(
    torch64: TorchLeg,
    case: Case,
    reference: Run,
    seed: int,
    edit: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Run:
    """How far a rounding of weights, inputs and module outputs moves each array of the reference."""
    runs = _PERTURBED_RUNS_IF_SMALL if torch64.size < _SMALL else PERTURBED_RUNS
    if torch64.large:
        runs = 1 if case.forward_only else 2

    def perturbed(k: int, reduce: Reduce) -> Run:
        return torch64.run(case, perturbation=seed + k, edit=edit(), reduce=reduce)

    return spreads(reference, (functools.partial(perturbed, k) for k in range(runs)), "float64")


def working_precision(
    torch32: TorchLeg,
    case: Case,
    reference: Run,
    seed: int,
    edit: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> tuple[Run | None, Run | None]:
    """torch's own outputs in the working precision, and how far all is from ``reference`` in place of each array."""
    if case.forward_only:
        return None, None
    plain: list[Run] = []

    def run(reduce: Reduce, perturbation: int | None) -> Run:
        found = torch32.run(case, perturbation=perturbation, edit=edit(), reduce=reduce)
        plain.append(dataclasses.replace(found, parameter_gradients={}, input_gradients={}))
        return found

    try:
        perturbations = (None, seed) if torch32.large else (None, seed, seed + 1)
        runs = (functools.partial(run, perturbation=k) for k in perturbations)
        error = spreads(reference, runs, "float32")
    except Exception:  # torch has no kernel for some operations in 16 bits; then there is no accuracy to compare with
        if torch32.low is None:
            raise
        return None, None
    return plain[0], error


def flax_in_working_precision(
    flax32: FlaxLeg, case: Case, reference: Run, error32: Run | None
) -> tuple[Run, dict[str, Leaf]]:
    """Flax's own outputs in the working precision, and each of its gradients compared with ``reference``.

    Where torch's own gradient is not finite there is no standard: then any error is allowed.
    """
    leaves: dict[str, Leaf] = {}

    def compare(field: str, path: str, array: np.ndarray) -> None:
        expected = getattr(reference, field).get(path)
        if expected is None or expected.shape != array.shape:
            return
        standard = error32 is not None and bool(np.isfinite(expected).all())
        room = GRADIENT_PRECISION_FACTOR * float(getattr(error32, field)[path]) if standard else np.inf
        name = path if field == "parameter_gradients" else f"input {path}"
        leaves[name] = compare_arrays(f"gradient of {name}", expected, array, room)

    found = flax32.run(case, reduce=compare)
    return dataclasses.replace(found, parameter_gradients={}, input_gradients={}), leaves


def spreads(reference: Run, runs: Iterable[Callable[[Reduce], Run]], dtype: str) -> Run:
    """In place of each array of ``reference`` its spread over ``runs``, whose gradients are looked at one by one."""
    largest: dict[tuple[str, str], float] = {}

    def look(field: str, path: str, array: np.ndarray) -> None:
        expected = getattr(reference, field).get(path)
        if expected is not None and np.issubdtype(expected.dtype, np.floating):
            largest[field, path] = max(largest.get((field, path), 0.0), deviation(expected, array))

    for run in runs:
        found = run(look)
        for field in ("outputs", "statistics"):
            for path, array in getattr(found, field).items():
                look(field, path, array)
    fields: dict[str, dict[str, Any]] = {}
    for field, path, array in _arrays(reference):
        key = field, path
        size = max(largest[key], least_spread(array, dtype)) if key in largest else 0.0
        fields.setdefault(field, {})[path] = np.array(size)
    outputs = fields.pop("outputs", {})
    return Run(
        outputs, fields.get("parameter_gradients", {}), fields.get("input_gradients", {}), fields.get("statistics", {})
    )


def _arrays(run: Run) -> Iterator[tuple[str, str, np.ndarray]]:
    for field in ("outputs", "parameter_gradients", "input_gradients", "statistics"):
        for path, array in getattr(run, field).items():
            if array is not None:
                yield field, path, array
