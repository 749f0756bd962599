"""What is kept of a case: its outputs, and what was found of its gradients.

A gradient is as large as the weights, and there are several in each of a dozen cases. Few are looked at again, where
the sides differ, and those are computed again.
"""

import dataclasses

from compare.adequacy import reached_rows
from compare.checks.gradients import check_gradients, gradient_flow
from compare.checks.outputs import check_outputs
from compare.checks.precision import float32_errors
from compare.evidence import Evidence
from compare.legs.run import Run
from compare.profile import gradient_norms, worst_array

__all__ = ["condensed", "without_gradients"]


def condensed(item: Evidence) -> Evidence:
    """``item`` without its gradients; all that the checks and the report ask of them is known."""
    # Found once, and remembered.
    check_outputs([item], True), check_gradients([item], True), float32_errors(item)
    reached_rows(item), gradient_flow([item]), gradient_norms(item), worst_array([item])
    light = dataclasses.replace(
        item,
        reference=without_gradients(item.reference),
        flax=without_gradients(item.flax),
        numpy=None if item.numpy is None else without_gradients(item.numpy),
        condensed=True,
    )
    light.compared.update(item.compared)
    return light


def without_gradients(run: Run) -> Run:
    """``run`` with its outputs and statistics alone."""
    return dataclasses.replace(run, parameter_gradients={}, input_gradients={})
