"""What a setting may be, and the error that says so."""

import difflib
import math

__all__ = ["UsageError", "expect_number", "expect_one_of", "expect_whole_number", "nearest"]


class UsageError(ValueError):
    """What the user asked for can't be done; the message says in one sentence what was expected and found."""


def nearest(found: str, expected: tuple[str, ...]) -> str | None:
    """The one of ``expected`` that ``found`` is a slip of, if it looks like one."""
    return next(iter(difflib.get_close_matches(found.lower(), expected, 1)), None)


def expect_one_of(name: str, found: str, expected: tuple[str, ...]) -> None:
    """Raises a ``UsageError`` that lists what was expected, and says what looks most like ``found``."""
    if found not in expected:
        near = nearest(found, expected)
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(f"{name}: expected one of {', '.join(expected)}; found {found!r}{hint}")


def expect_whole_number(name: str, found: object, least: int) -> None:
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise UsageError(f"{name}: expected a whole number of at least {least}, found {found!r}")


def expect_number(name: str, found: float | None, above: bool) -> None:
    if found is not None and not (math.isfinite(found) and (found > 0 if above else found >= 0)):
        raise UsageError(f"{name}: expected a finite number {'above' if above else 'of at least'} 0, found {found}")
