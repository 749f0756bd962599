"""Units of one side with those of the other: names first, then order, within what the shapes allow."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from compare.mapping.conventions import moves
from compare.mapping.flax_units import Holder
from compare.mapping.names import Names, same_name, similarity
from compare.mapping.rules import Found
from compare.mapping.torch_units import Unit

__all__ = ["Pair", "match", "roles_that_fit"]

# Names that differ by less than this do not prefer one candidate over another.
_MARGIN = 0.04
# A buffer has a counterpart only by name: a mask may have the shape of a weight.
_BUFFER_NAME = 0.6
_MISSING_ROLE = 0.2
_OTHER_KIND = 0.15
_ORDER = 0.03
_NEVER = -1e6


@dataclasses.dataclass(frozen=True)
class Pair:
    """A unit and what it fills.

    Args:
        found: what proposed it.
        rivals: numbers of other pairs of the same matching that could as well be exchanged with it.
        sure: whether both have the same name, or shapes leave no other way.
    """

    unit: Unit
    holder: Holder
    found: Found
    rivals: tuple[int, ...] = ()
    sure: bool = True


def roles_that_fit(unit: Unit, holder: Holder) -> list[str] | None:
    """The roles of which both have an array, where all of them fit; None where they do not, or there are none."""
    if (unit.kind in ("LSTM", "GRU", "RNN") or holder.kind in ("LSTM", "GRU", "RNN")) and unit.kind != holder.kind:
        return None
    roles = [role for role in unit.pieces if role in holder.slots]
    if not roles or ("weight" in unit.pieces) != ("weight" in holder.slots):
        return None
    return roles if all(moves(unit.pieces[role], holder.slots[role]) for role in roles) else None


def match(units: Sequence[Unit], holders: Sequence[Holder], by_order: bool = False) -> list[Pair]:
    """Pairs each unit with at most one holder, so that names and order agree best over all.

    Args:
        units, holders: of both sides, in the order of execution or definition.
        by_order: whether order goes before names that are not the same.
    """
    if not units or not holders:
        return []
    likeness, same, score = _tables(units, holders, by_order)
    rows, columns = linear_sum_assignment(score, maximize=True)
    chosen = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if score[i, j] > _NEVER / 2]
    pairs = []
    for number, (i, j) in enumerate(chosen):
        rivals = tuple(
            other
            for other, (k, m) in enumerate(chosen)
            if other != number
            and score[i, m] > _NEVER / 2
            and score[k, j] > _NEVER / 2
            and likeness[i, m] + likeness[k, j] >= likeness[i, j] + likeness[k, m] - _MARGIN
        )
        sure = bool(same[i, j]) or (score[i] > _NEVER / 2).sum() == (score[:, j] > _NEVER / 2).sum() == 1
        found = "order" if by_order and not sure else _found(likeness, score, i, j, bool(rivals))
        pairs.append(Pair(units[i], holders[j], found, rivals, bool(sure)))
    return pairs


def _found(likeness: np.ndarray, score: np.ndarray, i: int, j: int, rivals: bool) -> Found:
    alone = (score[i] > _NEVER / 2).sum() == 1 and (score[:, j] > _NEVER / 2).sum() == 1
    if rivals:
        return "order"
    return "shape" if alone and likeness[i, j] < 0.5 else "name"


def _tables(
    units: Sequence[Unit], holders: Sequence[Holder], by_order: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How alike names are, whether they are the same, and the whole score, of every unit (row) and holder (column)."""
    ours, theirs = Names({u.name: u.kind for u in units}), Names({h.name: h.kind for h in holders})
    mine = [ours.components(unit.name) for unit in units]
    other = [theirs.components(holder.name) for holder in holders]
    likeness = np.zeros((len(units), len(holders)))
    same = np.zeros(likeness.shape, bool)
    score = np.full(likeness.shape, _NEVER)
    by_size: dict[int, list[int]] = defaultdict(list)
    for j, holder in enumerate(holders):
        by_size[_size(holder)].append(j)
    places = _places([_size(unit) for unit in units]), _places([_size(holder) for holder in holders])
    for i, unit in enumerate(units):
        for j in by_size[_size(unit)]:
            roles = roles_that_fit(unit, holders[j])
            if roles is None:
                continue
            likeness[i, j] = similarity(mine[i], other[j])
            if unit.kind == "buffer" and likeness[i, j] < _BUFFER_NAME:
                continue
            same[i, j] = same_name(mine[i], other[j])
            missing = len(unit.pieces) + len(holders[j].slots) - 2 * len(roles)
            apart = (places[0][i] - places[1][j]) ** 2
            worth = (
                2.0 * same[i, j] - 4.0 * apart + 0.05 * likeness[i, j] if by_order else likeness[i, j] - _ORDER * apart
            )
            score[i, j] = worth - _MISSING_ROLE * missing
            score[i, j] -= 0.0 if unit.kind == holders[j].kind else _OTHER_KIND
            score[i, j] -= 0.5 * unit.optional
    return likeness, same, score


def _size(whole: Unit | Holder) -> int:
    arrays = whole.pieces if isinstance(whole, Unit) else whole.slots
    roles = [role for role in arrays if role.endswith("weight")] or list(arrays)
    return sum(math.prod(arrays[role].shape) for role in roles)


def _places(sizes: Sequence[int]) -> list[float]:
    """For each item its place among those of its size, from 0 to 1."""
    seen: dict[int, list[int]] = defaultdict(list)
    for number, size in enumerate(sizes):
        seen[size].append(number)
    place = [0.0] * len(sizes)
    for numbers in seen.values():
        for rank, number in enumerate(numbers):
            place[number] = rank / max(len(numbers) - 1, 1)
    return place
