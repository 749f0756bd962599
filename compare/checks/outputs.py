"""Do both models return the same arrays?"""

from collections.abc import Sequence

from compare.checks.judge import compare_runs, judge
from compare.evidence import Evidence
from compare.result import CheckResult, Leaf

__all__ = ["check_outputs"]


def check_outputs(evidence: Sequence[Evidence], strict: bool) -> CheckResult:
    """Outputs of Flax, and of the NumPy reference, against torch's in float64, over all cases."""
    regular: list[Leaf] = []
    kinks: list[Leaf] = []
    for item in evidence:
        leaves = compare_runs(item, lambda run: run.outputs, item.flax, lower=item.flax32)
        if item.numpy is not None:
            leaves += compare_runs(item, lambda run: run.outputs, item.numpy, "NumPy")
        (kinks if item.case.kinks else regular).extend(leaves)
    return judge("outputs", regular, kinks, "outputs", strict, evidence)
