"""Why running statistics differ after a call in training mode."""

from collections.abc import Mapping, Sequence

import numpy as np

from compare.evidence import Evidence
from compare.result import Cause

__all__ = ["statistics_causes"]

# The share is solved for from numbers of float64, and typed with a few digits.
_CLOSE = 1e-9


def statistics_causes(evidence: Sequence[Evidence], momenta: Mapping[str, float]) -> tuple[Cause, ...]:
    """The share of the new value in Flax's running means, ``old + share (batch - old)``, where it is not torch's.

    Args:
        evidence: all cases, in training mode.
        momenta: torch's share by module name.
    """
    shares: dict[float, list[str]] = {}
    for module, share in momenta.items():
        found = {_share(item, f"{module}.running_mean", share) for item in evidence}
        if len(found) == 1 and (one := found.pop()) is not None and one != share:
            shares.setdefault(one, []).append(module)
    return tuple(_cause(share, modules, momenta[modules[0]]) for share, modules in shares.items())


def _share(item: Evidence, name: str, share: float) -> float | None:
    if name not in item.reference.statistics or name not in item.flax.statistics:
        return None
    old, new, found = item.case.weights[name], item.reference.statistics[name], item.flax.statistics[name]
    step = (new - old) / share  # from the old value to the batch's
    size = float(np.vdot(step, step))
    if found.shape != step.shape or not (np.isfinite(size) and size > 0):
        return None
    solved = float(np.vdot(step, found - old)) / size
    agrees = np.abs(old + solved * step - found).max() <= _CLOSE * max(np.abs(found).max(), np.abs(step).max())
    return float(f"{solved:.6g}") if agrees and abs(solved) > _CLOSE else 0.0 if agrees else None


def _cause(share: float, modules: Sequence[str], torch_share: float) -> Cause:
    where = ", ".join(modules)
    seen = "solved for from the running means, which it reproduces to rounding"
    if share == 0.0:
        fix = 'pass mutable=["batch_stats"] and keep what comes back; use_running_average=False'
        return Cause("batch_norm_not_updated", f"in {where}: the running statistics do not move", fix, seen)
    return Cause(
        "batch_norm_momentum",
        f"in {where}: the running statistics move by {share:g} of the way to the batch's, torch's by {torch_share:g}",
        f"momentum={1 - torch_share:g}: Flax's is 1 minus torch's",
        seen,
    )
