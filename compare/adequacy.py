"""Did the check exercise everything it speaks of?"""

import dataclasses
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from compare.case_weights import Replaced
from compare.checks.gradients import gradient_flow
from compare.evidence import Evidence
from compare.legs.run import Case
from compare.legs.torch_leg import TorchLeg
from compare.result import CheckResult
from compare.structure import flatten, is_floating

__all__ = ["Idle", "check_adequacy", "reached_rows", "turned_over", "unexercised"]

_NAMES_SHOWN = 6


Idle = Mapping[str, np.ndarray]
"""Parameter name -> for each of its rows, whether it was never exercised."""


def check_adequacy(evidence: Sequence[Evidence], idle: Idle = types.MappingProxyType({})) -> CheckResult:
    """Judges all cases together: agreement about nothing is no agreement.

    Inconclusive when every output is non-finite, when all outputs are the same whatever goes in, when no gradient
    reaches any parameter of a model that has some, when there never was more than one sample, or only equal ones, and
    when something that could move the outputs never did. A parameter without influence on any leg is a note.

    Args:
        evidence: all cases.
        idle: from ``unexercised``.
    """
    finite = [item for item in evidence if item.finite]
    flows = gradient_flow(_judged(finite))
    dead = [name for name, legs in flows.items() if set(legs.values()) <= {"none", "zero"}]
    reason = _nothing_shown(finite)
    if not reason and flows and len(dead) == len(flows):
        reason = "no gradient reaches any parameter in any case"
    if not reason and idle:
        words = [_words(name, rows) for name, rows in idle.items()]
        more = f" and {len(words) - _NAMES_SHOWN} more" if len(words) > _NAMES_SHOWN else ""
        shown = ", ".join(words[:_NAMES_SHOWN]) + more
        reason = f"never exercised, since a unit is dead or saturated in every case: {shown}"
    if reason:
        return CheckResult("adequacy", "inconclusive", reason)
    detail = f"{len(flows) - len(dead)} of {len(flows)} parameters take a gradient in {len(finite)} cases"
    if dead:
        return CheckResult("adequacy", "noted", f"{detail}; dead on every leg: {', '.join(dead)}")
    return CheckResult("adequacy", "passed", detail)


def _judged(evidence: Sequence[Evidence]) -> list[Evidence]:
    """The cases whose gradients decide: what shows only where right ports may differ was not tried."""
    return [item for item in evidence if item.finite and item.case.cotangents and not item.case.aside]


def _nothing_shown(evidence: Sequence[Evidence]) -> str:
    if not evidence:
        return "the torch model's outputs are not finite in any case"
    if _constant(evidence):
        return "the outputs are the same for all inputs and weights tried"
    samples = [_samples(item.case) for item in evidence]
    if all(rows == [1] for rows in samples):
        return "a batch of one in every case: what mixes the samples of a batch can't show"
    if all(rows == ["alike"] for rows in samples):
        return "the samples of the batch are all alike in every case: what mixes them can't show"
    return ""


def _samples(case: Case) -> list[int | str]:
    """How many samples there are, or that they are all alike; empty where there is no array."""
    arrays = [array for array in flatten(case.call).values() if array.ndim and array.size]
    if not arrays:
        return []
    count = len(arrays[0])
    alike = all(
        np.array_equal(array, np.broadcast_to(array[:1], array.shape)) for array in arrays if len(array) == count
    )
    return ["alike"] if alike and count > 1 else [count]


def _constant(evidence: Sequence[Evidence]) -> bool:
    first = evidence[0].reference.outputs
    if len(evidence) == 1:
        return all(array.size == 0 or not array.any() for array in first.values())
    return all(
        np.array_equal(item.reference.outputs[path], array) for item in evidence[1:] for path, array in first.items()
    )


def unexercised(evidence: Sequence[Evidence], torch64: TorchLeg) -> dict[str, np.ndarray]:
    """Parameters, and single units of them, that never took a gradient and yet move the outputs when they change.

    A unit that is dead or saturated in every case hides whatever the port does with it. What moves nothing however far
    it is changed has no influence, which is no fault of the check.
    """
    used = _judged(evidence)
    bases = [item.case for item in used if not item.case.driven][:2]
    outputs = functools.cache(lambda number: torch64.outputs(dataclasses.replace(bases[number], cotangents={})))
    return {
        name: rows
        for name, rows in _still(used)
        if any(_moves(torch64, base, functools.partial(outputs, k), name, rows) for k, base in enumerate(bases))
    }


def turned_over(weights: Mapping[str, np.ndarray], idle: Idle) -> Replaced:
    """``weights`` with the rows in ``idle`` of the other sign: what lay below zero for all samples lies above."""
    turned = {name: np.array(weights[name]) for name in idle}
    for name, rows in idle.items():
        turned[name][rows] *= -1
    return Replaced(weights, turned)


def _still(evidence: Sequence[Evidence]) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters with the rows in which torch's gradient is zero in every case, though it is defined."""
    flows = gradient_flow(evidence)
    for name, legs in flows.items():
        known = [rows[name] for item in evidence if name in (rows := reached_rows(item))]
        if not known:
            continue
        if legs["torch"] == "zero":  # to rounding, whatever its bits
            yield name, np.ones(len(known[0]), bool)
            continue
        moved = np.any(known, axis=0)
        if not moved.all():
            yield name, ~moved


def reached_rows(item: Evidence) -> dict[str, np.ndarray]:
    """For each parameter that has rows, and a gradient in torch, in which of them it is not zero."""
    return item.once(
        "rows",
        lambda: {
            name: np.asarray(gradient.reshape(len(gradient), -1).any(axis=1))
            for name, gradient in item.reference.parameter_gradients.items()
            if gradient is not None and gradient.size and gradient.ndim
        },
    )


def _moves(
    torch64: TorchLeg, case: Case, outputs: Callable[[], Mapping[str, np.ndarray]], name: str, rows: np.ndarray
) -> bool:
    """Whether other values in ``rows`` of a parameter, of its own size or far larger, change the ``outputs``."""
    try:
        before = outputs()
    except Exception:  # what torch refuses here was said before
        return False
    random = np.random.default_rng(0)
    size = float(np.sqrt(np.mean(np.square(case.weights[name])))) or 1.0

    def moved(keep: float, scale: float) -> bool:
        drawn = np.array(case.weights[name])
        drawn[rows] = keep * drawn[rows] + scale * random.standard_normal(drawn[rows].shape)
        after = torch64.outputs(dataclasses.replace(case, weights=Replaced(case.weights, {name: drawn})))
        # A key bias of 1e8 moves the outputs by its rounding, 1e-8; an influence moves them by their own size.
        return any(_differs(before[path], after[path]) for path in before if is_floating(before[path]))

    if moved(1.0, 1e-2 * size):  # rounded or compared: no gradient by nature, and seen in the outputs all the same
        return False
    return any(moved(0.0, factor * size) for factor in (1.0, 1e3, 1e8))


def _differs(before: np.ndarray, after: np.ndarray) -> bool:
    return before.size > 0 and not np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


def _words(name: str, rows: np.ndarray) -> str:
    if rows.all():
        return name
    numbers = np.flatnonzero(rows)
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f"{name} at {', '.join(str(number) for number in numbers[:3])}{more}"
