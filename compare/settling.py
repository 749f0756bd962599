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

Numbers = tuple[int, ...]


def settle(mapping: WeightMapping, legs: Legs, case: Case) -> WeightMapping:
    """``mapping`` with its choices taken so that Flax agrees with torch.

    If no way agrees, what conventions and order propose is kept and the checks say what differs; where not even an
    order spoke for it, the choice is listed as ambiguous.

    Args:
        mapping: as names, order and shapes propose it.
        legs: of the port; both Flax legs are given the mapping that is returned.
        case: without cotangents, with redrawn weights; initial ones may be symmetric.
    """
    if not mapping.choices and mapping.other is None:
        return mapping
    chosen = None
    for proposed in filter(None, (mapping, mapping.other)):
        search = _Search(proposed, legs, case)
        try:
            numbers = search.best()
        except Exception:  # one of the models does not run: the checks say so in their own words
            continue
        if numbers is not None:
            chosen = search.taken(numbers, agreed=True)
            break
    if chosen is None:
        open_ = tuple(choice.describe() for choice in mapping.choices if choice.blind)
        chosen = dataclasses.replace(mapping, ambiguous=open_)
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

    def taken(self, numbers: Numbers, agreed: bool = False) -> WeightMapping:
        """The mapping with option ``numbers[i]`` of choice ``i``."""
        mapping = self.mapping
        for choice, number in zip(mapping.choices, numbers, strict=True):
            mapping = mapping.choosing(choice, number, "agreement" if agreed else "order")
        return mapping

    def best(self) -> Numbers | None:
        """The first way that agrees, None where none does."""
        if self.legs.torch64.mode == "train":
            self.case = dataclasses.replace(self.case, masks=self.legs.torch64.record_masks(self.case, seed=0))
        reference = self.legs.torch64.run(self.case).outputs
        scale = max((float(np.abs(a).max()) for a in reference.values() if a.size), default=0.0)
        for numbers in self._ways(reference):
            if self._error(numbers, reference) <= _AGREES * scale:
                return numbers
        return None

    def _error(self, numbers: Numbers, reference: Mapping[str, np.ndarray]) -> float:
        """How far Flax's outputs are from torch's."""
        self.legs.flax64.mapping = self.taken(numbers)
        found = self.legs.flax64.run(self.case).outputs
        leaves = [compare_arrays(path, array, found[path], 0.0) for path, array in reference.items() if path in found]
        return max((np.inf if leaf.detail else leaf.error for leaf in leaves), default=np.inf)

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
