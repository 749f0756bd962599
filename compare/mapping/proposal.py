"""The mapping that names, order and shapes propose; runs of both models confirm it (``settling``)."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch

from compare.mapping.attention import pack_attention
from compare.mapping.draft import Draft, Orders
from compare.mapping.flax_units import Holder, LayerList, flax_holders, unstacked
from compare.mapping.given import Given, given_rules
from compare.mapping.leaves import torch_leaves
from compare.mapping.packing import pack
from compare.mapping.torch_units import NEVER_IN_FLAX, Unit, torch_units
from compare.mapping.weight_mapping import WeightMapping

__all__ = ["Orders", "propose_mapping"]


def propose_mapping(
    torch_model: torch.nn.Module,
    flax_shapes: Mapping[str, tuple[int, ...]],
    given: Given = None,
    *,
    kinds: Mapping[str, str] | None = None,
    orders: Callable[[], Orders | None] | None = None,
) -> WeightMapping:
    """The mapping that names, conventions, order and shapes propose.

    Args:
        torch_model: any module.
        flax_shapes: shape of every Flax leaf by dotted path, in the order of definition.
        given: what the user says, as ``given_rules`` takes it; this comes first.
        kinds: Flax path -> "parameter", "statistic" or "buffer": a buffer need not have a counterpart.
        orders: the order in which both models call their modules, asked for only where names leave several ways.

    Returns:
        The mapping; what could not be placed is in ``problems``, what only a run can decide in ``choices``.

    Raises:
        UsageError: ``given`` names an array or path that does not exist.
    """
    first, unsure = _propose(torch_model, flax_shapes, given, kinds or {}, orders, by_order=False)
    if not unsure or orders is None or (called := orders()) is None:
        return first
    other, _ = _propose(torch_model, flax_shapes, given, kinds or {}, lambda: called, by_order=True)
    same = {(r.source, r.target) for r in first.rules} == {(r.source, r.target) for r in other.rules}
    return first if same or other.problems else dataclasses.replace(first, other=other)


def _propose(
    torch_model: torch.nn.Module,
    flax_shapes: Mapping[str, tuple[int, ...]],
    given: Given,
    kinds: Mapping[str, str],
    orders: Callable[[], Orders | None] | None,
    by_order: bool,
) -> tuple[WeightMapping, bool]:
    """One mapping, and whether names left another possible."""
    leaves = torch_leaves(torch_model)
    rules, pairs, problems, spoken = given_rules(given, leaves, flax_shapes)
    draft = Draft(rules, problems, by_order)
    for piece, slot in pairs:
        draft.place(piece, slot, "given")
    taken = {rule.target for rule in draft.rules} | {problem.name for problem in problems}
    kept = {name: leaf for name, leaf in leaves.items() if name not in spoken}
    units = torch_units(torch_model, kept)
    free = {path: shape for path, shape in flax_shapes.items() if path not in taken}
    holders = flax_holders(unstacked(free, _lists(torch_model, units)))
    units, holders = draft.pack_all(units, holders, pack_attention)
    units, holders = draft.match_all(units, holders, orders)
    units, holders = draft.match_all(_cells_as_layers(units), holders, orders)
    units, holders = draft.pack_all(units, holders, pack)
    units, holders = _pack_bare(draft, units, holders)
    units, holders = draft.name_all(units, holders)
    units, holders = draft.match_all(draft.singles(units), _alone(holders), None)
    without = [name for name in leaves if name.rpartition(".")[2] in NEVER_IN_FLAX]
    units, holders = draft.rejoin(units, holders)
    without += draft.leave_units(units)
    flax_only = draft.leave_holders(holders, kinds)
    mapping = WeightMapping(
        tuple(draft.rules), tuple(without), tuple(draft.problems), draft.choices(), tuple(flax_only)
    )
    return mapping, draft.unsure


def _pack_bare(draft: Draft, units: Sequence[Unit], holders: Sequence[Holder]) -> tuple[list[Unit], list[Holder]]:
    """Packed layers without biases that Flax keeps apart as arrays of its own, in no layer."""
    bare = {
        h.name: dataclasses.replace(h, slots={"weight": slot})
        for h in holders
        if (slot := h.slots.get("array")) and len(h.slots) == 1 and len(slot.shape) > 1
    }
    alone = [unit for unit in units if set(unit.pieces) == {"weight"}]
    left, kept = draft.pack_all(alone, list(bare.values()), pack)
    packed = set(bare) - {holder.name for holder in kept}
    return [unit for unit in units if unit not in alone or unit in left], [
        holder for holder in holders if holder.name not in packed
    ]


def _cells_as_layers(units: Sequence[Unit]) -> list[Unit]:
    """Recurrent cells without counterpart as two layers each, for ports that write the recurrence themselves."""
    found: list[Unit] = []
    for unit in units:
        if unit.kind not in ("LSTM", "GRU", "RNN"):
            found.append(unit)
            continue
        for side in ("ih", "hh"):
            pieces = {
                role.rpartition(".")[2]: dataclasses.replace(piece, part=None)
                for role, piece in unit.pieces.items()
                if role.startswith(side)
            }
            found.append(Unit(f"{unit.name}.{side}", "linear", pieces))
    return found


def _alone(holders: Sequence[Holder]) -> list[Holder]:
    found = []
    for holder in holders:
        for slot in holder.slots.values():
            name = holder.name if len(holder.slots) == 1 else f"{holder.name}.{slot.leaf}".lstrip(".")
            found.append(Holder(name, "array", {"array": slot}))
    return found


def _lists(model: torch.nn.Module, units: Sequence[Unit]) -> list[LayerList]:
    """The lists of like modules of a torch model, and like modules of one name with numbers ("qf1", "qf2")."""
    found = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        alike: dict[str, list[str]] = defaultdict(list)
        for child, _ in module.named_children():
            alike[child.rstrip("0123456789")].append(f"{prefix}{child}")
        for stem, several in alike.items():
            if len(several) < 2 and stem:
                continue
            sizes = [
                tuple(
                    math.prod(piece.shape)
                    for unit in units
                    if unit.name.startswith(f"{layer}.") or unit.name == layer
                    for piece in unit.pieces.values()
                    if unit.kind != "buffer"
                )
                for layer in several
            ]
            if len(set(sizes)) == 1 and sizes[0]:
                found.append(LayerList(len(several), sum(sizes[0]), max(sizes[0])))
    return found
