"""A mapping that is total and linear: values go forward through it, gradients come back through its transpose."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from compare.mapping.rules import Found, Rule
from compare.result import UsageError

__all__ = ["Choice", "MappingProblem", "WeightMapping"]

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class MappingProblem:
    """A leaf that the mapping could not place.

    Args:
        name: torch name or Flax path.
        side: "torch" or "flax": on which side it has no counterpart, or "both" for two that do not fit.
        detail: one sentence.
    """

    name: str
    side: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """Rules that neither names nor shapes decide.

    Args:
        options: ways to fill the same Flax leaves, likeliest first; the first stands in the mapping.
        blind: whether not even an order of execution speaks for the first.
    """

    options: tuple[tuple[Rule, ...], ...]
    blind: bool = False

    def describe(self) -> str:
        """The candidates, for the report."""
        pairs = dict.fromkeys(f"{rule.source} -> {rule.target}" for option in self.options for rule in option)
        return "; ".join(pairs)


@dataclasses.dataclass(frozen=True)
class WeightMapping:
    """All rules between two models, what has no counterpart by nature, and what could not be placed.

    Args:
        rules: together they write every element of every target once, or add up on it.
        without_counterpart: torch buffers and frozen tables that Flax does not hold (``num_batches_tracked``, a mask).
        problems: what is left over on either side.
        choices: what only a run of both models can decide.
        flax_only: Flax leaves other than parameters that torch does not hold: they keep their own values.
        ambiguous: choices that no run decided.
        refuted: choices in which no way at all agrees: the port is wrong whichever is meant.
        idle: problems whose arrays have no influence on the outputs.
        other: another mapping, which the order of execution proposes, to be tried where this one does not agree.
    """

    rules: tuple[Rule, ...]
    without_counterpart: tuple[str, ...] = ()
    problems: tuple[MappingProblem, ...] = ()
    choices: tuple[Choice, ...] = ()
    flax_only: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    refuted: tuple[str, ...] = ()
    idle: tuple[MappingProblem, ...] = ()
    other: "WeightMapping | None" = None

    def to_flax(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Flax leaves from torch arrays; rules whose source is absent are skipped."""
        return dict(self.flax_leaves(arrays))

    def flax_leaves(self, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """The same one by one, so that they need not all be there at once."""
        by_target: dict[str, list[Rule]] = {}
        for rule in self.rules:
            if rule.source in arrays:
                by_target.setdefault(rule.target, []).append(rule)
        for target, rules in by_target.items():
            found: np.ndarray | None = None
            for rule in rules:
                value = rule.forward(arrays[rule.source])
                if rule.place is None:
                    found = value if found is None else found + value
                    continue
                if found is None:
                    found = np.zeros(rule.target_shape, value.dtype)
                rule.place.of(found)[...] += value
            assert found is not None
            yield target, found

    def gradients_to_torch(self, gradients: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray | None]:
        """Torch gradients from Flax gradients, summed where one torch array fills several Flax leaves."""
        found: dict[str, np.ndarray | None] = {}
        for rule in self.rules:
            if rule.target not in gradients:
                continue
            gradient = gradients[rule.target]
            if gradient is None:
                found.setdefault(rule.source, None)
                continue
            back = rule.transpose(gradient if rule.place is None else rule.place.of(gradient))
            if rule.part is not None:
                whole = np.zeros(rule.shape, back.dtype)
                rule.part.of(whole)[...] = back
                back = whole
            before = found.get(rule.source)
            found[rule.source] = back if before is None else before + back
        return found

    def to_torch(self, leaves: Mapping[str, np.ndarray]) -> Arrays:
        """Torch values from Flax values. Of several torch arrays that add up to one leaf the first takes all of it.

        Raises:
            UsageError: for a rule whose function has no given inverse.
        """
        arrays: Arrays = {}
        for rule in self.rules:
            if rule.target not in leaves:
                continue
            if rule.transform is not None and rule.inverse is None:
                raise UsageError(
                    f"{rule.source}: its mapping is a function, which has no known inverse; "
                    "give one as (Flax path, function, inverse)"
                )
            if rule.inverse is not None:
                arrays[rule.source] = np.asarray(rule.inverse(leaves[rule.target]))
                continue
            leaf = leaves[rule.target]
            back = rule.transpose(leaf if rule.place is None else rule.place.of(leaf))
            back = np.zeros_like(back) if rule.added else back
            if rule.part is None:
                arrays[rule.source] = back
                continue
            if rule.source not in arrays:
                arrays[rule.source] = np.zeros(rule.shape, back.dtype)
            rule.part.of(arrays[rule.source])[...] = back
        return arrays

    def choosing(self, choice: Choice, number: int, found: Found = "order") -> "WeightMapping":
        """The mapping with option ``number`` of ``choice`` in place of whichever stands in it."""
        keys = {_key(rule) for option in choice.options for rule in option}
        kept = tuple(rule for rule in self.rules if _key(rule) not in keys)
        option = tuple(r if r.found == "given" else dataclasses.replace(r, found=found) for r in choice.options[number])
        return dataclasses.replace(self, rules=(*kept, *option))

    @property
    def zeroed(self) -> tuple[str, ...]:
        """Torch names that ``to_torch`` fills with zeros, at least in part, since another one takes the sum."""
        return tuple(dict.fromkeys(rule.source for rule in self.rules if rule.added))

    def raise_for_problems(self) -> None:
        """Raises one ``UsageError`` that lists everything missing, unexpected or misshapen."""
        if self.problems:
            raise UsageError("weights do not fit:\n" + "\n".join(f"  {p.name}: {p.detail}" for p in self.problems))


def _key(rule: Rule) -> tuple[str, str, str, str]:
    return rule.source, rule.target, str(rule.part), str(rule.place)
