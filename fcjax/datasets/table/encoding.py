"""How a column becomes inputs of a net: rules that are fitted on training rows, and applied to any table."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError
from fcjax.datasets.table.columns import Column, Table
from fcjax.datasets.table.dates import First, first_in_slashes, parse_dates
from fcjax.datasets.table.numerals import looks_like_number

__all__ = ["CategoryRule", "DateRule", "NumberRule", "Rule", "fit_category", "fit_date", "fit_number"]

Cycle = Literal["day", "week", "year"]
CYCLES: dict[Cycle, float] = {"day": 1.0, "week": 7.0, "year": 365.2425}
"""Length in days of what comes round again: a net that sees the date alone can't know that it is Monday, or night."""

MIN_COUNT = 5
"""A value with an input of its own occurs in at least this many training rows."""

MAX_CATEGORIES = 64
"""A column has at most this many inputs for its values, the most frequent ones."""


@dataclass(frozen=True)
class NumberRule:
    """Numbers: ``(x - mean) / std``, with ``fill`` where x is missing; and 1 where it is missing, if ``indicator``.

    Args:
        name: of the column.
        fill: the median of the training rows.
        mean, std: of the training rows, after filling; ``std`` is 1 if they are all the same.
        indicator: entries were missing in the training rows. Otherwise the net could not have learned what it means.
    """

    name: str
    fill: float
    mean: float
    std: float
    indicator: bool

    def __post_init__(self) -> None:
        if not (np.isfinite([self.fill, self.mean, self.std]).all() and self.std > 0):
            raise DataError(f"preprocessing, {self.name}: expected finite numbers and a positive std")

    def features(self) -> tuple[str, ...]:
        """Names of the inputs that this column becomes."""
        return (self.name, f"{self.name} is missing") if self.indicator else (self.name,)

    def encode(self, table: Table) -> NDArray[np.float32]:
        """The inputs, shape ``(rows, len(features))``.

        Raises:
            DataError: an entry is no number, or not finite, or too large for float32 on this scale.
        """
        values = numbers_of(table, self.name)
        missing = np.isnan(values)
        with np.errstate(over="ignore"):
            z = ((np.where(missing, self.fill, values) - self.mean) / self.std).astype(np.float32)
        far = np.flatnonzero(~np.isfinite(z))
        if far.size:
            raise DataError(
                f"{table.source}, {table.place(far[0])}, {self.name}: {values[far[0]]:g} is too far from the training "
                f"data, whose mean is {self.mean:g}"
            )
        return np.stack([z, missing.astype(np.float32)] if self.indicator else [z], axis=1)


@dataclass(frozen=True)
class DateRule:
    """Dates: days since 1970-01-01 as ``number`` has them, then sine and cosine of the place in each of ``cycles``.

    Args:
        number: the rule for the days.
        slashes: what comes first in ``03/04/2024``, as the training file showed; ``"open"`` where it has no such dates.
        cycles: day, week, year; those that the training rows go through.
    """

    number: NumberRule
    slashes: Literal["day", "month", "open"]
    cycles: tuple[Cycle, ...]

    @property
    def name(self) -> str:
        """Of the column."""
        return self.number.name

    def features(self) -> tuple[str, ...]:
        """Names of the inputs that this column becomes."""
        waves = [f"{self.name}, {wave} of the {cycle}" for cycle in self.cycles for wave in ("sine", "cosine")]
        return (*self.number.features(), *waves)

    def encode(self, table: Table) -> NDArray[np.float32]:
        """The inputs, shape ``(rows, len(features))``; waves are 0 where the date is missing.

        Raises:
            DataError: an entry is no date, or none in the order of day and month that the training file has.
        """
        table.require([self.name])
        column = table.columns[self.name]
        first: First | None = None if self.slashes == "open" else self.slashes
        if column.texts is not None:  # a file of few rows may leave the order open, or show another
            moments = parse_dates(column.texts, first)
            column = replace(column, numbers=moments, dates=moments is not None)
            table = replace(table, columns={self.name: column})
        values = numbers_of(table, self.name, dates=True, first=first)
        angles = [2 * np.pi * (values / CYCLES[cycle] % 1) for cycle in self.cycles]
        waves = [np.nan_to_num(wave(angle)) for angle in angles for wave in (np.sin, np.cos)]
        days = replace(column, numbers=values, dates=False)
        encoded = self.number.encode(replace(table, columns={self.name: days}))
        return np.concatenate([encoded, *(wave[:, None].astype(np.float32) for wave in waves)], axis=1)


