"""Numbers and dates as people write them: decimal comma or point, grouped thousands, and marks for a missing one."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MISSING",
    "Mark",
    "clean",
    "days",
    "decimal_mark",
    "looks_like_number",
    "parse_dates",
    "parse_number",
    "parse_numbers",
]

Mark = Literal[".", ","]

MISSING = frozenset({"", "?", "-", "na", "n/a", "#n/a", "nan", "null", "none"})
"""What stands for a missing entry, in any case of letters."""

# Groups of three after a first digit that isn't 0, all with the same mark: 1,234,567.8 but not 0,123 or 1,23.
_GROUPED = {
    ".": re.compile(r"([+-]?[1-9]\d{0,2})([,' \u00a0\u202f])(\d{3}(?:\2\d{3})*)(\.\d*)?"),
    ",": re.compile(r"([+-]?[1-9]\d{0,2})([.' \u00a0\u202f])(\d{3}(?:\2\d{3})*)(,\d*)?"),
}
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)?")


def clean(text: str, missing: Iterable[str] = ()) -> str | None:
    """``text`` without the blanks around it; None if it stands for a missing entry."""
    text = text.strip()
    return None if text.casefold() in MISSING or text in missing else text


def parse_number(text: str, mark: Mark = ".") -> float | None:
    """The number that ``text`` writes with the given decimal mark, or None.

    >>> parse_number("1,234.5"), parse_number("1.234,5", ","), parse_number("12 rooms")
    (1234.5, 1234.5, None)
    """
    if not text.isascii() or "_" in text or (mark == "," and "." in text):
        match = _GROUPED[mark].fullmatch(text)  # a blank that groups digits is often no ASCII
        if match is None:
            return None
    else:
        try:
            return float(text.replace(",", ".") if mark == "," else text)
        except ValueError:
            match = _GROUPED[mark].fullmatch(text)
            if match is None:
                return None
    first, group, rest, fraction = match.groups()
    return float(first + rest.replace(group, "") + (fraction or "").replace(",", "."))


def looks_like_number(text: str) -> bool:
    """Whether ``text`` is a number with one or the other decimal mark."""
    return parse_number(text) is not None or parse_number(text, ",") is not None


def parse_numbers(texts: Sequence[str | None], mark: Mark = ".") -> NDArray[np.float64] | None:
    """All entries as numbers, NaN where one is missing; None if a single one isn't a number, or all are missing."""
    values = np.full(len(texts), np.nan)
    present = 0
    for row, text in enumerate(texts):
        if text is None:
            continue
        value = parse_number(text, mark)
        if value is None:
            return None
        values[row] = value
        present += 1
    return values if present else None


def decimal_mark(columns: Iterable[Sequence[str | None]], usual: Mark) -> Mark:
    """The decimal mark of a file: of the one that turns more columns into numbers, or else the ``usual`` one.

    The entry ``1,234`` is a number with either mark, and only the other columns can tell which.
    """
    votes = 0
    for texts in columns:
        point, comma = (parse_numbers(texts, mark) is not None for mark in (".", ","))
        votes += int(comma) - int(point)
    if votes == 0:
        return usual
    return "," if votes > 0 else "."


def days(moment: datetime) -> float:
    """Days since 1970-01-01, the time of day as a fraction; a time zone is left out of account."""
    return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds() / 86_400


def parse_dates(texts: Sequence[str | None]) -> NDArray[np.float64] | None:
    """All entries as days since 1970-01-01, if every one is an ISO date, ``2024-05-31`` or ``2024-05-31 14:30``.

    Other ways of writing dates are ambiguous (is 03/04 in March or April?) and stay text.
    """
    values = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text is None:
            continue
        if not _DATE.fullmatch(text):
            return None
        try:
            values[row] = days(datetime.fromisoformat(text))
        except ValueError:  # the 31st of April
            return None
    return None if np.isnan(values).all() else values
