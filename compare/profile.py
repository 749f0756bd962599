"""What a report draws: the array that differs most, and the size of every gradient."""

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from compare.evidence import Evidence
from compare.places import Place
from compare.result import LayerError, Picture
from compare.verdict import SAMENESS_FACTOR, deviation

__all__ = ["gradient_norms", "layer_errors", "picture", "worst_array"]

_CELLS = 48  # of a picture's longer side: still told apart on a phone


def layer_errors(places: Sequence[Place]) -> tuple[LayerError, ...]:
    """The places of one case as plain data."""
    return tuple(
        LayerError(p.module, p.flax_path, p.edge, p.error, p.allowed, p.gradient_error, p.gradient_allowed)
        for p in places
    )


def gradient_norms(item: Evidence) -> dict[str, tuple[float, float]]:
    """Euclidean norms of all parameters' gradients in torch and in Flax, zero where none flows."""
    return item.once("norms", lambda: _norms(item))


def _norms(item: Evidence) -> dict[str, tuple[float, float]]:
    def norm(gradient: np.ndarray | None) -> float:
        return 0.0 if gradient is None else float(np.linalg.norm(gradient))

    theirs = item.flax.parameter_gradients
    return {name: (norm(g), norm(theirs.get(name))) for name, g in item.reference.parameter_gradients.items()}


def worst_array(evidence: Sequence[Evidence]) -> Picture | None:
    """The output that exceeds its allowance by most, over all cases; without any, the gradient; None if all agree."""
    for kind in ("outputs", "parameter_gradients"):
        found = [item.once(f"worst of {kind}", functools.partial(_worst, item, kind)) for item in evidence]
        _, drawn = max(found, key=lambda pair: pair[0], default=(1.0, None))
        if drawn is not None:
            return drawn
    return None


def _worst(item: Evidence, kind: str) -> tuple[float, Picture | None]:
    """By how much the worst array of one case exceeds its allowance, and its picture."""
    worst, found = 1.0, None
    for path, reference, other, room in _pairs(item, kind):
        error = deviation(reference, other)
        ratio = error / room if room else math.inf if error else 0.0
        if ratio > worst:
            worst, found = ratio, (path or "output", item.case.name, reference, other, room)
    return worst, None if found is None else picture(*found)


def _pairs(item: Evidence, kind: str) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """Arrays of both sides of one shape, finite on both, with what rounding explains."""
    other = getattr(item.flax, kind)
    for path, reference in getattr(item.reference, kind).items():
        found = other.get(path)
        if found is None or reference is None or reference.shape != found.shape or not reference.size:
            continue
        if not (np.issubdtype(reference.dtype, np.floating) and np.isfinite(reference).all()):
            continue
        if np.isfinite(found).all():
            moved = np.max(getattr(item.moved, kind).get(path, 0.0), initial=0.0)
            yield path, reference, found, SAMENESS_FACTOR * float(moved)


def picture(path: str, case: str, reference: np.ndarray, found: np.ndarray, allowed: float) -> Picture:
    """The differences of two arrays on a grid of at most 48 by 48 cells, each holding its largest.

    Args:
        path, case: names.
        reference, found: arrays of one shape, not empty; leading axes are joined to rows.
        allowed: what rounding explains.
    """
    difference = np.abs(reference - found)
    index = np.unravel_index(int(difference.argmax()), difference.shape)
    matrix = difference.reshape(-1, difference.shape[-1] if difference.ndim > 1 else difference.size)
    row_starts, column_starts = (_starts(size) for size in matrix.shape)
    cells = np.maximum.reduceat(np.maximum.reduceat(matrix, row_starts, axis=0), column_starts, axis=1)
    row, column = np.unravel_index(int(matrix.argmax()), matrix.shape)
    cell = (
        int(np.searchsorted(row_starts, row, side="right")) - 1,
        int(np.searchsorted(column_starts, column, side="right")) - 1,
    )
    return Picture(
        path=path,
        case=case,
        shape=tuple(reference.shape),
        cells=tuple(tuple(float(x) for x in line) for line in cells),
        allowed=allowed,
        index=tuple(int(i) for i in index) or None,
        cell=cell,
        expected=float(reference[index]),
        found=float(found[index]),
    )


def _starts(size: int) -> np.ndarray:
    """Where each of at most 48 nearly equal pieces of ``size`` begins."""
    pieces = min(size, _CELLS)
    return np.arange(pieces) * size // pieces
