"""Dates and times as people write them, where they can mean one moment only."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["First", "days", "first_in_slashes", "parse_dates", "two_ways_to_read"]

First = Literal["day", "month"]

_ISO = re.compile(r"\d{4}([-/])\d\d\1\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?")
_DOTTED = re.compile(r"(\d\d?)\.(\d\d?)\.(\d{4})")  # the day first, wherever dots are used
_NAMED = (
    re.compile(r"(?P<day>\d\d?)[ -](?P<month>[A-Za-z]{3,9})[ -](?P<year>\d{4})"),
    re.compile(r"(?P<month>[A-Za-z]{3,9}) (?P<day>\d\d?),? (?P<year>\d{4})"),
)
_SLASHED = re.compile(r"(\d\d?)([/-])(\d\d?)\2(\d{4}|\d\d)")
_TIME = re.compile(r"(?P<date>.*?)(?:^|[ T])(?P<h>\d\d?):(?P<m>\d\d)(?::(?P<s>\d\d))?(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_EPOCH = datetime(1970, 1, 1)


def days(moment: datetime) -> float:
    """Days since 1970-01-01, the time of day as a fraction; a time zone is left out of account."""
    return (moment.replace(tzinfo=None) - _EPOCH).total_seconds() / 86_400


def parse_dates(texts: Sequence[str | None], first: First | None = None) -> NDArray[np.float64] | None:
    """All entries as days since 1970-01-01, if each is a date, with or without a time of day; else None.

    Dates are ``2024-05-31``, ``2024/05/31``, ``31.5.2024``, ``31 May 2024``, ``May 31, 2024`` and ``5/31/2024``; a time
    of day is ``14:30``, ``14:30:59`` or ``2:30 PM``, and alone it is one of 1970-01-01.

    Args:
        texts: the entries, None where one is missing.
        first: what comes first in ``03/04/2024``; None where only the entries can tell (see ``first_in_slashes``).
            While that is open (is it in March or April?) they are no dates.
    """
    values = np.full(len(texts), np.nan)
    first = first or first_in_slashes(texts)
    for row, text in enumerate(texts):
        if text is None:
            continue
        try:
            moment = _moment(text, first)
        except ValueError:  # the 31st of April
            return None
        if moment is None:
            return None
        values[row] = days(moment)
    return None if np.isnan(values).all() else values


def first_in_slashes(texts: Sequence[str | None]) -> First | None:
    """What comes first in dates such as ``5/31/2024``, if an entry shows it and none speaks against it; else None."""
    found = [match for text in texts if text and (match := _SLASHED.fullmatch(_without_time(text)))]
    day_first, month_first = any(int(match[1]) > 12 for match in found), any(int(match[3]) > 12 for match in found)
    if day_first == month_first:
        return None
    return "day" if day_first else "month"


def two_ways_to_read(texts: Sequence[str | None]) -> str | None:
    """The first entry, where all are dates such as 03/04/2020 whose day and month can't be told apart; else None."""
    present = [text for text in texts if text is not None]
    alike = present and all(_SLASHED.fullmatch(_without_time(text)) for text in present)
    return present[0] if alike and first_in_slashes(present) is None else None


def _without_time(text: str) -> str:
    match = _TIME.fullmatch(text)
    return match["date"].rstrip(", ") if match else text


def _moment(text: str, first: First | None) -> datetime | None:
    """The moment that ``text`` means; None if it is no date; a ``ValueError`` where there is no such day."""
    if _ISO.fullmatch(text):
        return datetime.fromisoformat(text.replace("/", "-"))
    match = _TIME.fullmatch(text)
    if match is None:
        return _day(text, first)
    day = _day(match["date"].rstrip(", "), first) if match["date"] else _EPOCH
    hour = int(match["h"])
    if match["half"]:  # 12 AM is midnight, 12 PM is noon
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (match["half"] in "Pp")
    return day and day.replace(hour=hour, minute=int(match["m"]), second=int(match["s"] or 0))


def _day(text: str, first: First | None) -> datetime | None:
    """The day that ``text`` means, at midnight; None and errors as of ``_moment``."""
    if _ISO.fullmatch(text):
        return datetime.fromisoformat(text.replace("/", "-"))
    if match := _DOTTED.fullmatch(text):
        day, month, year = map(int, match.groups())
        return datetime(year, month, day)
    if first and (match := _SLASHED.fullmatch(text)):
        one, other, year = int(match[1]), int(match[3]), int(match[4])
        day, month = (one, other) if first == "day" else (other, one)
        if len(match[4]) == 2:  # as POSIX reads them: 69 to 99 are of the last century
            year += 1900 if year >= 69 else 2000
        return datetime(year, month, day)
    for form in _NAMED:
        if match := form.fullmatch(text):
            months = [name for name in _MONTHS if name.startswith(match["month"].lower())]
            if months:
                return datetime(int(match["year"]), _MONTHS.index(months[0]) + 1, int(match["day"]))
    return None
