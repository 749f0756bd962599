"""One torch array, or a part of one, to one Flax leaf, or a part of one: linear, with its transpose."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

__all__ = ["Found", "Part", "Rule"]

Found = Literal["name", "order", "shape", "agreement", "given"]


@dataclasses.dataclass(frozen=True)
class Part:
    """Some elements of an array.

    Args:
        view: the shape as which the whole array is seen.
        index: which elements of that view.
    """

    view: tuple[int, ...]
    index: tuple[int | slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the part."""
        sizes = [
            len(range(*i.indices(size))) for i, size in zip(self.index, self.view, strict=False) if isinstance(i, slice)
        ]
        return (*sizes, *self.view[len(self.index) :])

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part of ``array``; of a contiguous one a view that can be written to."""
        return array.reshape(self.view)[self.index]

    def describe(self) -> str:
        """As one writes it after the array's name."""
        texts = [f"{i.start or 0}:{i.stop}" if isinstance(i, slice) and i.stop is not None else i for i in self.index]
        return f"[{', '.join(':' if isinstance(text, slice) else str(text) for text in texts)}]"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One torch array to one Flax leaf.

    Args:
        source: torch name.
        target: dotted Flax path.
        permutation: axes as ``np.transpose`` takes them; None leaves the array as it is. A permutation is orthogonal:
            its transpose is its inverse, and so it is with all that follows but ``transform`` and ``added``.
        transform: a linear function of the array given by the user instead, traceable by JAX.
        shape: the source's shape, which the transpose needs.
        part: the elements of the source that are taken; None for all.
        flip: axes reversed after the permutation.
        result: the shape that the permuted array is seen as; None keeps it.
        place: where in the target it goes, None for the whole of it.
        target_shape: of the whole target, where ``place`` is given.
        added: whether another rule fills the same elements before, so that the target holds the sum.
        inverse: the user's function from the Flax array back to the torch array.
        found: what proposed the pair.
    """

    source: str
    target: str
    permutation: tuple[int, ...] | None = None
    transform: Callable[[Any], Any] | None = None
    shape: tuple[int, ...] = ()
    part: Part | None = None
    flip: tuple[int, ...] = ()
    result: tuple[int, ...] | None = None
    place: Part | None = None
    target_shape: tuple[int, ...] = ()
    added: bool = False
    inverse: Callable[[Any], Any] | None = None
    found: Found = "name"

    def forward(self, array: np.ndarray) -> np.ndarray:
        """The Flax value of a torch value: what goes to ``place``."""
        if self.transform is not None:
            return np.asarray(self.transform(array))
        moved = array if self.part is None else self.part.of(array)
        moved = moved if self.permutation is None else np.transpose(moved, self.permutation)
        moved = np.flip(moved, self.flip) if self.flip else moved
        return moved if self.result is None else moved.reshape(self.result)

    def transpose(self, array: np.ndarray) -> np.ndarray:
        """The torch gradient of a Flax gradient at ``place``; without ``transform`` also the value of a value.

        Returns:
            An array of the shape of ``part``, or of the whole source where that is None.
        """
        if self.transform is not None:
            return self._linear_transpose(array)
        moved = array if self.result is None else array.reshape(self._moved_shape())
        moved = np.flip(moved, self.flip) if self.flip else moved
        return moved if self.permutation is None else np.transpose(moved, np.argsort(self.permutation))

    def _moved_shape(self) -> tuple[int, ...]:
        taken = self.shape if self.part is None else self.part.shape
        return taken if self.permutation is None else tuple(taken[axis] for axis in self.permutation)

    def _linear_transpose(self, array: np.ndarray) -> np.ndarray:
        import jax

        assert self.transform is not None
        with jax.enable_x64(True):
            like = jax.ShapeDtypeStruct(self.shape, array.dtype)
            (result,) = jax.linear_transpose(self.transform, like)(array)
            return np.asarray(result)

    @property
    def size(self) -> int:
        """Number of the source's elements that move."""
        return math.prod(self.shape if self.part is None else self.part.shape)

    def describe(self) -> str:
        """How the array changes, in words."""
        if self.transform is not None:
            return "by the given function"
        words = [] if self.part is None else [f"part {self.part.describe()}"]
        if self.permutation is not None:
            words.append("transposed" if self.permutation == (1, 0) else f"axes {self.permutation}")
        words += [f"reversed along axes {self.flip}"] if self.flip else []
        words += [f"as shape {self.result}"] if self.result is not None else []
        words += [f"into {self.place.describe()}"] if self.place is not None else []
        words += ["added"] if self.added else []
        return ", ".join(words) or "as it is"
