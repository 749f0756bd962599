"""Layers that one side packs into one array and the other keeps apart: query, key and value, or gate and up."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

from compare.mapping.conventions import Move, Piece, Slot, make_rule, moves
from compare.mapping.flax_units import Holder
from compare.mapping.names import Names
from compare.mapping.rules import Part, Rule
from compare.mapping.torch_units import Unit

__all__ = ["Packed", "join", "pack", "split"]

Item = TypeVar("Item", Unit, Holder)

_PACKABLE = 6  # layers side by side at most
_MOST_ORDERED = 3  # of more there are too many orders to try
_ORDER = {"query": 0, "key": 1, "value": 2, "gate": 0, "up": 1}


@dataclasses.dataclass(frozen=True)
class Packed:
    """Units and holders that belong together, and the ways in which one fills the other, likeliest first."""

    units: tuple[Unit, ...]
    holders: tuple[Holder, ...]
    options: tuple[tuple[Rule, ...], ...]


def pack(units: Sequence[Unit], holders: Sequence[Holder]) -> list[Packed]:
    """Every packed layer among what has found no counterpart as a whole."""
    found: list[Packed] = []
    free = list(holders)
    for unit in units:
        for group in _groups([holder for holder in free if "weight" in holder.slots]):
            options = tuple(way for order in _orders(group) for way in split(unit, order))
            if options:
                found.append(Packed((unit,), tuple(group), options))
                free = [holder for holder in free if holder not in group]
                break
    left = [unit for unit in units if not any(unit in packed.units for packed in found)]
    for holder in free:
        for several in _groups([unit for unit in left if "weight" in unit.pieces]):
            rules = join(several, holder)
            if rules:
                found.append(Packed(tuple(several), (holder,), (rules,)))
                left = [unit for unit in left if unit not in several]
                break
    return found


def _groups(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Siblings in a row, at least two, in the order of their meaning where names tell it."""
    names = Names({item.name: item.kind for item in items})
    for _, siblings in itertools.groupby(items, lambda item: item.name.rpartition(".")[0]):
        family = list(siblings)
        for size in range(min(len(family), _PACKABLE), 1, -1):
            for start in range(len(family) - size + 1):
                yield sorted(family[start : start + size], key=lambda item: _meaning(names, item.name))


def _orders(group: Sequence[Holder]) -> Iterator[Sequence[Holder]]:
    """``group``, and where names do not tell all that lies side by side, in every other order too."""
    names = Names({holder.name: holder.kind for holder in group})
    told = {_meaning(names, holder.name) for holder in group}
    yield group
    if len(group) <= _MOST_ORDERED and (len(told) < len(group) or len(_ORDER) in told):
        yield from itertools.islice(itertools.permutations(group), 1, None)


def _meaning(names: Names, name: str) -> int:
    return min((_ORDER[c.word] for c in names.components(name) if c.word in _ORDER), default=len(_ORDER))


