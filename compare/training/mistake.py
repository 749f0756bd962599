"""What a mistake of a training loop is."""

import dataclasses
from collections.abc import Callable

from compare.training.program import Program

__all__ = ["Mistake"]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One mistake, as the program that contains it.

    Args:
        slot: what it edits; two mistakes of one slot exclude each other.
        name, summary, fix: of the cause.
        edit: from the right program to the one with the mistake.
    """

    slot: str
    name: str
    summary: str
    fix: str
    edit: Callable[[Program], Program]
