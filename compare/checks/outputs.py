"""Do both models return the same arrays?"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from compare.checks.judge import compare_runs, judge
from compare.evidence import Evidence, Gathered
from compare.legs.run import TIES, Case
from compare.result import CheckResult, Leaf
from compare.structure import flatten
from compare.verdict import own_rounding

__all__ = ["beside_caches", "check_outputs", "with_broken"]


def check_outputs(evidence: Sequence[Evidence], strict: bool) -> CheckResult:
    """Outputs of Flax, and of the NumPy reference, against torch's in float64, over all cases."""
    found: list[tuple[Evidence, list[Leaf]]] = []
    for item in evidence:
        leaves = item.once("outputs", functools.partial(_leaves, item))
        if item.case.aside == TIES and (_own_inputs(item) or any(leaf.detail for leaf in leaves)):
            # Right ports may choose otherwise among equals that a probe holds. None of them returns NaN where torch
            # returns a number, or other values on the user's own inputs: zeros there are often padding, and mean it.
            item = dataclasses.replace(item, case=dataclasses.replace(item.case, aside=""))
        found.append((item, leaves))
    return judge("outputs", found, "outputs", strict)


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


def beside_caches(gathered: Gathered, shapes: Sequence[tuple[int, ...]]) -> Gathered:
    """``gathered``, broken batches set aside where the port keeps arrays for as many samples as the user's call has.

    Args:
        gathered: what all runs gave.
        shapes: of the port's buffers that torch does not have, such as a decoder's cache.
    """
    inputs = flatten(gathered.evidence[0].case.call) if gathered.evidence else {}
    samples = next((len(array) for array in inputs.values() if array.ndim), 0)
    if not any(samples in shape for shape in shapes):
        return gathered
    made = "where the port keeps a cache for another number of samples"
    broken = ((dataclasses.replace(c, aside=c.aside or made) if c.forward_only else c, s) for c, s in gathered.broken)
    return dataclasses.replace(gathered, broken=tuple(broken))


def with_broken(result: CheckResult, broken: Sequence[tuple[Case, str]], strict: bool) -> CheckResult:
    """``result``, worse where the port does not run on calls that torch takes."""
    serious = [sentence for case, sentence in broken if strict or not case.aside]
    if serious:
        return dataclasses.replace(result, status="failed", detail=". ".join([result.detail, *serious]))
    if broken and result.status in ("passed", "noted", "constants"):
        details = [result.detail, *(sentence for _, sentence in broken)]
        return dataclasses.replace(result, status="noted", detail=". ".join(details))
    return result
