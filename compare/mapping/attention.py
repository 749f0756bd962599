"""Query, key and value that one side packs into one layer: told from other layers before anything else is matched.

A kernel of the attention's output has the shape of a query's, so that whole layers would be matched wrongly first.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from compare.mapping.flax_units import Holder
from compare.mapping.matching import roles_that_fit
from compare.mapping.names import Names, similarity
from compare.mapping.packing import Packed, join, split
from compare.mapping.torch_units import Unit

__all__ = ["pack_attention"]

Item = TypeVar("Item", Unit, Holder)
Other = TypeVar("Other", Unit, Holder)

_NEVER = -1e6
_APART_ON_BOTH_SIDES = 10.0  # more than all names are worth: there nothing need be packed
_ORDER = 0.03


def pack_attention(units: Sequence[Unit], holders: Sequence[Holder]) -> list[Packed]:
    """Layers packed on one side for which the other has siblings called query, key and value.

    A model may hold attention of both kinds; then names and order tell which belong together.
    """
    ours, theirs = Names({u.name: u.kind for u in units}), Names({h.name: h.kind for h in holders})
    trios, families = _families(units, ours), _families(holders, theirs)
    apart = lambda trio, family: all(map(roles_that_fit, trio, family))  # noqa: E731
    alike = lambda unit, holder: similarity(ours.components(unit.name), theirs.components(holder.name))  # noqa: E731
    splits = _assigned(units, trios, families, split, apart, alike)
    joins = _assigned(
        holders, families, trios, lambda h, f: join(f, h), lambda f, t: apart(t, f), lambda h, u: alike(u, h)
    )
    return [
        *(Packed((unit,), tuple(family), split(unit, family)) for unit, family in splits),
        *(Packed(tuple(trio), (holder,), (rules,)) for holder, trio in joins if (rules := join(trio, holder))),
    ]


def _families(items: Sequence[Item], names: Names) -> list[list[Item]]:
    """Siblings called query, key and value."""
    found = []
    for _, siblings in itertools.groupby(items, lambda item: item.name.rpartition(".")[0]):
        called = {word: item for item in siblings for word in names.last_words(item.name)}
        if {"query", "key", "value"} <= set(called):
            found.append([called["query"], called["key"], called["value"]])
    return found


def _assigned(
    items: Sequence[Item],
    trios: Sequence[Sequence[Item]],
    families: Sequence[Sequence[Other]],
    packs: Callable[[Item, Sequence[Other]], object],
    apart: Callable[[Sequence[Item], Sequence[Other]], bool],
    alike: Callable[[Item, Other], float],
) -> list[tuple[Item, Sequence[Other]]]:
    """Items that pack a family of the other side's, each with its own.

    Args:
        items: of one side, in order.
        trios: those among them that are apart themselves.
        families: of the other side.
        packs: whether an item can hold a family.
        apart: whether a trio is one layer each for a family.
        alike: how alike the names of an item and of a family's first member are.
    """
    first = {trio[0].name: trio for trio in trios}
    inside = {item.name for trio in trios for item in trio}
    packed = {i.name for i in items if i.name not in inside and any(packs(i, family) for family in families)}
    rows = [item for item in items if item.name in packed or item.name in first] if packed else []
    score = np.full((len(rows), len(families)), _NEVER)
    for i, j in np.ndindex(score.shape):
        item, family = rows[i], families[j]
        if item.name in packed and packs(item, family):
            score[i, j] = alike(item, family[0])
        elif item.name in first and apart(first[item.name], family):
            score[i, j] = alike(item, family[0]) + _APART_ON_BOTH_SIDES
        score[i, j] -= _ORDER * (i / max(len(rows) - 1, 1) - j / max(len(families) - 1, 1)) ** 2
    chosen = zip(*linear_sum_assignment(score, maximize=True), strict=True)
    return [(rows[i], families[j]) for i, j in chosen if rows[i].name in packed and score[i, j] > _NEVER / 2]
