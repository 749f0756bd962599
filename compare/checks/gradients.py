"""Do gradients flow alike: to which parameters and inputs, and with the same values?"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from compare.case_weights import shape_of
from compare.checks.judge import compare_runs, judge
from compare.evidence import Evidence
from compare.legs.run import Flow, Run, flow, zeros_for_none
from compare.result import CheckResult, Leaf
from compare.structure import flatten, is_floating
from compare.verdict import NOT_FINITE_ALIKE, seen_in_float64

__all__ = ["check_gradients", "gradient_flow", "not_finite"]

_NOT_FINITE = "on probes where the port's gradient is not finite and torch's is, as at a norm of exact zeros"


def check_gradients(evidence: Sequence[Evidence], strict: bool) -> CheckResult:
    """Gradients of a random functional of the outputs for every parameter and floating input, in float64.

    "None" (no path from the parameter to the outputs) and exact zeros are equal here: the difference matters only to
    an optimiser.

    Args:
        evidence: all cases; those whose outputs are not finite say nothing about gradients.
        strict: whether a difference only at ties and zeros fails.
    """
    used = [item for item in evidence if item.finite and item.case.cotangents]
    unjudged = next((item.flax.without_gradients for item in used if item.flax.without_gradients), "")
    if evidence and not any(is_floating(array) for item in evidence for array in item.reference.outputs.values()):
        unjudged = "whole numbers are returned, which take none and do not show small differences"
    if unjudged:
        return CheckResult("gradients", "skipped", unjudged)
    found = [_set_apart(item, item.once("gradients", functools.partial(_leaves, item))) for item in used]
    result = judge("gradients", found, "gradients", strict)
    notes = _flow_notes(used)
    return dataclasses.replace(result, detail=". ".join([result.detail, *notes])) if notes else result


def not_finite(item: Evidence, leaf: Leaf) -> bool:
    """Whether the port's gradient is not finite where torch's is, on other weights than the user's.

    torch defines the gradient of a norm of exact zeros, JAX does not: weights of the check's own, and a saturated
    activation, bring a whole channel there.
    """
    return not item.case.name.startswith("given weights") and leaf.detail.endswith(NOT_FINITE_ALIKE)


def _set_apart(item: Evidence, leaves: list[Leaf]) -> tuple[Evidence, list[Leaf]]:
    differing = [leaf for leaf in leaves if not leaf.agrees]
    if item.case.aside or not differing or not all(not_finite(item, leaf) for leaf in differing):
        return item, leaves
    return dataclasses.replace(item, case=dataclasses.replace(item.case, aside=_NOT_FINITE)), leaves


def gradient_flow(evidence: Sequence[Evidence]) -> dict[str, dict[str, Flow]]:
    """For each parameter and leg, the strongest flow over all cases."""
    order: list[Flow] = ["none", "zero", "non-zero"]
    found: dict[str, dict[str, Flow]] = {}
    for item in evidence:
        for name, legs in item.once("flow", functools.partial(_flow, item)).items():
            for leg, seen in legs.items():
                before = found.setdefault(name, {}).get(leg, "none")
                found[name][leg] = max(before, seen, key=order.index)
    return found


def _flow(item: Evidence) -> dict[str, dict[str, Flow]]:
    runs = {"torch": item.reference, "flax": item.flax, "numpy": item.numpy}
    found: dict[str, dict[str, Flow]] = {}
    for name in item.reference.parameter_gradients:
        noise = _noise(item, name)
        found[name] = {
            leg: flow(run.parameter_gradients.get(name), noise) for leg, run in runs.items() if run is not None
        }
    return found


def _leaves(item: Evidence) -> list[Leaf]:
    # Measured from torch's result in float64: a mistake excuses no more than 64 * 2^-29 of itself.
    errors = {name: leaf.error for name, leaf in item.gradients32.items()}
    own = lambda path, found: seen_in_float64(errors.get(path, 0.0))  # noqa: E731
    leaves = compare_runs(_without_none(item), _arrays, _filled(item.flax, item), own=own)
    if item.numpy is not None:
        leaves += compare_runs(_without_none(item), _arrays, _filled(item.numpy, item), "NumPy")
    return leaves


def _noise(item: Evidence, name: str) -> float:
    reference = item.reference.parameter_gradients[name]
    if reference is None:
        return 0.0
    size = float(np.abs(reference).max()) if reference.size else 0.0
    variation = float(item.moved.parameter_gradients[name] or 0.0)
    return size if size <= variation else 0.0  # a gradient below its own rounding noise is zero


def _arrays(run: Run) -> Mapping[str, np.ndarray]:
    named = {**run.parameter_gradients, **{f"input {path}": g for path, g in run.input_gradients.items()}}
    return {name: gradient for name, gradient in named.items() if gradient is not None}


def _without_none(item: Evidence) -> Evidence:
    return dataclasses.replace(
        item,
        reference=_filled(item.reference, item),
        moved=_filled(item.moved, item),
        constants=None if item.constants is None else _filled(item.constants, item),
    )


def _filled(run: Run, item: Evidence) -> Run:
    """``run`` with zeros for gradients that do not flow, and for parameters that the leg does not list."""
    parameters = {name: shape_of(item.case.weights, name) for name in item.reference.parameter_gradients}
    inputs = {path: _input_shape(item, path) for path in item.flax.input_gradients}  # none for a Flax call of its own
    return dataclasses.replace(
        run,
        parameter_gradients=zeros_for_none(run.parameter_gradients, parameters),
        input_gradients=zeros_for_none(run.input_gradients, inputs),
    )


def _input_shape(item: Evidence, path: str) -> tuple[int, ...]:
    return tuple(flatten(item.case.call)[path].shape)


def _flow_notes(evidence: Sequence[Evidence]) -> list[str]:
    notes = []
    for name, legs in gradient_flow(evidence).items():
        if set(legs.values()) <= {"none", "zero"}:
            kinds = ", ".join(f"{kind} in {leg}" for leg, kind in legs.items())
            notes.append(f"{name} takes no gradient on any leg ({kinds})")
    return notes
