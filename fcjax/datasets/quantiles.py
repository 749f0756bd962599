"""Features by rank: each column goes through its own training quantiles to a standard normal distribution."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fcjax.datasets.dataset import DataError

__all__ = ["Quantiles"]

ROWS_PER_LEVEL, FEWEST, MOST = 30, 10, 1000
"""A column has a knot for so many of its rows, within these bounds: finer ones would copy the sample's noise."""


@dataclass(frozen=True, eq=False)
class Quantiles:
    """For each feature a rising curve from values to scores: straight lines between knots, level outside of them.

    The score of a training value is ``Φ⁻¹((rows below it + half of those equal to it) / rows)``, with ``Φ`` the
    distribution function of the standard normal, so that outliers come near, crowds are spread out, and any rising
    change of a feature's unit changes nothing.

    Args:
        knots: for each feature its values, strictly ascending.
        scores: the score of each knot, as long.

    Raises:
        DataError: lengths differ, a knot or score is not finite, or they don't rise.
    """

    knots: tuple[NDArray[np.float64], ...]
    scores: tuple[NDArray[np.float64], ...]

    def __post_init__(self) -> None:
        for name in ("knots", "scores"):
            curves = tuple(np.asarray(curve, np.float64) for curve in getattr(self, name))
            object.__setattr__(self, name, curves)
            for feature, curve in enumerate(curves):
                if curve.ndim != 1 or not curve.size or not np.isfinite(curve).all() or (np.diff(curve) <= 0).any():
                    raise DataError(f"quantiles, {name} of feature {feature}: expected finite numbers that rise")
        lengths = [tuple(map(len, curves)) for curves in (self.knots, self.scores)]
        if lengths[0] != lengths[1]:
            raise DataError(f"quantiles: expected a score for each knot, found {lengths[1]} for {lengths[0]}")

    @classmethod
    def fit(cls, x: ArrayLike) -> Self:
        """The curves of the columns of ``x``, shape ``(rows, features)``; a column that never changes scores 0."""
        columns = [_curve(column) for column in np.asarray(x, np.float64).T]
        return cls(tuple(knots for knots, _ in columns), tuple(scores for _, scores in columns))

    def apply(self, x: ArrayLike) -> NDArray[np.float32]:
        """The scores of ``x``, shape ``(rows, features)``; a value beyond the training part's has its outermost score.

        Raises:
            DataError: another number of features.
        """
        values = np.asarray(x, np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.knots):
            raise DataError(f"quantiles: expected shape (rows, {len(self.knots)}), found {values.shape}")
        curves = zip(values.T, self.knots, self.scores, strict=True)
        return np.stack([np.interp(*curve) for curve in curves], axis=1).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, of which ``Quantiles(**values)`` makes an equal object."""
        return {name: [curve.tolist() for curve in getattr(self, name)] for name in ("knots", "scores")}


def _curve(column: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Knots and scores of one feature."""
    rows = len(column)
    values, counts = np.unique(column, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / rows  # in (0, 1), the middle of the ranks of equal values
    levels = min(max(rows // ROWS_PER_LEVEL, FEWEST), MOST)
    chosen = np.arange(len(values))
    if len(values) > levels:  # the first and the last one, and those nearest above evenly spaced ranks
        chosen = np.unique(np.searchsorted(ranks, np.linspace(ranks[0], ranks[-1], levels)))
    scores = [NormalDist().inv_cdf(rank) for rank in ranks[chosen].tolist()]
    return values[chosen], np.asarray(scores)
