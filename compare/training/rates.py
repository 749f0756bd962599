"""What is wrong with a sequence of learning rates."""

from collections.abc import Callable, Sequence

import numpy as np

from compare.result import Cause
from compare.verdict import unit_roundoff

__all__ = ["rate_causes", "same_rates"]

# Rates that were fitted to updates, or come from another closed form of the same schedule: 256 roundings of the
# largest rate. In float32 a schedule's own arithmetic adds a few roundings.
_FITTED = 256 * unit_roundoff("float64")
_SINGLE = 8 * unit_roundoff("float32")


def same_rates(found: Sequence[float], expected: Sequence[float], single: bool = False) -> bool:
    """Whether two sequences agree to rounding, of float64 or of float32."""
    if len(found) != len(expected):
        return False
    if not found:
        return True
    theirs, ours = np.asarray(found), np.asarray(expected)
    size = _SINGLE if single else _FITTED
    return bool((np.abs(theirs - ours) <= size * max(np.abs(ours).max(), np.abs(theirs).max())).all())


def rate_causes(found: Sequence[float], expected: Sequence[float]) -> list[Cause]:
    """Every simple mistake that turns ``expected`` rates into ``found``, likeliest first; none if they agree."""
    if same_rates(found, expected):
        return []
    theirs, ours = np.asarray(found), np.asarray(expected)
    evidence = f"rates {_shown(theirs)}, torch's are {_shown(ours)}"
    causes = []
    if not _constant(ours):
        causes += _shapes(theirs, ours, evidence)
    elif not _constant(theirs):
        causes += _extra(theirs, ours, evidence)
    nonzero = ours != 0
    if nonzero.any() and same_rates(list(theirs), list(ours * (theirs[nonzero] / ours[nonzero])[0])):
        factor = (theirs[nonzero] / ours[nonzero])[0]
        summary = f"the learning rate is {factor:.6g} times torch's"
        causes.append(Cause("learning_rate_factor", summary, f"learning_rate={ours[0]:g}", evidence))
    return causes


def _constant(rates: np.ndarray) -> bool:
    return same_rates(list(rates), [rates[0]] * len(rates))