@dataclass(frozen=True)
class CategoryRule:
    """Text: one input for each of ``categories``, 1 where the entry has this value and 0 elsewhere.

    Args:
        name: of the column.
        categories: the frequent values.
        other: one more input is 1 for every other value; it is there if training rows had such values. Without it, an
            unseen value is zero everywhere: no weight is used that was never trained.
        missing: one more input is 1 where the entry is missing; it is there if training rows had missing entries.
    """

    name: str
    categories: tuple[str, ...]
    other: bool
    missing: bool

    def __post_init__(self) -> None:
        if len(set(self.categories)) < len(self.categories):
            raise DataError(f"preprocessing, {self.name}: expected every category once")

    def features(self) -> tuple[str, ...]:
        """Names of the inputs that this column becomes."""
        marks = ["(other)"] * self.other + ["(missing)"] * self.missing
        return tuple(f"{self.name}={value}" for value in (*self.categories, *marks))

    def encode(self, table: Table) -> NDArray[np.float32]:
        """The inputs, shape ``(rows, len(features))``."""
        table.require([self.name])
        size = len(self.categories)
        nowhere = len(self.features())
        place = {value: index for index, value in enumerate(self.categories)}
        other = size if self.other else nowhere
        absent = size + self.other if self.missing else nowhere
        texts = table.columns[self.name].as_texts()
        index = np.array([absent if text is None else place.get(text, other) for text in texts], np.intp)
        one_hot = np.zeros((len(texts), nowhere + 1), np.float32)  # the last column takes what has no input
        one_hot[np.arange(len(texts)), index] = 1
        return one_hot[:, :nowhere]


Rule = NumberRule | DateRule | CategoryRule


def numbers_of(table: Table, name: str, dates: bool = False, first: First | None = None) -> NDArray[np.float64]:
    """A column's numbers (or days), NaN where they are missing; a ``DataError`` names the first that is none."""
    table.require([name])
    column = table.columns[name]
    numbers = column.numbers
    if numbers is None and column.missing().all():
        numbers = np.full(table.rows, np.nan)
    if numbers is None or (column.dates != dates and not np.isnan(numbers).all()):
        row, text = first_stray(column, dates, first)
        order = f"; in the training data the {first} comes first" if first else ""
        expected = f"a date as 2024-05-31{order}" if dates else "a number"
        raise DataError(f"{table.source}, {table.place(row)}, {name}: expected {expected}, found {text!r}")
    infinite = np.flatnonzero(np.isinf(numbers))
    if infinite.size:
        row = int(infinite[0])
        raise DataError(f"{table.source}, {table.place(row)}, {name}: expected a finite number, found {numbers[row]}")
    return numbers


def first_stray(column: Column, dates: bool = False, first: First | None = None) -> tuple[int, str]:
    """Row and text of the first entry that keeps a column from being numbers (or, with ``dates``, dates)."""
    entries = [(row, text) for row, text in enumerate(column.as_texts()) if text is not None]
    strays = (
        (row, text)
        for row, text in entries
        if (parse_dates([text], first) is None if dates else not looks_like_number(text))
    )
    return next(strays, entries[0])


def fit_number(table: Table, name: str, train: NDArray[np.intp]) -> NumberRule | str:
    """The rule for a column of numbers, from its training rows; or a sentence that says why it is left out."""
    values = numbers_of(table, name, table.columns[name].dates)[train]
    missing = np.isnan(values)
    if missing.all():
        return f"{name}: left out, every training row lacks it"
    fill = float(np.median(values[~missing]))
    filled = np.where(missing, fill, values)
    changes = bool(filled.min() < filled.max())
    if not changes and not missing.any():
        return f"{name}: left out, it is {fill:g} in every training row"
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(filled.mean()), float(filled.std()) if changes else 1.0
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise DataError(f"{table.source}, {name}: the numbers are too large or too close together for float64")
    return NumberRule(name, fill, mean, std, indicator=bool(missing.any()))


def fit_date(table: Table, name: str, train: NDArray[np.intp]) -> DateRule | str:
    """The rule for a column of dates, from its training rows; or a sentence that says why it is left out."""
    number = fit_number(table, name, train)
    if isinstance(number, str):
        return number
    column = table.columns[name]
    values = numbers_of(table, name, dates=True)[train]
    values = values[~np.isnan(values)]
    first = first_in_slashes(column.texts or ())
    return DateRule(number, first or "open", tuple(cycle for cycle in CYCLES if _goes_through(values, cycle)))


def _goes_through(values: NDArray[np.float64], cycle: Cycle) -> bool:
    """Whether dates differ in their place in a cycle, by more than they differ anyway."""
    if cycle == "day":
        return bool(np.ptp(values % 1) > 0)
    whole = np.floor(values)
    # A year of daily rows may lack its last days.
    return bool(np.ptp(whole) >= 0.98 * CYCLES[cycle] and np.ptp(whole % CYCLES[cycle]) > 1)


def fit_category(table: Table, name: str, train: NDArray[np.intp]) -> CategoryRule | str:
    """The rule for a column of text, from its training rows; or a sentence that says why it is left out."""
    texts = table.columns[name].as_texts()
    present = [text for text in (texts[row] for row in train) if text is not None]
    missing = len(present) < len(train)
    counts = Counter(present)
    # By count, ties by name: an order that doesn't depend on the order of the rows.
    ranked = sorted(counts, key=lambda text: (-counts[text], text))
    kept = tuple(sorted(text for text in ranked[:MAX_CATEGORIES] if counts[text] >= MIN_COUNT))
    other = len(kept) < len(counts)
    if not kept and counts:
        return f"{name}: left out, no value of it is in {MIN_COUNT} training rows ({ranked[0]!r} is one)"
    if len(kept) + other + missing < 2:
        return f"{name}: left out, it is {repr(kept[0]) if kept else 'missing'} in every training row"
    return CategoryRule(name, kept, other, missing)
