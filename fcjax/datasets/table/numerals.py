"""Numbers as people write them: decimal comma or point, grouped thousands, and marks for a missing one."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MISSING",
    "Mark",
    "clean",
    "decimal_mark",
    "looks_like_number",
    "parse_number",
    "parse_numbers",
    "with_signs",
    "without_unit",
]

Mark = Literal[".", ","]

MISSING = frozenset(
    {"", "?", "-", "--", ".", "na", "n/a", "n.a.", "nan", "null", "none", "nat", "<na>"}
    | {"#n/a", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!"}
)
"""What stands for a missing entry, in any case of letters; a spreadsheet's errors too."""

# Groups of three after a first digit that isn't 0, all with the same mark: 1,234,567.8 but not 0,123 or 1,23.
_GROUPED = {
    ".": re.compile(r"([+-]?[1-9]\d{0,2})([,' \u00a0\u202f])(\d{3}(?:\2\d{3})*)(\.\d*)?"),
    ",": re.compile(r"([+-]?[1-9]\d{0,2})([.' \u00a0\u202f])(\d{3}(?:\2\d{3})*)(,\d*)?"),
}
_BRACKETED = re.compile(r"\(([^()+-]*\d[^()+-]*)\)")  # (1,234.50) is -1,234.50 to an accountant

# A sign, a currency's symbol before the number, and a unit after it that has no digits: -$1,234.50 or 12.5 km.
_MEASURE = re.compile(r"([+-]?)([$€£¥₹]?) ?([+-]?\d[\d.,' \u00a0\u202f]*?(?:[eE][+-]?\d+)?) ?([^\d\s.,'+-][^\d]*)?")


def clean(text: str, missing: Iterable[str] = ()) -> str | None:
    """``text`` without the blanks around it; None if it stands for a missing entry."""
    text = text.strip()
    return None if text.casefold() in MISSING or text in missing else text


def parse_number(text: str, mark: Mark = ".") -> float | None:
    """The number that ``text`` writes with the given decimal mark, or None.

    >>> parse_number("1,234.5"), parse_number("1.234,5", ","), parse_number("12 rooms")
    (1234.5, 1234.5, None)
    """
    text = text.replace("\u2212", "-")  # the minus sign of typesetting
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


def with_signs(texts: Sequence[str | None]) -> tuple[str | None, ...]:
    """The entries with a minus sign in place of the brackets by which accountants mark negative numbers.

    >>> with_signs(["($1,234.50)", "7", None])
    ('-$1,234.50', '7', None)
    """
    return tuple(text if text is None else _signed(text) for text in texts)


def _signed(text: str) -> str:
    match = _BRACKETED.fullmatch(text)
    return f"-{match[1].strip()}" if match else text


def looks_like_number(text: str) -> bool:
    """Whether ``text`` is a number with one or the other decimal mark."""
    text = _signed(text)
    return parse_number(text) is not None or parse_number(text, ",") is not None


def parse_numbers(texts: Sequence[str | None], mark: Mark = ".") -> NDArray[np.float64] | None:
    """All entries as numbers, NaN where one is missing; None if a single one isn't a number, or all are missing."""
    present = [row for row, text in enumerate(texts) if text is not None]
    written = [text for text in texts if text is not None]
    if not written:
        return None
    numbers = _plain_numbers(written, mark)
    if numbers is None:
        numbers = []
        for text in written:
            value = parse_number(text, mark)
            if value is None:
                return None
            numbers.append(value)
    values = np.full(len(texts), np.nan)
    values[present] = numbers
    return values


def _plain_numbers(texts: Sequence[str], mark: Mark) -> list[float] | None:
    """What ``parse_number`` gives for each, where all are as Python writes them but for the mark; else None."""
    together = "".join(texts)
    if not together.isascii() or "_" in together or (mark == "," and "." in together):
        return None
    try:
        return list(map(float, texts if mark == "." else [text.replace(",", ".") for text in texts]))
    except ValueError:
        return None


def without_unit(texts: Sequence[str | None]) -> tuple[str | None, ...] | None:
    """The entries without a unit that all of them share, ``$`` before or ``km`` after the number; None without one.

    >>> without_unit(["$1,234.50", "-$3", None])
    ('1,234.50', '-3', None)
    >>> without_unit(["12 km", "3 miles"])
    """
    bare: list[str | None] = []
    units = set()
    for text in texts:
        match = None if text is None else _MEASURE.fullmatch(text)
        if text is not None and match is None:
            return None
        if match is None:
            bare.append(None)
            continue
        sign, symbol, number, unit = match.groups()
        units.add((symbol, unit))
        bare.append(sign + number)
        if len(units) > 1 or not (symbol or unit):
            return None
    return tuple(bare) if units else None


def decimal_mark(columns: Iterable[Sequence[str | None]], usual: Mark) -> Mark:
    """The decimal mark of a file: of the one that turns more columns into numbers, or else the ``usual`` one.

    The entry ``1,234`` is a number with either mark, and only the other columns can tell which.
    """
    votes = 0
    for column in columns:
        signed = with_signs(column)
        texts = without_unit(signed) or signed
        point, comma = (parse_numbers(texts, mark) is not None for mark in (".", ","))
        votes += int(comma) - int(point)
    if votes == 0:
        return usual
    return "," if votes > 0 else "."