def split(unit: Unit, group: Sequence[Holder]) -> tuple[tuple[Rule, ...], ...]:
    """Ways to fill ``group`` from one packed torch unit: one after the other, or interleaved head by head."""
    weight = unit.pieces.get("weight")
    if weight is None or weight.kind not in ("linear", "array") or weight.part or len(weight.shape) != 2:
        return ()
    if any("weight" not in holder.slots for holder in group):
        return ()
    slots = [holder.slots["weight"] for holder in group]
    if math.prod(weight.shape) != sum(math.prod(slot.shape) for slot in slots):
        return ()
    ways: list[tuple[int, list[int]]] = []  # the axis of outputs, and the number of outputs of each
    for axis in (0, 1) if weight.kind == "array" else (0,):
        inputs = weight.shape[1 - axis]
        if all(math.prod(slot.shape) % inputs == 0 for slot in slots):
            ways.append((axis, [math.prod(slot.shape) // inputs for slot in slots]))
    heads = slots[0].shape[1] if len(slots[0].shape) == 3 else 0
    options = []
    for axis, sizes in ways:
        for interleaved in (0, heads):
            rules = _rules_of_split(unit, group, axis, sizes, interleaved)
            if rules and rules not in options:
                options.append(rules)
    return tuple(options)


def _rules_of_split(
    unit: Unit, group: Sequence[Holder], axis: int, sizes: Sequence[int], heads: int
) -> tuple[Rule, ...] | None:
    if heads and (len(set(sizes)) > 1 or sizes[0] % heads):
        return None
    rules = []
    starts = [0, *itertools.accumulate(sizes)]
    for number, holder in enumerate(group):
        if set(holder.slots) - set(unit.pieces):
            return None
        for role, slot in holder.slots.items():
            piece = unit.pieces[role]
            along = 0 if role == "bias" else axis
            part = _part(piece.whole, along, slice(starts[number], starts[number + 1]))
            if heads:
                part = _interleaved(piece.whole, along, heads, len(group), number)
            taken = dataclasses.replace(piece, part=part)
            if heads:  # (..., heads, width): flattened again by reading the rows in that order
                rule = _rule_with_heads(taken, slot, along)
            else:
                fitting = [m for m in moves(taken, slot) if axis == 0 or role == "bias" or m.permutation is None]
                rule = make_rule(taken, slot, fitting[0]) if fitting else None
            if rule is None:
                return None
            rules.append(rule)
    return tuple(rules)


def _part(whole: tuple[int, ...], axis: int, rows: slice) -> Part:
    return Part(whole, (*(slice(None) for _ in range(axis)), rows))


def _interleaved(whole: tuple[int, ...], axis: int, heads: int, count: int, number: int) -> Part:
    width = whole[axis] // heads // count
    view = (*whole[:axis], heads, count, width, *whole[axis + 1 :])
    return Part(view, (*(slice(None) for _ in range(axis + 1)), number))


def _rule_with_heads(piece: Piece, slot: Slot, axis: int) -> Rule | None:
    """(heads, width, in) or (in, heads, width) into (in, heads, width); biases (heads, width)."""
    if math.prod(piece.shape) != math.prod(slot.shape):
        return None
    move = Move((2, 0, 1)) if len(piece.shape) == 3 and axis == 0 else Move()
    return make_rule(piece, slot, move)


def join(several: Sequence[Unit], holder: Holder) -> tuple[Rule, ...] | None:
    """Several torch units side by side in one Flax kernel."""
    slot = holder.slots.get("weight")
    if slot is None or any("weight" not in unit.pieces for unit in several):
        return None
    pieces = [unit.pieces["weight"] for unit in several]
    if len(slot.shape) < 2 or any(p.kind != "linear" or len(p.shape) != 2 for p in pieces):
        return None
    inputs, sizes = pieces[0].shape[1], [piece.shape[0] for piece in pieces]
    if math.prod(slot.shape) != inputs * sum(sizes) or any(piece.shape[1] != inputs for piece in pieces):
        return None
    if any(set(unit.pieces) != set(holder.slots) for unit in several):
        return None
    starts = [0, *itertools.accumulate(sizes)]
    rules = []
    for number, unit in enumerate(several):
        rows = slice(starts[number], starts[number + 1])
        for role, piece in unit.pieces.items():
            found = holder.slots[role]
            layer: tuple[int | slice, ...] = () if found.place is None else found.place.index
            view = found.whole if found.place is None else found.place.view
            kept = view[: len(layer)]
            torch_way = role == "weight" and found.leaf != "kernel" and found.shape == (sum(sizes), inputs)
            if role == "bias":
                view, index = (*kept, sum(sizes)), (*layer, rows)
            elif torch_way:
                view, index = (*kept, sum(sizes), inputs), (*layer, rows)
            else:
                view, index = (*kept, inputs, sum(sizes)), (*layer, slice(None), rows)
            placed = dataclasses.replace(found, place=Part(view, index))
            turned = role == "weight" and not torch_way
            rules.append(make_rule(piece, placed, Move((1, 0)) if turned else Move()))
    return tuple(rules)
