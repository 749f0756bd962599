"""What an entry of the corpus is: a right torch model, a port of it with one mistake, and what a report should say."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import compare

__all__ = ["Case", "Family", "Mistake", "entry"]

Check = Literal["check", "check_training", "check_initialization", "check_dropout"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of one of compare's checks.

    Args:
        check: which one.
        args: its positional arguments; a ``Port`` alone, or a torch and a Flax model and so on.
        fields: its keywords.
    """

    check: Check
    args: tuple[Any, ...]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def report(self) -> compare.Report:
        """What the check says."""
        return getattr(compare, self.check)(*self.args, **self.fields)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One planted mistake.

    Args:
        name: short and unique within its family.
        words: what is wrong, in free words.
        make: builds the case.
        places: acceptable places, "inside fc1", "before fc2" (torch names; "inside" alone is the model itself); empty
            where a place has no meaning (a law of initialisation, an optimiser).
        causes: acceptable names of causes; None where none can be expected.
        behind: of a second mistake hidden by the first; it must be named too.
        direction: in which the difference shows first.
        checks: the checks of the report one of which has to fail; any when empty.
        step, quantity: what ``check_training`` should say.
    """

    name: str
    words: str
    make: Callable[[], Case]
    places: tuple[str, ...] = ()
    causes: frozenset[str] | None = None
    behind: frozenset[str] | None = None
    direction: Literal["forward", "backward"] = "forward"
    checks: tuple[str, ...] = ()
    step: int | None = None
    quantity: str | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """Mistakes in one kind of model, and the ports without a mistake that they were made from.

    Args:
        name: of the family.
        right: name -> the same port without the mistake, which must pass.
        mistakes: each with a name of its own.
    """

    name: str
    right: Mapping[str, Callable[[], Case]]
    mistakes: tuple[Mistake, ...]


def entry(
    name: str, words: str, make: Callable[[], Case], places: tuple[str, ...], *causes: str, **more: Any
) -> Mistake:
    """A ``Mistake`` whose acceptable causes are listed; none where none can be expected."""
    return Mistake(name, words, make, places, frozenset(causes) or None, **more)
