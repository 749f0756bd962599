"""Amounts of memory as people write them: 500MB, 2GiB, 1000000."""

import re
from fractions import Fraction

__all__ = ["memory_size", "readable_size"]

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt]?)b?|([kmgt])ib)\s*", re.IGNORECASE | re.ASCII)


def memory_size(text: str) -> int:
    """The number of bytes that ``text`` names.

    >>> memory_size("500MB"), memory_size("2 GiB"), memory_size("1.5k"), memory_size("64")
    (500000000, 2147483648, 1500, 64)

    Args:
        text: a number of at least one byte, with B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024) or
            nothing (bytes); small and capital letters mean the same.

    Raises:
        ValueError: another form.
    """
    form = _FORM.fullmatch(text)
    if form:
        number, decimal, binary = form.groups()
        size = int(Fraction(number) * (_BINARY[binary.lower()] if binary else _UNITS[decimal.lower()]))
        if size >= 1:
            return size
    raise ValueError(f"expected an amount of memory such as 500MB or 2GiB, found {text!r}")


def readable_size(size: float) -> str:
    """``size`` bytes in the largest unit that it fills.

    >>> readable_size(1_500_000), readable_size(12)
    ('1.5 MB', '12 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
