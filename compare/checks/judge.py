"""From compared arrays to a status: one rule for outputs, gradients and statistics."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compare.evidence import Evidence
from compare.legs.run import TIES, Run
from compare.result import CheckResult, Leaf
from compare.verdict import (
    CONSTANTS_FACTOR,
    SAMENESS_FACTOR,
    compare_arrays,
    largest_relative,
    tells,
    worst,
)

__all__ = ["compare_runs", "judge"]

Arrays = Mapping[str, np.ndarray]


def compare_runs(
    evidence: Evidence,
    select: Callable[[Run], Arrays],
    found: Run,
    label: str = "",
    own: Callable[[str, np.ndarray], float] = lambda path, array: 0.0,
) -> list[Leaf]:
    """Leaf by leaf: the reference's arrays against ``found``'s, allowed what moving the reference by a rounding does.

    Args:
        evidence: the case.
        select: which arrays of a run are compared.
        found: the run that is judged.
        label: the leg, appended to the leaf's path; empty for Flax.
        own: how much the leg rounds itself, by path and array. How accurate a port may be is another check's question.
    """
    reference, other = select(evidence.reference), select(found)
    suffix = f" ({label})" if label else ""
    leaves = []
    if "given inputs" not in evidence.case.name and evidence.case.aside != TIES:
        other = {path: _within_range(reference.get(path), array) for path, array in other.items()}
    for path, array in reference.items():
        name = f"{path or 'output'}{suffix}"
        if path not in other:
            leaves.append(Leaf(name, np.nan, 0.0, detail=f"expected an array of shape {array.shape}, found none"))
            continue
        if not np.issubdtype(array.dtype, np.floating):
            leaves.append(_exact(name, array, other[path]))
            continue
        moved = float(np.max(select(evidence.moved)[path], initial=0.0))
        allowed = SAMENESS_FACTOR * max(moved, own(path, other[path]))
        leaf = compare_arrays(name, array, other[path], allowed)
        if not leaf.agrees and evidence.constants is not None and not label:
            moved = float(np.max(select(evidence.constants).get(path, 0.0), initial=0.0))
            wider = compare_arrays(name, array, other[path], allowed + CONSTANTS_FACTOR * moved)
            leaf = dataclasses.replace(wider, constants=True) if wider.agrees else leaf
        leaves.append(leaf)
    extra = [path for path in other if path not in reference]
    surplus = "only the port has it, torch does not"
    return leaves + [Leaf(f"{path or 'output'}{suffix}", np.nan, 0.0, detail=surplus) for path in extra]


def _within_range(expected: np.ndarray | None, found: np.ndarray) -> np.ndarray:
    """``found``, torch's own values where torch overflows on a probe: there is no standard to be judged by.

    An exponential that torch's author left without a guard may have one in the port: it goes to +inf, and quotients of
    it to NaN. -inf is what masks and logarithms of zero mean, and stays.
    """
    if expected is None or expected.shape != found.shape or not np.issubdtype(expected.dtype, np.floating):
        return found
    standard = np.isfinite(expected) | np.isneginf(expected)
    return found if standard.all() or found.dtype.kind != "f" else np.where(standard, found, expected)


def _exact(name: str, reference: np.ndarray, found: np.ndarray) -> Leaf:
    return compare_arrays(name, reference, found, 0.0)


def judge(name: str, found: Sequence[tuple[Evidence, Sequence[Leaf]]], what: str, strict: bool) -> CheckResult:
    """A ``CheckResult`` from the leaves of ordinary cases and of those in which right ports may differ.

    Args:
        name: of the check.
        found: each case with its compared leaves.
        what: the plural noun of the detail, "outputs".
        strict: whether a difference that right ports may have fails.
    """
    leaves = worst([leaf for item, some in found if not item.case.aside for leaf in some])
    aside = worst([leaf for item, some in found if item.case.aside for leaf in some])
    if not leaves and not aside:
        return CheckResult(name, "inconclusive", f"nothing was compared: there are no {what}")
    judged = {leaf.path for item, some in found for leaf in some if not item.case.aside and tells(leaf)}
    # Of gradients others tell, and where a root is at zero they are infinite for a rounding in right ports too.
    doubtful = leaves if name == "outputs" else {}
    unbounded = [path for path, leaf in doubtful.items() if leaf.agrees and path not in judged]
    failed = [leaf for leaf in leaves.values() if not leaf.agrees]
    apart = [leaf for leaf in aside.values() if not leaf.agrees]
    rounded = [leaf for leaf in leaves.values() if leaf.constants]
    conceded = dict.fromkeys(sentence for item, _ in found for sentence in item.conceded)
    shown = tuple(leaves.values())
    if failed:
        detail = f"{len(failed)} of {len(leaves)} {what} differ by more than rounding explains"
        return CheckResult(name, "failed", detail, shown)
    if unbounded:
        detail = f"one rounding alone makes {', '.join(unbounded)} infinite or NaN in every case: nothing can be told"
        return CheckResult(name, "inconclusive", detail, shown)
    if apart:
        words = " and ".join(_circumstances(found))
        detail = f"{len(apart)} of {max(len(leaves), len(aside))} {what} differ, but only {words}"
        shown = tuple((leaves | {leaf.path: leaf for leaf in apart}).values())
        return CheckResult(name, "failed" if strict else "noted", detail, shown)
    if conceded:
        return CheckResult(name, "noted", f"{_counted(leaves, what)}, but {'; '.join(conceded)}", shown)
    if rounded:
        names = ", ".join(dict.fromkeys(name for item, _ in found for name in item.constant_names))
        constants = "constants of lower precision in the port"
        detail = f"{len(rounded)} of {len(leaves)} {what} agree but for {constants}: {names}"
        return CheckResult(name, "constants", detail, shown)
    detail = f"{_counted(leaves, what)} over {len(found)} cases, largest relative difference"
    return CheckResult(name, "passed", f"{detail} {largest_relative(leaves):.1e}", shown)


def _counted(leaves: Sequence[Leaf] | Mapping[str, Leaf], what: str) -> str:
    return f"1 {what.removesuffix('s')} agrees" if len(leaves) == 1 else f"{len(leaves)} {what} agree"


def _circumstances(found: Sequence[tuple[Evidence, Sequence[Leaf]]]) -> list[str]:
    words = (item.case.aside for item, some in found if item.case.aside and not all(leaf.agrees for leaf in some))
    return list(dict.fromkeys(words))
