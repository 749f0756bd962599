"""What is kept of a case: all of it where the sides differ, else what was found of its gradients.

A gradient is as large as the weights, and there are several in each of a dozen cases. Where both sides agree nobody
looks at them again.
"""

import dataclasses

from compare.adequacy import reached_rows
from compare.checks.gradients import check_gradients, gradient_flow
from compare.checks.outputs import check_outputs
from compare.checks.precision import float32_errors
from compare.evidence import Evidence
from compare.legs.run import Run
from compare.profile import gradient_norms

__all__ = ["condensed"]


def condensed(item: Evidence) -> Evidence:
    """``item`` without its gradients, and without weights of its own, if both sides agree in every respect."""
    results = check_outputs([item], True), check_gradients([item], True)
    if any(result.status == "failed" for result in results):
        return item
    if not all(leaf.agrees for leaves in float32_errors(item) for leaf in leaves):
        return item
    reached_rows(item), gradient_flow([item]), gradient_norms(item)  # found once, and remembered
    case = item.case
    if case.driven:
        buffers = case.weights.keys() - item.reference.parameter_gradients.keys()
        case = dataclasses.replace(case, weights={name: case.weights[name] for name in buffers})
    light = dataclasses.replace(
        item,
        case=case,
        reference=_without_gradients(item.reference),
        flax=_without_gradients(item.flax),
        numpy=None if item.numpy is None else _without_gradients(item.numpy),
        torch32=None if item.torch32 is None else _without_gradients(item.torch32),
        flax32=None if item.flax32 is None else _without_gradients(item.flax32),
        condensed=True,
    )
    light.compared.update(item.compared)
    return light


def _without_gradients(run: Run) -> Run:
    return dataclasses.replace(run, parameter_gradients={}, input_gradients={})
