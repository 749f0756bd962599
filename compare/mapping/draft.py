"""A mapping that grows: what units and holders come to, and which ways a run has to decide between."""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from compare.mapping.conventions import Move, Piece, Slot, make_rule, moves
from compare.mapping.flax_units import Holder
from compare.mapping.given import misfit
from compare.mapping.matching import Pair, match, roles_that_fit
from compare.mapping.names import Names, similarity
from compare.mapping.packing import Packed
from compare.mapping.rules import Found, Rule
from compare.mapping.torch_units import Unit
from compare.mapping.weight_mapping import Choice, MappingProblem

__all__ = ["Draft", "Orders"]

# Names of the modules of both sides in the order in which they are called.
Orders = tuple[Sequence[str], Sequence[str]]

# Of more units that could be exchanged there are too many ways to try.
_MOST_EXCHANGED = 4
_SAME_NAME = 0.95


class Draft:
    """A mapping that grows."""

    def __init__(self, rules: list[Rule], problems: list[MappingProblem], by_order: bool) -> None:
        self.rules = rules
        self.problems = problems
        self.unsure = False
        self._by_order = by_order
        self._done: set[tuple[str, object]] = {(rule.source, None) for rule in rules}
        self._turns: dict[tuple[object, ...], list[tuple[Piece, Slot, list[Move], Found]]] = defaultdict(list)
        self._exchanges: list[Choice] = []
        self._left: list[tuple[Piece, str]] = []
        self._unfilled: list[Slot] = []

    def match_all(
        self, units: Sequence[Unit], holders: Sequence[Holder], orders: Callable[[], Orders | None] | None
    ) -> tuple[list[Unit], list[Holder]]:
        """Pairs whole units; returns those without counterpart."""
        pairs = match(units, holders)
        called: Orders | None = None
        if orders is not None and (self._by_order or any(pair.rivals for pair in pairs)):
            called = orders()
            if called is not None:
                units, holders = _sorted(units, called[0]), _sorted(holders, called[1])
                pairs = match(units, holders, self._by_order)
        self.unsure |= any(not pair.sure for pair in pairs)
        for pair in pairs:
            self._fill(pair.unit, pair.holder, pair.found)
        self._exchange(pairs, called)
        matched = {id(pair.unit) for pair in pairs} | {id(pair.holder) for pair in pairs}
        return (
            [unit for unit in units if id(unit) not in matched],
            [holder for holder in holders if id(holder) not in matched],
        )

    def _fill(self, unit: Unit, holder: Holder, found: Found) -> None:
        roles = roles_that_fit(unit, holder) or []
        for role in roles:
            self.place(unit.pieces[role], holder.slots[role], found)
        for role, piece in unit.pieces.items():
            if role in holder.slots:
                continue
            shared = _shared_bias(unit, holder, role)
            if shared is not None:
                self._add(make_rule(piece, shared, Move(), found, added=True), piece)
            else:
                self._left.append((piece, unit.kind))
        self._unfilled += [slot for role, slot in holder.slots.items() if role not in unit.pieces]

    def place(self, piece: Piece, slot: Slot, found: Found) -> None:
        """Adds the rule by which ``piece`` fills ``slot``, and remembers other ways to lay it out."""
        ways = moves(piece, slot)
        self._add(make_rule(piece, slot, ways[0], found), piece)
        if len(ways) > 1:
            key = (piece.owner, piece.source.rpartition(".")[2], slot.leaf, tuple(ways))
            self._turns[key].append((piece, slot, ways, found))

    def _add(self, rule: Rule, piece: Piece) -> None:
        self.rules.append(rule)
        self._done.add((piece.source, str(piece.part)))
        if piece.part is None:
            self._done.add((piece.source, None))

    def _is_done(self, piece: Piece) -> bool:
        return (piece.source, None) in self._done or (piece.source, str(piece.part)) in self._done

    def _exchange(self, pairs: Sequence[Pair], called: Orders | None) -> None:
        """A choice for each set of pairs that neither names nor shapes tell apart."""
        seen: set[int] = set()
        alike: dict[tuple[object, ...], list[tuple[list[tuple[Rule, ...]], bool]]] = defaultdict(list)
        for number, pair in enumerate(pairs):
            group = [number, *pair.rivals]
            if not pair.rivals or seen & set(group):
                continue
            seen |= set(group)
            members = [pairs[i] for i in sorted(group)]
            blind = called is None or not all(_called(member, called) for member in members)
            if len(members) > _MOST_EXCHANGED:
                self._exchanges.append(Choice((_exchanged(members, range(len(members))),), blind))
                continue
            orders = itertools.permutations(range(len(members)))
            options = [option for order in orders if (option := _exchanged(members, order))]
            # Blocks that repeat are written alike: what is exchanged in one is exchanged in all.
            pattern = (len(options), *(_undigited(m.unit.name) + _undigited(m.holder.name) for m in members))
            alike[pattern].append((options, blind))
        for several in alike.values():
            together = [tuple(r for options, _ in several for r in options[k]) for k in range(len(several[0][0]))]
            self._exchanges.append(Choice(tuple(together), any(blind for _, blind in several)))

    def pack_all(
        self,
        units: Sequence[Unit],
        holders: Sequence[Holder],
        packing: Callable[[Sequence[Unit], Sequence[Holder]], list[Packed]],
    ) -> tuple[list[Unit], list[Holder]]:
        """Layers that one side keeps in one array; all of a model are laid out alike."""
        open_units = [unit for unit in units if not self._all_done(unit)]
        found = packing(open_units, holders)
        alike: dict[int, list[Packed]] = defaultdict(list)
        for packed in found:
            self.rules += packed.options[0]
            self._done |= {(piece.source, str(piece.part)) for unit in packed.units for piece in unit.pieces.values()}
            alike[len(packed.options)].append(packed)
        for count, several in alike.items():
            if count > 1:
                together = [tuple(r for packed in several for r in packed.options[k]) for k in range(count)]
                self._exchanges.append(Choice(tuple(together)))
        used = {id(item) for packed in found for item in (*packed.units, *packed.holders)}
        return (
            [unit for unit in open_units if id(unit) not in used],
            [holder for holder in holders if id(holder) not in used],
        )

    def _all_done(self, unit: Unit) -> bool:
        return all(self._is_done(piece) for piece in unit.pieces.values())

    def name_all(self, units: Sequence[Unit], holders: Sequence[Holder]) -> tuple[list[Unit], list[Holder]]:
        """Units and holders of the same name whose shapes do not fit: what fits is mapped, the rest is a problem."""
        ours, theirs = Names({u.name: u.kind for u in units}), Names({h.name: h.kind for h in holders})
        free, left = list(holders), []
        for unit in units:
            mine = ours.components(unit.name)
            near = [h for h in free if similarity(mine, theirs.components(h.name)) >= _SAME_NAME]
            both = [h for h in near if set(h.slots) & set(unit.pieces)] if unit.kind != "buffer" else []
            if not both:
                left.append(unit)
                continue
            holder = both[0]
            free.remove(holder)
            for role, piece in unit.pieces.items():
                slot = holder.slots.get(role)
                if slot is None:
                    self._left.append((piece, unit.kind))
                elif moves(piece, slot):
                    self.place(piece, slot, "name")
                else:
                    self.problems.append(misfit(piece, slot))
            self._unfilled += [slot for role, slot in holder.slots.items() if role not in unit.pieces]
        return left, free

    def singles(self, units: Sequence[Unit]) -> list[Unit]:
        """Each array of what is left as a unit of its own."""
        found = []
        for unit in units:
            for role, piece in unit.pieces.items():
                if self._is_done(piece):
                    continue
                name = unit.name if len(unit.pieces) == 1 else f"{unit.name}.{role}".lstrip(".")
                kind = "array" if piece.parameter else "buffer"
                found.append(Unit(name, kind, {"array": piece}, unit.optional))
        return found

    def rejoin(self, units: Sequence[Unit], holders: Sequence[Holder]) -> tuple[list[Unit], list[Holder]]:
        """Arrays that were left behind by their modules, with those of the same full name."""
        left = [Unit(p.source, kind, {"array": p}) for p, kind in self._left if not self._is_done(p)]
        left += [u for u in units if len(u.pieces) == 1]
        slots = [Holder(slot.target, "array", {"array": slot}) for slot in self._unfilled]
        slots += [holder for holder in holders if len(holder.slots) == 1]
        by_path = {slot.target: slot for holder in slots for slot in holder.slots.values()}
        for unit in left:
            for piece in unit.pieces.values():
                slot = by_path.get(piece.source)
                if slot is not None and moves(piece, slot):
                    self.place(piece, slot, "name")
        self._beside_mates([unit for unit in left if not self._all_done(unit)], by_path)
        filled = {rule.target for rule in self.rules}
        self._unfilled = [slot for slot in self._unfilled if slot.target not in filled or slot.place is not None]
        return list(units), [h for h in holders if not {slot.target for slot in h.slots.values()} <= filled]

    def _beside_mates(self, units: Sequence[Unit], slots: Mapping[str, Slot]) -> None:
        """Arrays that were left behind, in the one slot that fits beside what the rest of their modules fill."""
        homes = {_home(rule.source): rule.target.rpartition(".")[0] for rule in self.rules}
        filled = {rule.target for rule in self.rules}
        for unit in units:
            for piece in unit.pieces.values():
                home = homes.get(_home(piece.source))
                near = [p for p in slots if p not in filled and p.rpartition(".")[0] == home and moves(piece, slots[p])]
                if home is not None and len(near) == 1:
                    self.place(piece, slots[near[0]], "name")
                    filled.add(near[0])

    def leave_units(self, units: Sequence[Unit]) -> list[str]:
        """Reports what has no counterpart; returns the buffers and constants among it, which need none."""
        without = []
        left = [*self._left, *((piece, unit.kind) for unit in units for piece in unit.pieces.values())]
        for piece, kind in left:
            if self._is_done(piece):
                continue
            if piece.constant or (not piece.parameter and kind == "buffer"):
                without.append(piece.source)
                continue
            part = "" if piece.part is None else piece.part.describe()
            detail = f"torch has it, shape {piece.shape}; nothing in the Flax model fits"
            self.problems.append(MappingProblem(f"{piece.source}{part}", "torch", detail))
        return without

    def leave_holders(self, holders: Sequence[Holder], kinds: Mapping[str, str]) -> list[str]:
        """Reports Flax leaves without counterpart; returns the buffers among them, which keep their own values."""
        own = []
        slots = [*self._unfilled, *(slot for holder in holders for slot in holder.slots.values())]
        for path, shape in {slot.target: slot.whole for slot in slots}.items():
            if kinds.get(path) == "buffer":
                own.append(path)
                continue
            detail = f"Flax has it, shape {shape}; nothing in the torch model fits"
            self.problems.append(MappingProblem(path, "flax", detail))
        return own

    def choices(self) -> tuple[Choice, ...]:
        """All that is undecided; no array is in two choices."""
        turns = []
        for alike in self._turns.values():
            count = len(alike[0][2])
            options = [tuple(make_rule(p, s, ways[k], found) for p, s, ways, found in alike) for k in range(count)]
            turns.append(Choice(tuple(options)))
        turned = {rule.target for choice in turns for rule in choice.options[0]}
        apart = [c for c in self._exchanges if not turned & {rule.target for rule in c.options[0]}]
        return (*turns, *apart)


