"""Do both models return the same arrays?"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from compare.checks.judge import compare_runs, judge
from compare.evidence import Evidence
from compare.legs.run import TIES, Case
from compare.result import CheckResult, Leaf
from compare.verdict import own_rounding

__all__ = ["check_outputs", "with_broken"]

_EQUALS = "in which of equals is chosen"


def check_outputs(evidence: Sequence[Evidence], strict: bool) -> CheckResult:
    """Outputs of Flax, and of the NumPy reference, against torch's in float64, over all cases."""
    found: list[tuple[Evidence, list[Leaf]]] = []
    for item in evidence:
        leaves = item.once("outputs", functools.partial(_leaves, item))
        # Right ports may choose otherwise among equals that a probe holds. None of them returns other values on the
        # user's own inputs: zeros there are often padding, and mean it.
        binds = item.case.aside == TIES and _own_inputs(item)
        # Nor does one return NaN where torch returns a number, or arrays of another shape, whatever the values.
        if binds or (not item.case.other_size and any(leaf.detail for leaf in leaves)):
            item = dataclasses.replace(item, case=dataclasses.replace(item.case, aside=""))
        elif not item.case.aside and _other_choice(item, leaves):
            item = dataclasses.replace(item, case=dataclasses.replace(item.case, aside=_EQUALS))
        found.append((item, leaves))
    return judge("outputs", found, "outputs", strict)


def _other_choice(item: Evidence, leaves: Sequence[Leaf]) -> bool:
    """Whether on a probe indices alone differ, beside numbers that agree: a softmax that saturates makes equals."""
    outputs = item.reference.outputs
    numbers = {path or "output" for path, array in outputs.items() if np.issubdtype(array.dtype, np.floating)}
    differing = [leaf for leaf in leaves if not leaf.agrees]
    saturates = item.case.driven or item.case.name.endswith(("large inputs", "inputs for large outputs"))
    alone = all(leaf.path not in numbers and not leaf.detail and _among(item, leaf.path) for leaf in differing)
    return bool(numbers and differing) and alone and bool(saturates)


def _among(item: Evidence, path: str) -> bool:
    """Whether these are indices, of which torch returns each somewhere; a limit or a mask is no choice."""
    key = path if path in item.reference.outputs else ""
    ours, theirs = item.reference.outputs.get(key), item.flax.outputs.get(key)
    if ours is None or theirs is None or ours.dtype.kind not in "iu":
        return False
    return bool(np.isin(theirs, ours).all())


def _own_inputs(item: Evidence) -> bool:
    """Whether real numbers are returned for inputs exactly as given; an index of equals is anybody's choice."""
    return item.case.name.endswith("given inputs") and all(
        np.issubdtype(array.dtype, np.floating) for array in item.reference.outputs.values()
    )


def _leaves(item: Evidence) -> list[Leaf]:
    lower = {} if item.flax32 is None else item.flax32.outputs
    own = lambda path, found: own_rounding(found, lower.get(path))  # noqa: E731
    leaves = compare_runs(item, lambda run: run.outputs, item.flax, own=own)
    if item.numpy is not None:
        leaves += compare_runs(item, lambda run: run.outputs, item.numpy, "NumPy")
    return leaves


def with_broken(result: CheckResult, broken: Sequence[tuple[Case, str]], strict: bool) -> CheckResult:
    """``result``, worse where the port does not run on calls that torch takes."""
    serious = [sentence for case, sentence in broken if strict or not case.aside]
    if serious:
        return dataclasses.replace(result, status="failed", detail=". ".join([result.detail, *serious]))
    if broken and result.status in ("passed", "noted", "constants"):
        details = [result.detail, *(sentence for _, sentence in broken)]
        return dataclasses.replace(result, status="noted", detail=". ".join(details))
    return result
