"""What names and shapes leave open, the two computations decide: only agreement in float64 confirms a mapping."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from compare.evidence import Legs
from compare.legs.run import Case
from compare.mapping.weight_mapping import WeightMapping
from compare.verdict import compare_arrays

__all__ = ["settle"]

# Beyond this many ways all together are too many to try; then each choice is tried alone, and kept where it helps.
_MOST_WAYS = 128
# The right way agrees to rounding, some 1e-13; a wrong one is apart by about the size of the outputs.
_AGREES = 1e-6
# Two wrong ways are apart by about as much as either is from torch; the right one, but for a mistake, by less.
_MUCH_NEARER = 0.5

Numbers = tuple[int, ...]


def settle(mapping: WeightMapping, legs: Legs, case: Case) -> WeightMapping:
    """``mapping`` with its choices taken so that Flax agrees with torch.

    If no way agrees, what conventions and order propose is kept and the checks say what differs. Where not even an
    order spoke for it, the port is wrong whichever way is meant, provided that all were tried: then the one that comes
    much nearer than the first is taken. Else the choice is listed as ambiguous.

    Args:
        mapping: as names, order and shapes propose it.
        legs: of the port; both Flax legs are given the mapping that is returned.
        case: without cotangents, with redrawn weights; initial ones may be symmetric.
    """
    if not mapping.choices and mapping.other is None:
        return mapping
    searches = [_Search(proposed, legs, case) for proposed in (mapping, mapping.other) if proposed is not None]
    chosen = next((found for search in searches if (found := search.agreeing()) is not None), None)
    if chosen is None:
        undecided = tuple(choice.describe() for choice in mapping.choices if choice.blind)
        if all(search.exhausted for search in searches):
            chosen = dataclasses.replace(searches[0].nearest(), refuted=undecided)
        else:
            chosen = dataclasses.replace(mapping, ambiguous=undecided)
    chosen = dataclasses.replace(chosen, other=None)
    legs.flax64.mapping = legs.flax32.mapping = chosen
    return chosen


class _Search:
    """Runs both models for one way of taking all choices after the other."""

    def __init__(self, mapping: WeightMapping, legs: Legs, case: Case) -> None:
        self.mapping = mapping
        self.legs = legs
        self.case = case
        self.sizes = [len(choice.options) for choice in mapping.choices]
        self.exhausted = False
        self._errors: dict[Numbers, float] = {}

    def taken(self, numbers: Numbers, agreed: bool = False) -> WeightMapping:
        """The mapping with option ``numbers[i]`` of choice ``i``."""
        mapping = self.mapping
        for choice, number in zip(mapping.choices, numbers, strict=True):
            mapping = mapping.choosing(choice, number, "agreement" if agreed else "order")
        return mapping

    def agreeing(self) -> WeightMapping | None:
        """The mapping with the first way that agrees, None where none does."""
        try:
            numbers = self._first()
        except Exception:  # one of the models does not run: the checks say so in their own words
            return None
        return None if numbers is None else self.taken(numbers, agreed=True)

    def nearest(self) -> WeightMapping:
        """The mapping with the way that came much nearer than the first, and with the first if none did."""
        first = (0,) * len(self.sizes)
        best = min(self._errors, key=self._errors.__getitem__)
        return self.taken(best if self._errors[best] < _MUCH_NEARER * self._errors[first] else first)

    def _first(self) -> Numbers | None:
        if self.legs.torch64.mode == "train":
            self.case = dataclasses.replace(self.case, masks=self.legs.torch64.record_masks(self.case, seed=0))
        reference = self.legs.torch64.run(self.case).outputs
        scale = max((float(np.abs(a).max()) for a in reference.values() if a.size), default=0.0)
        for numbers in self._ways(reference):
            if self._error(numbers, reference) <= _AGREES * scale:
                return numbers
        self.exhausted = math.prod(self.sizes) <= _MOST_WAYS
        return None

    def _error(self, numbers: Numbers, reference: Mapping[str, np.ndarray]) -> float:
        """How far Flax's outputs are from torch's."""
        self.legs.flax64.mapping = self.taken(numbers)
        found = self.legs.flax64.run(self.case).outputs
        leaves = [compare_arrays(path, array, found[path], 0.0) for path, array in reference.items() if path in found]
        self._errors[numbers] = max((np.inf if leaf.detail else leaf.error for leaf in leaves), default=np.inf)
        return self._errors[numbers]

    def _ways(self, reference: Mapping[str, np.ndarray]) -> Iterator[Numbers]:
        if math.prod(self.sizes) <= _MOST_WAYS:
            yield from itertools.product(*map(range, self.sizes))
            return
        first = (0,) * len(self.sizes)
        yield first
        yield tuple(size - 1 for size in self.sizes)
        best, error = first, self._error(first, reference)
        for i, size in enumerate(self.sizes):
            for number in range(1, size):
                other = (*best[:i], number, *best[i + 1 :])
                yield other
                if (found := self._error(other, reference)) < error:
                    best, error = other, found