def _home(source: str) -> str:
    """The module that a torch array belongs to, whether it is parametrised or not."""
    return source.partition(".parametrizations.")[0] if ".parametrizations." in source else source.rpartition(".")[0]


def _undigited(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _shared_bias(unit: Unit, holder: Holder, role: str) -> Slot | None:
    """The one bias of a gate to which torch adds two; not where a reset gate stands between them."""
    if unit.kind not in ("LSTM", "GRU", "RNN") or not role.endswith("bias"):
        return None
    side, gate, _ = role.split(".")
    if unit.kind == "GRU" and gate == "n":
        return None
    return holder.slots.get(f"{'hh' if side == 'ih' else 'ih'}.{gate}.bias")


def _exchanged(members: Sequence[Pair], order: Iterable[int]) -> tuple[Rule, ...]:
    """The rules with the holders in another order; none where something does not fit."""
    rules: list[Rule] = []
    for member, other in zip(members, order, strict=True):
        holder = members[other].holder
        roles = roles_that_fit(member.unit, holder)
        if not roles:
            return ()
        for role in roles:
            piece, slot = member.unit.pieces[role], holder.slots[role]
            rules.append(make_rule(piece, slot, moves(piece, slot)[0], "order"))
    return tuple(rules)


def _called(pair: Pair, called: Orders) -> bool:
    return pair.unit.kind not in ("array", "buffer") and pair.unit.name in called[0] and pair.holder.name in called[1]


def _sorted(items: Sequence[Unit] | Sequence[Holder], called: Sequence[str]) -> list:
    """In the order of the calls of the module, or of the innermost module around it; the others stay behind."""
    number = {name: i for i, name in reversed(list(enumerate(called)))}

    def key(item: Unit | Holder) -> float:
        name = item.name
        while name and name not in number:
            name = name.rpartition(".")[0]
        return number.get(name, math.inf)

    return sorted(items, key=key)
