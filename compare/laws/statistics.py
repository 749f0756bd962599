"""Tests of randomness without assumptions about the law, in NumPy; the only place that judges random numbers.

Every test returns a p-value; ``Alarm`` divides the false-alarm rate by the number of tests (Bonferroni), so that the
rate holds for a whole report whatever the tests have to do with each other.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

__all__ = [
    "FALSE_ALARMS",
    "Alarm",
    "binomial",
    "correlation",
    "critical_distance",
    "distance",
    "exceedance",
    "kolmogorov",
    "ks_one_sample",
    "ks_two_samples",
]

# Of right ports, at most one report in a thousand fails by chance.
FALSE_ALARMS = 1e-3


@dataclasses.dataclass(frozen=True)
class Alarm:
    """The threshold of one among ``tests`` tests.

    Args:
        tests: how many p-values are judged together.
        rate: of false alarms over all of them.
    """

    tests: int
    rate: float = FALSE_ALARMS

    @property
    def threshold(self) -> float:
        """The p-value below which a test fails."""
        return self.rate / max(self.tests, 1)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The Kolmogorov-Smirnov statistic: the largest difference of two empirical distribution functions."""
    first, second = np.sort(first), np.sort(second)
    points = np.concatenate([first, second])
    below = (
        np.searchsorted(first, points, "right") / first.size - np.searchsorted(second, points, "right") / second.size
    )
    return float(np.abs(below).max())


def kolmogorov(statistic: float, size: float) -> float:
    """The p-value of a Kolmogorov-Smirnov statistic.

    ``2 Σ (-1)^(j-1) exp(-2 j² λ²)`` with ``λ = (√n + 0.12 + 0.11/√n) D`` (Stephens 1970).

    Args:
        statistic: the largest difference.
        size: number of samples; ``n m / (n + m)`` for two samples.
    """
    root = math.sqrt(size)
    argument = (root + 0.12 + 0.11 / root) * statistic
    if argument < 0.2:  # the series converges slowly there, to one
        return 1.0
    terms = [(-1) ** (j - 1) * math.exp(-2 * j * j * argument * argument) for j in range(1, 101)]
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def critical_distance(probability: float, size: float) -> float:
    """The statistic whose p-value is ``probability``, from the leading term of the series."""
    root = math.sqrt(size)
    return math.sqrt(-math.log(probability / 2) / 2) / (root + 0.12 + 0.11 / root)


def ks_two_samples(first: np.ndarray, second: np.ndarray) -> float:
    """The p-value of "both samples follow one law"; ties make it larger, never smaller."""
    return kolmogorov(distance(first, second), first.size * second.size / (first.size + second.size))


def ks_one_sample(sample: np.ndarray, cumulative: Callable[[np.ndarray], np.ndarray]) -> float:
    """The p-value of "the sample follows the law with this distribution function"."""
    values = cumulative(np.sort(sample))
    n = sample.size
    steps = np.arange(n + 1) / n
    statistic = max(float((steps[1:] - values).max()), float((values - steps[:-1]).max()))
    return kolmogorov(statistic, n)


def exceedance(first: np.ndarray, second: np.ndarray) -> float:
    """The p-value of "neither sample reaches beyond the other", at both ends; exact for a continuous law.

    If k of the second sample's n lie above all m of the first's, the chance of that is
    ``Π (n - i) / (n + m - i)`` over ``i < k``. It tells bounded laws from unbounded ones, which the largest difference
    of distribution functions hardly does.
    """
    chances = []
    for sign in (1.0, -1.0):
        for a, b in ((sign * first, sign * second), (sign * second, sign * first)):
            count = int((b > a.max()).sum())
            i = np.arange(min(count, 200))  # the chance is nothing long before
            chances.append(float(np.prod((b.size - i) / (a.size + b.size - i))))
    return min(1.0, 4 * min(chances))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """The p-value of "the two are independent", by their correlation.

    One for fewer than eight pairs, or where one of them is constant: nothing can be said.
    """
    n = first.size
    if n < 8 or first.std() == 0 or second.std() == 0:
        return 1.0
    r = float(np.corrcoef(first, second)[0, 1])
    r = min(max(r, -1 + 1e-15), 1 - 1e-15)
    # Fisher's transform: close to normal down to a few pairs.
    return math.erfc(abs(math.atanh(r)) * math.sqrt(max(n - 3, 1)) / math.sqrt(2))


def binomial(successes: int, trials: int, probability: float) -> float:
    """A bound on the two-sided p-value of a number of successes: Chernoff's, ``2 exp(-n KL)``, never too small."""
    if trials == 0:
        return 1.0
    seen = successes / trials

    def part(a: float, b: float) -> float:
        return 0.0 if a == 0 else math.inf if b == 0 else a * math.log(a / b)

    divergence = part(seen, probability) + part(1 - seen, 1 - probability)
    return min(1.0, 2 * math.exp(-trials * divergence))
