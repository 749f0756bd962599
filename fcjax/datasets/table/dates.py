"""Dates as people write them, where they can mean one day only."""

import re
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

__all__ = ["days", "parse_dates", "two_ways_to_read"]

_ISO = re.compile(r"\d{4}([-/])\d\d\1\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:\d\d)?)?")
_DOTTED = re.compile(r"(\d\d?)\.(\d\d?)\.(\d{4})")  # the day first, wherever dots are used
_NAMED = (
    re.compile(r"(?P<day>\d\d?)[ -](?P<month>[A-Za-z]{3,9})[ -](?P<year>\d{4})"),
    re.compile(r"(?P<month>[A-Za-z]{3,9}) (?P<day>\d\d?),? (?P<year>\d{4})"),
)
_SLASHED = re.compile(r"\d\d?([/-])\d\d?\1(?:\d{4}|\d\d)")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)


def days(moment: datetime) -> float:
    """Days since 1970-01-01, the time of day as a fraction; a time zone is left out of account."""
    return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds() / 86_400


def parse_dates(texts: Sequence[str | None]) -> NDArray[np.float64] | None:
    """All entries as days since 1970-01-01, if each is a date, with or without a time of day; else None.

    Dates are ``2024-05-31``, ``2024/05/31 14:30``, ``31.5.2024``, ``31 May 2024`` and ``May 31, 2024``. Other ways of
    writing them are ambiguous (is 03/04 in March or April?) and stay text.
    """
    values = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text is None:
            continue
        try:
            moment = _moment(text)
        except ValueError:  # the 31st of April
            return None
        if moment is None:
            return None
        values[row] = days(moment)
    return None if np.isnan(values).all() else values


def two_ways_to_read(texts: Sequence[str | None]) -> str | None:
    """The first entry, where all are dates such as 03/04/2020 whose day and month can't be told apart; else None."""
    present = [text for text in texts if text is not None]
    return present[0] if present and all(map(_SLASHED.fullmatch, present)) else None


def _moment(text: str) -> datetime | None:
    """The moment that ``text`` means; None if it is no date; a ``ValueError`` where there is no such day."""
    if _ISO.fullmatch(text):
        return datetime.fromisoformat(text.replace("/", "-"))
    if match := _DOTTED.fullmatch(text):
        day, month, year = map(int, match.groups())
        return datetime(year, month, day)
    for form in _NAMED:
        if match := form.fullmatch(text):
            months = [name for name in _MONTHS if name.startswith(match["month"].lower())]
            if months:
                return datetime(int(match["year"]), _MONTHS.index(months[0]) + 1, int(match["day"]))
    return None
