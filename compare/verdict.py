"""The only place that judges numbers.

Fixed tolerances are wrong in both directions: 1e-4 hides another epsilon, 1e-7 flags honest rounding. Here the
allowance is *measured*: the reference is run again with its inputs, weights and module outputs moved by one rounding
of the precision in force, and a difference may be a small factor times the spread that this causes in the same array.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from compare.result import Leaf

__all__ = [
    "CONSTANTS_FACTOR",
    "GRADIENT_PRECISION_FACTOR",
    "NOT_FINITE_ALIKE",
    "PRECISION_FACTOR",
    "SAMENESS_FACTOR",
    "compare_arrays",
    "deviation",
    "least_spread",
    "own_rounding",
    "seen_in_float64",
    "spread",
    "tells",
    "unit_roundoff",
]

# In float64 every porting mistake stands many orders of magnitude above the spread (an epsilon of 1e-12 for 1e-6 in a
# LayerNorm: 9e-6 against 1e-15), so the factor can afford to cover sums in another order over thousands of terms.
SAMENESS_FACTOR = 64.0

# In the working precision the two sides' errors against the float64 result are compared with each other. Two right
# ways of summing differ by a factor of a few; a fast variance or a naive log-softmax by hundreds.
PRECISION_FACTOR = 16.0

# A parameter's gradient is a sum over samples and positions. XLA may add it term by term, torch adds pairwise: among
# terms that cancel a right port (an Inception net) was seen 16.1 times as far off as torch. Twice that.
GRADIENT_PRECISION_FACTOR = 32.0

NOT_FINITE_ALIKE = "not finite on both sides alike"

# A constant that was rounded once lies within half a unit; it is moved by up to a whole one, three times.
CONSTANTS_FACTOR = 4.0

# A result that no perturbation moves (an exact copy, a saturated unit) still may be rounded this many times.
_LEAST_ROUNDINGS = 4.0

# XLA flushes what lies below the smallest normal number to zero, torch does not, and what follows may multiply it.
_UNDERFLOW_GROWTH = 1e8


_SMALLEST_NORMAL = {"float64": 2.0**-1022, "float32": 2.0**-126}


def unit_roundoff(dtype: str) -> float:
    """Half the distance from 1 to the next number: 1.1e-16 in float64, 6e-8 in float32, 3.9e-3 in bfloat16."""
    return {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]


def spread(reference: np.ndarray, perturbed: Sequence[np.ndarray], dtype: str) -> float:
    """The largest deviation from ``reference`` over the perturbed runs, at least a few roundings of its largest value.

    Non-finite elements of the reference are left out; a perturbed run that turns a finite element non-finite counts
    as infinitely spread.
    """
    return max([least_spread(reference, dtype), *(deviation(reference, run) for run in perturbed)])


def least_spread(reference: np.ndarray, dtype: str) -> float:
    """A few roundings of the largest finite value of ``reference``."""
    if reference.size == 0:
        return 0.0
    largest = max(float(reference.max()), -float(reference.min()))
    if not np.isfinite(largest):
        finite = reference[np.isfinite(reference)]
        if finite.size == 0:
            return 0.0
        largest = float(np.abs(finite).max())
    return _LEAST_ROUNDINGS * unit_roundoff(dtype) * largest + _UNDERFLOW_GROWTH * _SMALLEST_NORMAL[dtype]


def deviation(reference: np.ndarray, found: np.ndarray) -> float:
    """The largest difference where ``reference`` is finite; infinite where ``found`` is not finite there."""
    if reference.size == 0:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.asarray(found - reference)
        np.abs(difference, out=difference)
        largest = float(difference.max())
        if np.isfinite(largest):
            return largest
        apart = difference[np.isfinite(reference)]
    largest = float(apart.max(initial=0.0))
    return largest if np.isfinite(largest) else np.inf


def own_rounding(found: np.ndarray, lower: np.ndarray | None) -> float:
    """What rounding in float64 does to ``found``, as its own float32 result ``lower`` tells: the same, 2^29 times.

    A function computed badly (a variance as a difference of large squares) moves far more than the reference does, in
    every precision alike; a mistake is the same size in all of them, and never shows here.
    """
    if lower is None or lower.shape != found.shape or found.size == 0:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # infinities on both sides cancel to NaN, and say nothing
        return seen_in_float64(float(np.abs(lower - found).max()))


def seen_in_float64(error32: float) -> float:
    """How large a rounding error of float32 is in float64; 0 for one that is not finite."""
    return error32 * unit_roundoff("float64") / unit_roundoff("float32") if np.isfinite(error32) else 0.0


def compare_arrays(path: str, reference: np.ndarray, found: np.ndarray, allowed: float) -> Leaf:
    """Shape and kind of number first, then non-finite places, then the largest difference and its index.

    Args:
        path: the leaf's name.
        reference, found: arrays of any floating, integer or boolean dtype.
        allowed: largest difference that rounding explains.
    """
    if reference.shape != found.shape:
        return Leaf(path, np.nan, allowed, detail=f"expected shape {reference.shape}, found {found.shape}")
    if _kind(reference) != _kind(found):
        return Leaf(path, np.nan, allowed, detail=f"expected dtype {reference.dtype}, found {found.dtype}")
    if reference.size == 0:
        return Leaf(path, 0.0, allowed)
    reference, found = reference.astype(np.float64, copy=False), found.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.asarray(found - reference)
    np.abs(difference, out=difference)
    worst_place = int(difference.argmax())  # NaN counts as the largest
    if np.isfinite(difference.flat[worst_place]):  # then so are both arrays, and nothing else need be looked at
        index = np.unravel_index(worst_place, difference.shape)
        scale = max(float(reference.max()), -float(reference.min()))
        return Leaf(path, float(difference[index]), allowed, scale, tuple(int(i) for i in index))
    finite = np.isfinite(reference)
    scale = float(np.abs(reference[finite]).max()) if finite.any() else 0.0
    same_nonfinite = np.array_equal(reference[~finite], found[~finite], equal_nan=True)
    if not same_nonfinite or not np.isfinite(found[finite]).all():
        return Leaf(path, np.nan, allowed, scale, detail=_nonfinite(reference, found))
    difference = np.where(finite, np.abs(np.where(finite, found, 0) - np.where(finite, reference, 0)), 0.0)
    index = np.unravel_index(int(difference.argmax()), difference.shape)
    return Leaf(path, float(difference[index]), allowed, scale, tuple(int(i) for i in index))


def tells(leaf: Leaf) -> bool:
    """Whether agreement in ``leaf`` says something: where rounding may do anything, only if none is needed."""
    plain = SAMENESS_FACTOR * _LEAST_ROUNDINGS * unit_roundoff("float64") * leaf.scale
    return leaf.allowed < np.inf or leaf.error <= plain


def _kind(array: np.ndarray) -> str:
    """Booleans, integers and floats are not each other's ports."""
    return {"b": "boolean", "i": "integer", "u": "integer"}.get(array.dtype.kind, "floating")


