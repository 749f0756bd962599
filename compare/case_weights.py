"""Weights of a case: float64 numbers on every leg, held in half of that, or as factors of other weights.

A check tries a model on several sets of weights. Each number is one that float32 holds, so that float32 can keep it,
and an array becomes float64 only while a leg takes it.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from compare.structure import exact, is_floating

__all__ = ["Arrays", "Held", "Replaced", "Scaled"]

Arrays = Mapping[str, np.ndarray]


class Held(Mapping[str, np.ndarray]):
    """Arrays by name, floating ones given out in float64.

    Args:
        arrays: floating ones are kept in float32: as they are where that is their type, else as copies.

    Attributes:
        narrow: the arrays as they are kept.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.narrow = {
            name: array.astype(np.float32, copy=False) if is_floating(array) else array
            for name, array in arrays.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.narrow[name]
        return array.astype(np.float64) if is_floating(array) else array

    def __iter__(self) -> Iterator[str]:
        return iter(self.narrow)

    def __len__(self) -> int:
        return len(self.narrow)


class Replaced(Mapping[str, np.ndarray]):
    """``base`` with other arrays in place of some.

    Args:
        base: other weights.
        arrays: by name.
    """

    def __init__(self, base: Arrays, arrays: Arrays) -> None:
        self._base, self._own = base, arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._own[name] if name in self._own else self._base[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


class Scaled(Mapping[str, np.ndarray]):
    """``base``, arrays of it times a factor, rounded so that float32 holds them.

    Args:
        base: other weights.
        factors: by name; the arrays without one stay.
    """

    def __init__(self, base: Arrays, factors: Mapping[str, float]) -> None:
        self._base, self._factors = base, factors

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._base[name]
        return exact(array * self._factors[name]) if name in self._factors else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)
