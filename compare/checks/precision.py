"""Is the port as accurate in float32 as the original?"""

from collections.abc import Sequence

import numpy as np

from compare.checks.gradients import not_finite
from compare.evidence import Evidence
from compare.legs.run import TIES, Case
from compare.result import CheckResult, Leaf
from compare.verdict import PRECISION_FACTOR, compare_arrays, largest_relative, worst

__all__ = ["check_precision", "float32_errors"]


def check_precision(evidence: Sequence[Evidence], same_function: bool, strict: bool = False) -> CheckResult:
    """Flax's float32 error against torch's, both measured from torch's float64 result.

    The same function can be computed badly: a variance as a difference of large squares, a logarithm of a softmax.
    Such a port agrees in float64 and fails here.

    Args:
        evidence: all cases.
        same_function: whether outputs and gradients agree in float64; if not, accuracy says nothing.
        strict: whether less accuracy fails that shows only on the check's own extreme cases.
    """
    if not same_function:
        return CheckResult("precision", "skipped", "how accurate float32 is can be told once float64 agrees")
    ordinary = _leaves([item for item in evidence if strict or not _extreme(item.case)])
    extreme = _leaves([item for item in evidence if not strict and _extreme(item.case)])
    # Outputs that are not finite where torch's are: a guard is missing. Of gradients see ``not_finite``.
    ordinary += [leaf for leaf in extreme if leaf.detail and not leaf.path.startswith("gradient of ")]
    leaves = list(worst(ordinary + extreme).values())
    if not leaves:
        return CheckResult("precision", "skipped", "no floating-point output to compare in float32")
    bad = [leaf for leaf in ordinary if not leaf.agrees]
    if bad:
        detail = f"{len(bad)} of {len(leaves)} arrays are less accurate in float32 than torch's"
        return CheckResult("precision", "failed", detail, tuple(leaves))
    bad = [leaf for leaf in extreme if not leaf.agrees]
    if bad:
        detail = f"{len(bad)} of {len(leaves)} arrays are less accurate in float32 than torch's, but only on probes"
        circumstances = "that vary little about a large mean, hold ties, or drive layers far out"
        return CheckResult("precision", "noted", f"{detail} {circumstances}", tuple(leaves))
    error = largest_relative(leaves)
    detail = f"{len(leaves)} arrays are as accurate in float32 as torch's, largest relative error {error:.1e}"
    return CheckResult("precision", "passed", detail, tuple(leaves))


def _extreme(case: Case) -> bool:
    """Whether right formulas part in float32 on this case, which is none of the user's.

    A difference of large squares loses what little varies, a saturated gate's derivative is nothing but rounding, and
    which of two equal numbers comes first is a matter of rounding too.
    """
    far = case.driven or case.name.endswith("large inputs")
    return case.cancels or far or (case.aside == TIES and not case.name.endswith("given inputs"))


def _leaves(evidence: Sequence[Evidence]) -> list[Leaf]:
    """For each array the worst case of Flax's float32 error, and what torch's own error and spread allow."""
    outputs = [leaf for item in evidence for leaf in float32_errors(item)[0]]
    gradients = [leaf for item in evidence if not item.case.aside for leaf in float32_errors(item)[1]]
    return [*worst(outputs).values(), *worst(gradients).values()]


def float32_errors(item: Evidence) -> tuple[list[Leaf], list[Leaf]]:
    """Flax's float32 errors of outputs and of gradients in one case."""
    outputs, gradients = item.once("precision", lambda: _errors(item))
    return outputs, [leaf for leaf in gradients if not not_finite(item, leaf)]


def _errors(item: Evidence) -> tuple[list[Leaf], list[Leaf]]:
    if not item.finite or item.case.aside not in ("", TIES):
        return [], []
    if item.flax32 is None or item.torch32 is None or item.error32 is None:
        return [], []
    leaves: list[Leaf] = []
    found, theirs = item.flax32.outputs, item.torch32.outputs
    for path, array in item.reference.outputs.items():
        if path not in found or not np.issubdtype(array.dtype, np.floating):
            continue
        error = float(item.error32.outputs[path])
        if found[path].shape != array.shape or not np.isfinite(error) or not np.isfinite(theirs[path]).all():
            continue  # other checks speak of shapes; where torch itself overflows there is no standard
        leaves.append(compare_arrays(path or "output", array, found[path], PRECISION_FACTOR * error))
    return leaves, [leaf for leaf in item.gradients32.values() if np.isfinite(leaf.allowed)]
