"""Features in pieces: each column as its shares of bins that hold equally many training rows."""

import itertools
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fcjax.datasets.dataset import DataError

__all__ = ["Pieces"]


@dataclass(frozen=True)
class Pieces:
    """A number x as the shares of its feature's bins that lie below it, ``clip((x - start) / (end - start), 0, 1)``.

    A linear function of the shares is a continuous, piecewise linear one of x, level outside the bins: the encoding of
    Gorishniy et al., "On embeddings for numerical features in tabular deep learning" (2022).

    Args:
        edges: for each feature those of its bins, strictly ascending, at least two.

    Raises:
        DataError: edges are missing, not finite, or don't rise.
    """

    edges: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(tuple(map(float, feature)) for feature in self.edges))
        for number, feature in enumerate(self.edges):
            rising = all(a < b for a, b in itertools.pairwise(feature))
            if len(feature) < 2 or not rising or not np.isfinite(feature).all():
                raise DataError(
                    f"pieces, feature {number}: expected at least two finite edges that rise, found {feature[:4]}"
                )

    @classmethod
    def fit(cls, x: ArrayLike, bins: int) -> Self:
        """At most ``bins`` bins for each column of ``x``, shape ``(rows, features)``; edges are values that occur.

        Equal quantiles are one edge: a column of 0 and 1 has one bin. One that never changes has a bin of width 1.
        """
        quantiles = np.quantile(np.asarray(x, np.float64), np.linspace(0, 1, bins + 1), axis=0, method="lower")
        different = (np.unique(column).tolist() for column in quantiles.T)
        return cls(tuple(tuple(c if len(c) > 1 else (c[0], c[0] + 1)) for c in different))

    def apply(self, x: ArrayLike) -> NDArray[np.float32]:
        """The shares of ``x``, shape ``(rows, features)``: ``(rows, bins of all features)``.

        Raises:
            DataError: another number of features.
        """
        values = np.asarray(x, np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.edges):
            raise DataError(f"pieces: expected shape (rows, {len(self.edges)}), found {values.shape}")
        columns = []
        for column, feature in zip(values.T, self.edges, strict=True):
            start, size = np.array(feature[:-1]), np.diff(feature)
            columns.append(np.clip((column[:, None] - start) / size, 0, 1))
        return np.concatenate(columns, axis=1).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, of which ``Pieces(**values)`` makes an equal object."""
        return {"edges": [list(feature) for feature in self.edges]}
