"""Which way round is a square matrix? Shapes do not tell, so the two computations decide."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from compare.evidence import Legs
from compare.legs.run import Case
from compare.verdict import compare_arrays
from compare.weights import Rule, WeightMapping

__all__ = ["settle"]

# Beyond this many undecided arrays all ways round are too many to try; then each is turned alone.
_MOST_TOGETHER = 6


def settle(mapping: WeightMapping, legs: Legs, case: Case) -> WeightMapping:
    """``mapping`` with its undecided arrays the way round that brings Flax closest to torch.

    Only arrays of the user's own that are square are undecided: a ``torch.nn.Linear``, for one, has a convention. If no
    way round agrees the convention's is kept, and the checks say what differs.

    Args:
        mapping: as names and shapes propose it.
        legs: of the port; both Flax legs are given the mapping that is returned.
        case: without cotangents, with redrawn weights; initial ones may be symmetric.
    """
    undecided = [rule for rule in mapping.rules if rule.alternatives]
    if not undecided:
        return mapping
    try:
        errors = _errors(mapping, undecided, legs, case)
    except Exception:  # one of the models does not run: the checks say so in their own words
        errors = [(0.0, mapping)]
    best = min(errors, key=lambda pair: pair[0])
    # The right way round agrees to rounding, some 1e-13; a wrong one is apart by about the size of the outputs.
    chosen = best[1] if best[0] < 1e-6 * errors[0][0] else mapping
    legs.flax64.mapping = legs.flax32.mapping = chosen
    return chosen


def _errors(mapping: WeightMapping, undecided: list[Rule], legs: Legs, case: Case) -> list[tuple[float, WeightMapping]]:
    """For each way round how far Flax's outputs are from torch's."""
    if legs.torch64.mode == "train":
        case = dataclasses.replace(case, masks=legs.torch64.record_masks(case, seed=0))
    reference = legs.torch64.run(case).outputs
    errors: list[tuple[float, WeightMapping]] = []
    for candidate in _candidates(mapping, undecided):
        legs.flax64.mapping = candidate
        found = legs.flax64.run(case).outputs
        leaves = [compare_arrays(path, array, found[path], 0.0) for path, array in reference.items() if path in found]
        errors.append((max((np.inf if leaf.detail else leaf.error for leaf in leaves), default=np.inf), candidate))
    return errors


def _candidates(mapping: WeightMapping, undecided: list[Rule]) -> Iterator[WeightMapping]:
    options = [(rule.permutation, *rule.alternatives) for rule in undecided]
    choices: Iterable[tuple[tuple[int, ...] | None, ...]]
    if len(undecided) <= _MOST_TOGETHER:
        choices = itertools.product(*options)
    else:
        first = tuple(option[0] for option in options)
        turned = [(*first[:i], other, *first[i + 1 :]) for i, option in enumerate(options) for other in option[1:]]
        choices = [first, tuple(option[-1] for option in options), *turned]
    for choice in choices:
        turn = {rule.target: permutation for rule, permutation in zip(undecided, choice, strict=True)}
        rules = tuple(
            dataclasses.replace(rule, permutation=turn[rule.target]) if rule.target in turn else rule
            for rule in mapping.rules
        )
        yield dataclasses.replace(mapping, rules=rules)
