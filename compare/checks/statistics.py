"""Running statistics after one call in training mode."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from compare.checks.judge import compare_runs, judge
from compare.evidence import Evidence
from compare.legs.run import Run
from compare.result import CheckResult
from compare.verdict import SAMENESS_FACTOR, compare_arrays, own_rounding

__all__ = ["check_statistics"]


def check_statistics(evidence: Sequence[Evidence], momenta: Mapping[str, float], strict: bool) -> CheckResult:
    """Running means and variances against torch's after the same call.

    torch's running variance is unbiased, ``n / (n - 1)`` times the one that Flax keeps. A port whose variances differ
    by exactly that is right as far as Flax can be, and the difference is noted.

    Args:
        evidence: all cases, in training mode.
        momenta: torch's momentum by module name, the share of the new value.
        strict: whether a difference only at ties and zeros fails.
    """
    used = [item for item in evidence if not item.case.forward_only]
    found = [(item, compare_runs(item, _statistics, item.flax, own=functools.partial(_own, item))) for item in used]
    if not any(leaves for _, leaves in found):
        return CheckResult("statistics", "skipped", "the torch model keeps no running statistics")
    result = judge("statistics", found, "running statistics", strict)
    if result.status == "failed":
        bad = [leaf.path for leaf in result.leaves if not leaf.agrees]
        if all(path.endswith("running_var") and _unbiased(used, path, momenta) for path in bad):
            detail = (
                f"{len(bad)} running variances differ by torch's factor n / (n - 1) alone; Flax keeps the biased one"
            )
            return CheckResult("statistics", "noted", detail, result.leaves)
    return result


def _statistics(run: Run) -> Mapping[str, np.ndarray]:
    kinds = ("running_mean", "running_var")
    return {name: array for name, array in run.statistics.items() if name.endswith(kinds)}


def _own(item: Evidence, path: str, found: np.ndarray) -> float:
    return own_rounding(found, None if item.flax32 is None else item.flax32.statistics.get(path))


def _unbiased(evidence: Sequence[Evidence], path: str, momenta: Mapping[str, float]) -> bool:
    """Whether torch's update exceeds Flax's in the ratio n / (n - 1) with one whole n, in every case and channel."""
    share = momenta.get(path.rpartition(".")[0])
    if not share:
        return False
    for item in evidence:
        old, new = item.case.weights[path], item.reference.statistics[path]
        found = item.flax.statistics[path]
        if found.shape != new.shape:
            return False
        unbiased = (new - (1 - share) * old) / share  # torch's batch variance
        gap = new - found  # share * unbiased / n, if Flax's variance is (n - 1) / n of torch's
        known = np.abs(gap) > 1e-9 * np.abs(new)  # a channel without variance does not tell n
        if not known.any():
            continue
        count = np.round(np.median(share * unbiased[known] / gap[known]))
        if not count >= 2:
            return False
        moved = float(item.moved.statistics[path])
        own = _own(item, path, found)  # a fast variance rounds more than torch's
        if not compare_arrays(path, new - share * unbiased / count, found, SAMENESS_FACTOR * max(moved, own)).agrees:
            return False
    return True
