"""From compared arrays to a status: one rule for outputs, gradients and statistics."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compare.evidence import Evidence
from compare.legs.run import Run
from compare.result import CheckResult, CheckStatus, Leaf
from compare.verdict import (
    CONSTANTS_FACTOR,
    SAMENESS_FACTOR,
    compare_arrays,
    largest_relative,
    own_rounding,
    spread,
    worst,
)

__all__ = ["compare_runs", "judge"]

Arrays = Mapping[str, np.ndarray]


def compare_runs(
    evidence: Evidence, select: Callable[[Run], Arrays], found: Run, label: str = "", lower: Run | None = None
) -> list[Leaf]:
    """Leaf by leaf: the reference's arrays against ``found``'s, allowed what moving the reference by a rounding does.

    Args:
        evidence: the case.
        select: which arrays of a run are compared.
        found: the run that is judged.
        label: the leg, appended to the leaf's path; empty for Flax.
        lower: the same leg in float32, which tells how much it rounds itself. How accurate a port may be is another
            check's question.
    """
    reference, other = select(evidence.reference), select(found)
    in_float32 = {} if lower is None else select(lower)
    suffix = f" ({label})" if label else ""
    leaves = []
    for path, array in reference.items():
        name = f"{path or 'output'}{suffix}"
        if path not in other:
            leaves.append(Leaf(name, np.nan, 0.0, detail=f"expected an array of shape {array.shape}, found none"))
            continue
        if not np.issubdtype(array.dtype, np.floating):
            leaves.append(_exact(name, array, other[path]))
            continue
        moved = spread(array, [select(run)[path] for run in evidence.perturbed], "float64")
        allowed = SAMENESS_FACTOR * max(moved, own_rounding(other[path], in_float32.get(path)))
        leaf = compare_arrays(name, array, other[path], allowed)
        if not leaf.agrees and evidence.constants and not label:
            moved = spread(other[path], [select(run)[path] for run in evidence.constants], "float64")
            wider = compare_arrays(name, array, other[path], allowed + CONSTANTS_FACTOR * moved)
            leaf = dataclasses.replace(wider, constants=True) if wider.agrees else leaf
        leaves.append(leaf)
    extra = [path for path in other if path not in reference]
    surplus = "only the port has it, torch does not"
    return leaves + [Leaf(f"{path or 'output'}{suffix}", np.nan, 0.0, detail=surplus) for path in extra]


def _exact(name: str, reference: np.ndarray, found: np.ndarray) -> Leaf:
    return compare_arrays(name, reference, found, 0.0)


def judge(
    name: str, regular: Sequence[Leaf], at_kinks: Sequence[Leaf], what: str, strict: bool, used: Sequence[Evidence]
) -> CheckResult:
    """A ``CheckResult`` from the leaves of ordinary cases and of those at ties and zeros.

    Args:
        name: of the check.
        regular, at_kinks: compared leaves, repeated over cases.
        what: the plural noun of the detail, "outputs".
        strict: whether a difference only at ties and zeros fails.
        used: the cases that were compared.
    """
    leaves = worst(regular)
    kinks = worst(at_kinks)
    failed = [leaf for leaf in leaves.values() if not leaf.agrees]
    kinked = [leaf for leaf in kinks.values() if not leaf.agrees]
    rounded = [leaf for leaf in leaves.values() if leaf.constants]
    shown = dict(leaves)
    if failed or not kinked:
        status: CheckStatus = "failed" if failed else "constants" if rounded else "passed"
    else:
        status = "failed" if strict else "noted"
        shown |= {leaf.path: leaf for leaf in kinked}
    if not leaves and not kinks:
        return CheckResult(name, "inconclusive", f"nothing was compared: there are no {what}")
    largest = largest_relative(leaves)
    if failed:
        detail = f"{len(failed)} of {len(leaves)} {what} differ by more than rounding explains"
    elif kinked:
        detail = f"{len(kinked)} of {len(leaves)} {what} differ, but only at ties and exact zeros"
    elif rounded:
        names = ", ".join(dict.fromkeys(name for item in used for name in item.constant_names))
        detail = (
            f"{len(rounded)} of {len(leaves)} {what} agree but for constants of lower precision in the port: {names}"
        )
    else:
        detail = f"{len(leaves)} {what} agree over {len(used)} cases, largest relative difference {largest:.1e}"
    return CheckResult(name, status, detail, tuple(shown.values()))
