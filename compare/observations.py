"""What can be said of two arrays that differ, when no known mistake explains it."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

__all__ = ["observe"]

# Two arrays count as equal here at this share of their size. These are hints for a reader and decide nothing.
_CLOSE = 1e-9


def observe(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """In words, how Flax's arrays relate to torch's: a factor, another order, single rows, one sign only.

    Args:
        pairs: torch's and Flax's arrays at one place, in one layout.
    """
    for torch, flax in pairs:
        if torch.shape != flax.shape:
            return f"torch has shape {torch.shape} there, Flax {flax.shape}"
        if np.issubdtype(torch.dtype, np.floating) and not _close(torch, flax):
            return next(_relations(torch.astype(np.float64), flax.astype(np.float64)))
    return "the values agree there, the gradients do not"


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    size = float(np.abs(one).max(initial=0.0)) or 1.0
    return bool(np.allclose(other, one, rtol=_CLOSE, atol=_CLOSE * size, equal_nan=True))


def _relations(torch: np.ndarray, flax: np.ndarray) -> Iterator[str]:
    if not (np.isfinite(torch).all() and np.isfinite(flax).all()):
        only = "Flax" if np.isfinite(torch).all() else "torch" if np.isfinite(flax).all() else "each at its own places"
        yield f"there are values that are not finite ({only})"
        return
    yield from _line(torch, flax)
    yield from _order(torch, flax)
    yield from _part(torch, flax)
    yield from _along_axes(torch, flax)
    yield from _function(torch, flax)
    apart, size = float(np.abs(flax - torch).max()), float(np.abs(torch).max())
    yield f"Flax and torch are {apart:.2g} apart, values reach {size:.2g}, with no simple relation"


def _line(torch: np.ndarray, flax: np.ndarray) -> Iterator[str]:
    square = float(np.vdot(torch, torch))
    factor = float(np.vdot(torch, flax)) / square if square else 0.0
    if not flax.any():
        yield "Flax's values are all zero"
    if _close(factor * torch, flax):
        yield f"Flax = {factor:.6g} x torch"
    shift = float((flax - torch).mean())
    if _close(torch + shift, flax):
        yield f"Flax = torch {'+' if shift > 0 else '-'} {abs(shift):.6g}"
    if torch.size > 2 and torch.std() > 0:
        slope, offset = np.polyfit(torch.ravel(), flax.ravel(), 1)
        if _close(slope * torch + offset, flax):
            yield f"Flax = {slope:.6g} x torch + {offset:.6g}"


def _order(torch: np.ndarray, flax: np.ndarray) -> Iterator[str]:
    rank = torch.ndim
    for i, j in itertools.combinations(range(rank), 2):
        if _close(torch.swapaxes(i, j), flax):
            yield f"equal after exchanging axes {i} and {j}"
    for axis in range(rank):
        if _close(np.flip(torch, axis), flax):
            yield f"equal after reversing axis {axis}"
        for by in (1, -1, torch.shape[axis] // 2):
            if _close(np.roll(torch, by, axis), flax):
                yield f"equal after shifting axis {axis} by {by}"
        if _close(np.sort(torch, axis), np.sort(flax, axis)):
            yield f"Flax's values are torch's in another order along axis {axis}"
    if _close(np.sort(torch, None), np.sort(flax, None)):
        yield "Flax's values are torch's in another order"


def _part(torch: np.ndarray, flax: np.ndarray) -> Iterator[str]:
    """Where they are equal, and where not."""
    size = float(np.abs(torch).max()) or 1.0
    wrong = np.abs(flax - torch) > _CLOSE * size
    conditions: list[tuple[str, np.ndarray]] = [("torch's values are negative", torch < 0)]
    conditions += [("torch's values are positive", torch > 0), ("torch's values are zero", torch == 0)]
    for words, where in conditions:
        if where.any() and not where.all() and not wrong[~where].any():
            yield f"differs only where {words}"
    for axis in range(torch.ndim):
        rows = wrong.any(axis=tuple(other for other in range(torch.ndim) if other != axis))
        bad = np.flatnonzero(rows)
        if len(rows) > 1 and len(bad) < len(rows):
            last = f"{bad[0]}" if len(bad) == 1 else f"{bad[0]} to {bad[-1]}"
            yield f"differs only at index {last} of axis {axis} (length {len(rows)})"
    if wrong.sum() <= wrong.size // 10:
        yield f"differs at {int(wrong.sum())} of {wrong.size} entries only"


def _along_axes(torch: np.ndarray, flax: np.ndarray) -> Iterator[str]:
    """A factor or a term of its own for each index of an axis."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, gap = flax / torch, flax - torch
    for axis in range(torch.ndim):
        others = tuple(other for other in range(torch.ndim) if other != axis)
        if not others or torch.size == torch.shape[axis]:
            continue
        for words, values, joined in (
            ("multiplied by a factor", ratio, np.multiply),
            ("shifted by a term", gap, np.add),
        ):
            usual = np.nan_to_num(np.median(values, axis=others, keepdims=True), nan=1.0, posinf=1.0, neginf=1.0)
            if _close(joined(torch, usual), flax):
                yield f"each index of axis {axis} is {words} of its own"


def _function(torch: np.ndarray, flax: np.ndarray) -> Iterator[str]:
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "max(torch, 0)": lambda x: np.maximum(x, 0),
        "abs(torch)": np.abs,
        "torch squared": np.square,
        "exp(torch)": np.exp,
        "tanh(torch)": np.tanh,
    }
    with np.errstate(all="ignore"):
        for words, function in functions.items():
            for this, that, form in (
                (torch, flax, f"Flax = {words}"),
                (flax, torch, f"torch = {words.replace('torch', 'Flax')}"),
            ):
                if _close(function(this), that):
                    yield form
    positive = (torch > 0) & (flax > 0)
    if positive.sum() > 2 and np.log(torch[positive]).std() > 0:
        power, offset = np.polyfit(np.log(torch[positive]), np.log(flax[positive]), 1)
        if _close(np.exp(power * np.log(torch[positive]) + offset), flax[positive]):
            yield f"where both are positive, Flax = {np.exp(offset):.6g} x torch to the power of {power:.6g}"
