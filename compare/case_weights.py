"""Weights of a case: float64 numbers on every leg, held in half of that or less, or as factors of other weights.

A check tries a model on several sets of weights. Each number is one that float32 holds, so that float32 can keep it,
and an array becomes float64 only while a leg takes it. Large ones that were drawn are not kept at all.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from compare.structure import exact, is_floating

__all__ = ["Arrays", "Held", "Replaced", "Scaled", "Tiled", "shape_of"]

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tiled:
    """An array of one row of numbers over and over.

    Args:
        tile: the numbers, in float32.
        shape: of the array.
        zero: the index of a row of zeros instead; None for none.
    """

    tile: np.ndarray
    shape: tuple[int, ...]
    zero: int | None = None

    def whole(self) -> np.ndarray:
        """The array, made anew."""
        array = np.resize(self.tile, self.shape)
        if self.zero is not None:
            array[self.zero] = 0.0
        return array


class _Weights(Mapping[str, np.ndarray]):
    """Arrays by name, each made as it is asked for; names and shapes are told without making any."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the array called ``name``."""
        raise NotImplementedError


class _Narrow(_Weights):
    """Arrays as they are kept, tiled ones made as they are asked for."""

    def __init__(self, kept: Mapping[str, np.ndarray | Tiled]) -> None:
        super().__init__(kept)
        self.kept = kept

    def __getitem__(self, name: str) -> np.ndarray:
        kept = self.kept[name]
        return kept.whole() if isinstance(kept, Tiled) else kept

    def shape(self, name: str) -> tuple[int, ...]:
        return self.kept[name].shape


class Held(_Weights):
    """Arrays by name, floating ones given out in float64.

    Args:
        arrays: floating ones are kept in float32: as they are where that is their type, else as copies.

    Attributes:
        narrow: the arrays as they are kept.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray | Tiled]) -> None:
        super().__init__(arrays)
        self.narrow = _Narrow({name: _narrow(array) for name, array in arrays.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.narrow[name]
        return array.astype(np.float64) if is_floating(array) else array

    def shape(self, name: str) -> tuple[int, ...]:
        return self.narrow.shape(name)


def _narrow(array: np.ndarray | Tiled) -> np.ndarray | Tiled:
    return array.astype(np.float32, copy=False) if isinstance(array, np.ndarray) and is_floating(array) else array


class Replaced(_Weights):
    """``base`` with other arrays in place of some.

    Args:
        base: other weights.
        own: the others, by name.
    """

    def __init__(self, base: Arrays, own: Arrays) -> None:
        super().__init__(base)
        self.base, self.own = base, own

    def __getitem__(self, name: str) -> np.ndarray:
        return self.own[name] if name in self.own else self.base[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return shape_of(self.base, name)


class Scaled(_Weights):
    """``base``, arrays of it times a factor, rounded so that float32 holds them.

    Args:
        base: other weights.
        factors: by name; the arrays without one stay.
    """

    def __init__(self, base: Arrays, factors: Mapping[str, float]) -> None:
        super().__init__(base)
        self._base, self._factors = base, factors

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._base[name]
        return exact(array * self._factors[name]) if name in self._factors else array

    def shape(self, name: str) -> tuple[int, ...]:
        return shape_of(self._base, name)


def shape_of(weights: Arrays, name: str) -> tuple[int, ...]:
    """The shape of one array, which is not made for that."""
    return weights.shape(name) if isinstance(weights, _Weights) else weights[name].shape
