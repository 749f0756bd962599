"""A mistake with one unknown number: the number is solved for."""

import math
from collections.abc import Callable, Iterator

import numpy as np

__all__ = ["round_numbers", "solve"]

_STEPS = 12
_HALVINGS = 3
# A number that explains less than this share of the difference to first order, at the start, is not the one.
_LEAST_SHARE = 0.3


def solve(difference: Callable[[float], np.ndarray | None], start: float, step: float, enough: float) -> float | None:
    """The number at which ``difference`` vanishes, by Gauss-Newton steps with secant slopes.

    Args:
        difference: a vector; None where the computation breaks down.
        start, step: the first number, and how far off the second is.
        enough: size of the largest entry at which the search ends.

    Returns:
        The best number found, or None if the difference does not go down along this number.
    """
    here, there = difference(start), difference(start + step)
    if here is None or there is None or not (np.isfinite(here).all() and np.isfinite(there).all()):
        return None
    x, y, previous = start + step, there, (start, here)
    best = (float(np.abs(here).max(initial=0.0)), start)
    if float(np.abs(there - here).max(initial=0.0)) == 0:
        return None
    for turn in range(_STEPS):
        slope = (y - previous[1]) / (x - previous[0])
        square = float(slope @ slope)
        if not (np.isfinite(square) and square > 0):
            break
        share = float(slope @ y) ** 2 / (square * float(y @ y) or 1.0)
        if turn == 0 and share < _LEAST_SHARE and float(y @ y):
            return None
        move = -float(slope @ y) / square
        following = difference(x + move)
        for _ in range(_HALVINGS):  # a step too far, out of the numbers that make sense there
            if following is not None and np.isfinite(following).all():
                break
            move /= 2
            following = difference(x + move)
        if x + move == x or following is None or not np.isfinite(following).all():
            break
        previous, x, y = (x, y), x + move, following
        size = float(np.abs(y).max(initial=0.0))
        if size < best[0]:
            best = (size, x)
        if size <= enough or x == previous[0]:
            break
        if turn > 4 and size > 0.5 * float(np.abs(previous[1]).max(initial=0.0)):
            break  # it stagnates
    return best[1]


def round_numbers(value: float) -> Iterator[float]:
    """What a person may have typed for it: 0 to 6 digits, a reciprocal, a root; then the number as it is."""
    yield 0.0
    for digits in range(1, 7):
        yield float(f"{value:.{digits - 1}e}")
    if value:
        yield math.copysign(1 / float(f"{abs(1 / value):.3g}"), value)
        yield math.copysign(math.sqrt(float(f"{value * value:.3g}")), value)
        yield math.copysign(1 / math.sqrt(float(f"{1 / (value * value):.3g}")), value)
    yield value
