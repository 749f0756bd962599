"""Did the check exercise everything it speaks of?"""

from collections.abc import Sequence

import numpy as np

from compare.checks.gradients import gradient_flow
from compare.evidence import Evidence
from compare.result import CheckResult

__all__ = ["check_adequacy"]


def check_adequacy(evidence: Sequence[Evidence]) -> CheckResult:
    """Judges all cases together: agreement about nothing is no agreement.

    Inconclusive when every output is non-finite, when all outputs are the same whatever goes in, or when no gradient
    reaches any parameter of a model that has some. A parameter that takes no gradient on any leg is a note.
    """
    finite = [item for item in evidence if item.finite]
    if not finite:
        return CheckResult("adequacy", "inconclusive", "the torch model's outputs are not finite in any case")
    if _constant(finite):
        return CheckResult("adequacy", "inconclusive", "the outputs are the same for all inputs and weights tried")
    flows = gradient_flow(finite)
    dead = [name for name, legs in flows.items() if set(legs.values()) <= {"none", "zero"}]
    if flows and len(dead) == len(flows):
        return CheckResult("adequacy", "inconclusive", "no gradient reaches any parameter in any case")
    detail = f"{len(flows) - len(dead)} of {len(flows)} parameters take a gradient in {len(finite)} cases"
    if dead:
        return CheckResult("adequacy", "noted", f"{detail}; dead on every leg: {', '.join(dead)}")
    return CheckResult("adequacy", "passed", detail)


def _constant(evidence: Sequence[Evidence]) -> bool:
    first = evidence[0].reference.outputs
    if len(evidence) == 1:
        return all(array.size == 0 or not array.any() for array in first.values())
    return all(
        np.array_equal(item.reference.outputs[path], array) for item in evidence[1:] for path, array in first.items()
    )