def _shapes(theirs: np.ndarray, ours: np.ndarray, evidence: str) -> list[Cause]:
    """Mistakes in a schedule that torch has."""
    found: list[tuple[str, str, str]] = []
    n = len(ours)
    if _constant(theirs):
        found.append(("schedule_missing", "the learning rate stays the same", "pass a schedule as the learning rate"))
    elif n > 2 and same_rates(theirs[1:].tolist(), ours[:-1].tolist()):
        found.append(("schedule_off_by_one", "the schedule lags one step behind", "count steps from 0, as optax does"))
    elif n > 2 and same_rates(theirs[:-1].tolist(), ours[1:].tolist()):
        found.append(("schedule_off_by_one", "the schedule is one step ahead", "evaluate it at the steps taken before"))
    for unit in range(2, n):
        if same_rates(list(theirs), [ours[t // unit] for t in range(n)]):
            words = f"the schedule moves every {unit} steps (per epoch?), torch's moves at every step"
            found.append(("schedule_unit", words, "count optimiser steps, not epochs"))
            break
        if same_rates(list(ours), [theirs[t // unit] for t in range(n)]):
            words = f"the schedule moves at every step, torch's every {unit} (per epoch?)"
            found.append(("schedule_unit", words, f"divide the count by {unit}"))
            break
        known = list(range(0, n, unit))
        if len(known) > 2 and same_rates(theirs[: len(known)].tolist(), ours[known].tolist()):
            words = f"the schedule runs {unit} times too fast"
            found.append(("schedule_unit", words, f"divide the count by {unit}"))
            break
    found += _stairs(theirs, ours)
    found += _warmup(theirs, ours)
    found += _geometric(theirs, ours)
    found = found or _closed(theirs, ours)
    return [Cause(*words, evidence) for words in found]


def _stairs(theirs: np.ndarray, ours: np.ndarray) -> list[tuple[str, str, str]]:
    changes = np.flatnonzero(ours[1:] != ours[:-1]) + 1
    if changes.size and changes[0] > 1 and ours[0]:
        ratio = ours[changes[0]] / ours[0]
        smooth = ours[0] * ratio ** (np.arange(len(ours)) / changes[0])
        if same_rates(list(theirs), list(smooth)):
            words = "the rate falls at every step, torch's StepLR falls in stairs"
            return [("staircase_missing", words, "optax.exponential_decay(..., staircase=True)")]
    changes = np.flatnonzero(theirs[1:] != theirs[:-1]) + 1
    if changes.size and changes[0] > 1:
        stairs = ours[(np.arange(len(ours)) // changes[0]) * changes[0]]
        if same_rates(list(theirs), list(stairs)):
            words = f"the rate falls in stairs of {changes[0]} steps, torch's at every step"
            return [("staircase_extra", words, "staircase=False")]
    return []


def _warmup(theirs: np.ndarray, ours: np.ndarray) -> list[tuple[str, str, str]]:
    top = _peak(ours)
    if top and (np.diff(ours[: top + 1]) > 0).all():
        without = np.concatenate([ours[top:], ours[-1:].repeat(top)])
        held = np.where(np.arange(len(ours)) < top, ours[top], ours)
        known = len(ours) - top
        late = known > 2 and not _constant(ours[top:]) and same_rates(theirs[:known].tolist(), without[:known].tolist())
        if late or (same_rates(list(theirs), list(held)) and not _constant(theirs)):
            return [("warmup_missing", "the warm-up is missing", "optax.join_schedules with a linear one first")]
        if _constant(theirs):
            return [("warmup_missing", "the warm-up is missing", "optax.linear_schedule first")]
        return _ramp(theirs, ours, top)
    return []


def _ramp(theirs: np.ndarray, ours: np.ndarray, top: int) -> list[tuple[str, str, str]]:
    other = _peak(theirs)
    if other and (np.diff(theirs[: other + 1]) > 0).all() and (other != top or theirs[0] != ours[0]):
        words = (
            f"the warm-up starts at {theirs[0]:g} and ends at step {other + 1}, torch's at {ours[0]:g} and {top + 1}"
        )
        return [("warmup_shape", words, "give the linear schedule torch's start, end and length")]
    return []


def _geometric(theirs: np.ndarray, ours: np.ndarray) -> list[tuple[str, str, str]]:
    if not (ours > 0).all() or not (theirs > 0).all() or theirs[0] != ours[0]:
        return []
    mine, other = np.log(ours / ours[0]), np.log(theirs / theirs[0])
    moving = mine != 0
    if not moving.any():
        return []
    power = (other[moving] / mine[moving])[0]
    if power > 0 and abs(power - 1) > 1e-6 and same_rates(list(theirs), list(ours[0] * np.exp(power * mine))):
        words = f"the rate decays by another factor: torch's decay to the power of {power:.4g}"
        return [("schedule_decay_rate", words, "pass torch's gamma as decay_rate")]
    return []


def _closed(theirs: np.ndarray, ours: np.ndarray) -> list[tuple[str, str, str]]:
    """Both fall along a curve of one kind, to other ends or over other lengths."""
    for kind, curve in _CURVES.items():
        mine, other = _fitted(ours, curve), _fitted(theirs, curve)
        if mine and other:
            (length, first, last), (ours_length, ours_first, ours_last) = other, mine
            parts = [] if length == ours_length else [f"runs over {length} steps, torch's over {ours_length}"]
            name = "schedule_length" if parts else "schedule_bounds"
            for word, value, expected in (("begins", first, ours_first), ("ends", last, ours_last)):
                if abs(value - expected) > 1e-9 * max(abs(value), abs(expected), abs(ours_first)):
                    parts.append(f"{word} at {value:.6g}, torch's at {expected:.6g}")
            if parts:
                fix = "pass torch's length, first and last rate (alpha in optax is the last over the first)"
                return [(name, f"the {kind} schedule {' and '.join(parts)}", fix)]
    return []


def _fitted(rates: np.ndarray, curve: Callable[[np.ndarray], np.ndarray]) -> tuple[int, float, float] | None:
    """Length in steps, first and last rate of a schedule of that curve; None where it is no such schedule."""
    steps = np.arange(len(rates))
    if len(rates) < 4:
        return None  # any three rates lie on one
    for length in range(2, 20 * len(rates)):
        share = curve(np.minimum(steps / length, 1.0))  # 1 at the beginning, 0 at the end
        table = np.stack([share, 1 - share], 1)
        (first, last), *_ = np.linalg.lstsq(table, rates, rcond=None)
        if same_rates((table @ [first, last]).tolist(), rates.tolist()) and np.linalg.cond(table) < _LEAST_KNOWN:
            return length, float(first), float(last)
    return None


# A short piece of a long curve could be a piece of many.
_LEAST_KNOWN = 1e4
_CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2,
    "linear": lambda x: 1 - x,
    "quadratic": lambda x: (1 - x) ** 2,
}


def _extra(theirs: np.ndarray, ours: np.ndarray, evidence: str) -> list[Cause]:
    """Mistakes where torch's rate stays the same."""
    top = _peak(theirs)
    if top and (np.diff(theirs[: top + 1]) > 0).all() and same_rates([theirs[top]], [ours[0]]):
        words = ("warmup_extra", "there is a warm-up, torch has none", "leave it out")
    else:
        words = ("schedule_extra", "the learning rate changes, torch's stays the same", "leave the schedule out")
    return [Cause(*words, evidence)]


def _peak(rates: np.ndarray) -> int:
    """The first step at the largest rate: on a plateau rounding decides which number is the largest."""
    return next(k for k, rate in enumerate(rates) if same_rates([rate], [rates.max()]))


def _shown(rates: np.ndarray) -> str:
    values = ", ".join(f"{rate:.6g}" for rate in rates[:6])
    return f"[{values}{', ...' if len(rates) > 6 else ''}]"
