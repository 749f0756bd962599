"""A Flax model as units, from nothing but the paths and shapes of its leaves."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from compare.mapping.conventions import Slot
from compare.mapping.rules import Part

__all__ = ["Holder", "LayerList", "flax_holders", "unstacked"]

_ROLES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "negative_slope": "weight",
    "weight": "weight",
    "w": "weight",
    "gamma": "weight",
    "bias": "bias",
    "b": "bias",
    "beta": "bias",
    "mean": "mean",
    "running_mean": "mean",
    "var": "var",
    "running_var": "var",
}
# Leaves of Flax's recurrent cells: kind -> how their submodules name each side and gate.
_CELLS: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {
    "LSTM": {("ih", g): (f"i{g}", f"i{g}_") for g in "ifgo"} | {("hh", g): (f"h{g}",) for g in "ifgo"},
    "GRU": {("ih", g): (f"i{g}", f"i{g}_") for g in "rzn"} | {("hh", g): (f"h{g}",) for g in "rzn"},
    "RNN": {("ih", "h"): ("i", "dense_i"), ("hh", "h"): ("h", "dense_h")},
}
_PACKED = {"LSTM": "ifgo", "GRU": "rzn"}


@dataclasses.dataclass(frozen=True)
class Holder:
    """What is filled as a whole.

    Args:
        name: dotted; of an array that stands alone its own.
        kind: "linear", "conv", "embedding", "norm", "array", or "LSTM", "GRU", "RNN".
        slots: role -> leaf, with the roles of torch's units.
    """

    name: str
    kind: str
    slots: Mapping[str, Slot]


def flax_holders(slots: Iterable[tuple[str, Slot]]) -> list[Holder]:
    """All holders in the order of their leaves.

    Args:
        slots: every leaf, or part of one, with the path by which it is known (``unstacked`` gives one to each layer).
    """
    owners: dict[str, dict[str, Slot]] = {}
    for path, slot in slots:
        owner, _, leaf = path.rpartition(".")
        owners.setdefault(owner, {})[leaf] = slot
    cells = _cells(owners)
    inside = {f"{cell.name}.{child}" if cell.name else child for cell in cells for child in _children(owners, cell)}
    holders = list(cells)
    for owner, leaves in owners.items():
        if owner not in inside:
            holders += _holders(owner, leaves)
    order = {owner: number for number, owner in enumerate(owners)}
    first = {holder.name: min(_number(order, holder, owners)) for holder in holders}
    return sorted(holders, key=lambda holder: first[holder.name])


def _number(order: Mapping[str, int], holder: Holder, owners: Mapping[str, Mapping[str, Slot]]) -> list[int]:
    inside = [n for owner, n in order.items() if owner == holder.name or owner.startswith(f"{holder.name}.")]
    return inside or [order.get(holder.name.rpartition(".")[0], len(owners))]


def _holders(owner: str, leaves: Mapping[str, Slot]) -> list[Holder]:
    roles: dict[str, Slot] = {}
    alone = []
    for leaf in sorted(leaves, key=lambda leaf: list(_ROLES).index(leaf) if leaf in _ROLES else len(_ROLES)):
        role = _ROLES.get(leaf)
        if role is None or role in roles:
            path = f"{owner}.{leaf}" if owner else leaf
            alone.append(Holder(path, "array", {"array": leaves[leaf]}))
        else:
            roles[role] = leaves[leaf]
    return ([Holder(owner, _kind(roles), roles)] if roles else []) + alone


def _kind(roles: Mapping[str, Slot]) -> str:
    weight = roles.get("weight")
    if weight is None:
        return "norm" if "mean" in roles else "array"
    if weight.leaf == "kernel":
        return "linear" if len(weight.shape) == 2 else "conv"
    return {"embedding": "embedding", "scale": "norm", "gamma": "norm"}.get(weight.leaf, "array")


def _children(owners: Mapping[str, object], cell: Holder) -> list[str]:
    targets = {slot.target for slot in cell.slots.values()}
    prefix = f"{cell.name}." if cell.name else ""
    names = {target.removeprefix(prefix).partition(".")[0] for target in targets}
    return [name for name in names if f"{prefix}{name}" in owners]


def _cells(owners: Mapping[str, Mapping[str, Slot]]) -> list[Holder]:
    """Recurrent cells, by the names that Flax gives to their layers."""
    children: dict[str, set[str]] = {}
    for owner in owners:
        parent, _, child = owner.rpartition(".")
        children.setdefault(parent, set()).add(child)
    cells = []
    for parent, names in children.items():
        prefix = f"{parent}." if parent else ""
        for kind, layers in _CELLS.items():
            chosen = {key: next((n for n in options if n in names), "") for key, options in layers.items()}
            if all(name and "kernel" in owners[prefix + name] for name in chosen.values()):
                slots = {
                    f"{side}.{gate}.{role}": owners[f"{prefix}{name}"][leaf]
                    for (side, gate), name in chosen.items()
                    for leaf, role in (("kernel", "weight"), ("bias", "bias"))
                    if leaf in owners[f"{prefix}{name}"]
                }
                packed = _packed(slots) if kind == "RNN" else None
                cells.append(_packed_holder(parent, packed) if packed else Holder(parent, kind, slots))
                break
    return cells


def _packed(slots: Mapping[str, Slot]) -> tuple[str, Mapping[str, Slot]] | None:
    """The kind of a cell whose gates lie side by side: as many as the hidden size goes into the columns."""
    kernel = slots["hh.h.weight"].shape
    kind = {4: "LSTM", 3: "GRU"}.get(kernel[1] // kernel[0]) if len(kernel) == 2 and kernel[0] else None
    return None if kind is None else (kind, slots)


def _packed_holder(name: str, packed: tuple[str, Mapping[str, Slot]]) -> Holder:
    """The cell with its gates apart."""
    kind, slots = packed
    apart: dict[str, Slot] = {}
    for role, slot in slots.items():
        side, _, leaf = role.split(".")
        size = slot.shape[-1] // len(_PACKED[kind])
        for number, gate in enumerate(_PACKED[kind]):
            columns = slice(number * size, (number + 1) * size)
            index = (columns,) if leaf == "bias" else (slice(None), columns)
            apart[f"{side}.{gate}.{leaf}"] = Slot(slot.target, slot.whole, _inside(slot, index))
    return Holder(name, kind, apart)


def _inside(slot: Slot, index: tuple[int | slice, ...]) -> Part:
    """The part ``index`` of a slot, which may be a layer of a stack already."""
    if slot.place is None:
        return Part(slot.whole, index)
    return Part(slot.place.view, (*slot.place.index, *index))


_MOST_PACKED = 3  # query, key and value in one array


@dataclasses.dataclass(frozen=True)
class LayerList:
    """A torch list of like modules, which Flax may keep as one module with a first axis.

    Args:
        length: number of modules.
        size: number of elements of one module's arrays.
        largest: of the largest of them.
    """

    length: int
    size: int
    largest: int


def unstacked(shapes: Mapping[str, tuple[int, ...]], lists: Sequence[LayerList]) -> list[tuple[str, Slot]]:
    """Every leaf as a slot; those of layers that are stacked along a first axis as one slot for each layer.

    Args:
        shapes: of all leaves.
        lists: of the torch model.
    """
    stacks: dict[str, int] = {}
    prefixes = dict.fromkeys(prefix for path in shapes for prefix in _prefixes(path))
    for prefix in sorted(prefixes, key=len):
        if any(prefix.startswith(f"{other}.") for other in stacks):
            continue
        inside = {path: shape for path, shape in shapes.items() if path.startswith(prefix + ".")}
        for layers in lists:
            if _is_stack(prefix, inside, layers):
                stacks[prefix] = layers.length
    found: list[tuple[str, Slot]] = []
    for path, shape in shapes.items():
        stack = next((prefix for prefix in stacks if path.startswith(prefix + ".")), None)
        if stack is None:
            found.append((path, Slot(path, shape)))
            continue
        if any(name.startswith(f"{stack}.0.") for name, _ in found):
            continue  # with the first array of the stack, layer by layer
        leaves = {p.removeprefix(stack): shape for p, shape in shapes.items() if p.startswith(stack + ".")}
        for i in range(stacks[stack]):
            for leaf, shape in leaves.items():
                found.append((f"{stack}.{i}{leaf}", Slot(stack + leaf, shape, Part(shape, (i,)))))
    return found


def _is_stack(prefix: str, inside: Mapping[str, tuple[int, ...]], layers: LayerList) -> bool:
    if not all(shape and shape[0] == layers.length for shape in inside.values()):
        return False
    sizes = [math.prod(shape[1:]) for shape in inside.values()]
    if sum(sizes) != layers.size:
        return False
    # None is smaller than it is in one layer, but for what torch packs: layers that lie side by side are no stack.
    packed = _MOST_PACKED * max(sizes) >= layers.largest and not _side_by_side(prefix, inside, layers.length)
    return max(sizes) >= layers.largest or packed


def _side_by_side(prefix: str, inside: Mapping[str, tuple[int, ...]], count: int) -> bool:
    """Whether the arrays under ``prefix`` are those of ``count`` like modules."""
    modules: dict[str, list[tuple[int, ...]]] = {}
    for path, shape in inside.items():
        modules.setdefault(path.removeprefix(f"{prefix}.").partition(".")[0], []).append(shape)
    return len(modules) == count and len({tuple(sorted(shapes)) for shapes in modules.values()}) == 1


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]