def _nonfinite(reference: np.ndarray, found: np.ndarray) -> str:
    alike = (reference == found) | (np.isnan(reference) & np.isnan(found))
    differs = ~(alike | (np.isfinite(reference) & np.isfinite(found)))
    index = [int(i) for i in np.argwhere(differs)[0]]
    at = tuple(index)
    return f"expected {reference[at]}, found {found[at]} at {index}: {NOT_FINITE_ALIKE}"


def worst(leaves: Sequence[Leaf]) -> dict[str, Leaf]:
    """For each path the leaf that disagrees most, measured against what it is allowed."""
    chosen: dict[str, Leaf] = {}
    for leaf in leaves:
        if leaf.path not in chosen or _badness(leaf) > _badness(chosen[leaf.path]):
            chosen[leaf.path] = leaf
    return chosen


def _badness(leaf: Leaf) -> tuple[int, float]:
    if leaf.detail or np.isnan(leaf.error):
        return 3, np.inf
    ratio = leaf.error / leaf.allowed if leaf.allowed else (np.inf if leaf.error else 0.0)
    return (1 if leaf.constants else 0) if leaf.agrees else 2, ratio


def largest_relative(leaves: Mapping[str, Leaf] | Sequence[Leaf]) -> float:
    """The largest relative error; NaN if any leaf has one."""
    values = leaves.values() if isinstance(leaves, Mapping) else leaves
    errors = [leaf.relative for leaf in values]
    return float(np.max(errors)) if errors else 0.0
