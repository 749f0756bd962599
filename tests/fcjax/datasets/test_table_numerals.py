"""Numbers and dates as people write them: read as meant, or not taken for numbers at all."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcjax.datasets.table.dates import parse_dates
from fcjax.datasets.table.numerals import Mark, clean, decimal_mark, parse_number, parse_numbers

marks: st.SearchStrategy[Mark] = st.sampled_from([".", ","])


@given(st.floats(allow_nan=False), marks)
def test_every_number_comes_back(value: float, mark: Mark) -> None:
    assert parse_number(repr(value).replace(".", mark), mark) == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 99), st.sampled_from(["'", " ", "\u00a0", "\u202f", ""]), marks)
def test_grouped_thousands_come_back(whole: int, cents: int, group: str, mark: Mark) -> None:
    group = group or ("," if mark == "." else ".")
    text = f"{whole:,}".replace(",", group) + f"{mark}{cents:02d}"
    expected = math.copysign(abs(whole) + cents / 100, whole)
    assert parse_number(text, mark) == pytest.approx(expected, rel=1e-15)  # the sum above rounds once more


@given(st.text(max_size=12), marks)
def test_any_text_is_a_number_or_none(text: str, mark: Mark) -> None:
    value = parse_number(text, mark)
    assert value is None or isinstance(value, float)


@pytest.mark.parametrize(
    ("text", "point", "comma"),
    [
        ("1,234", 1234.0, 1.234),
        ("1.234", 1.234, 1234.0),
        ("0,123", None, 0.123),
        ("12,34", None, 12.34),
        ("1,234,56", None, None),
        ("1,2345", None, 1.2345),
        ("1.234,5", None, 1234.5),
        ("1 234", 1234.0, 1234.0),
        ("1 23", None, None),
        ("1e3", 1000.0, 1000.0),
        ("1_000", None, None),
        ("٣", None, None),
        ("12 rooms", None, None),
        ("$12", None, None),
        ("", None, None),
    ],
)
def test_each_mark_reads_in_its_own_way(text: str, point: float | None, comma: float | None) -> None:
    assert parse_number(text, ".") == point
    assert parse_number(text, ",") == comma


def test_the_columns_vote_on_the_mark() -> None:
    open_to_both, point, comma = ["1,234", None], ["0.5", "1.25"], ["0,5", "1,25"]
    assert decimal_mark([open_to_both, comma], ".") == ","
    assert decimal_mark([open_to_both, point], ",") == "."
    assert decimal_mark([open_to_both, point, comma, comma, ["text"]], ".") == ","
    assert [decimal_mark([open_to_both], mark) for mark in (".", ",")] == [".", ","]


def test_one_entry_that_is_none_makes_a_column_text() -> None:
    numbers = parse_numbers(["1", None, "3.5"])
    assert numbers is not None
    assert [value for value in numbers if not math.isnan(value)] == [1, 3.5]
    assert parse_numbers(["1", None, "3.5", "x"]) is None
    assert parse_numbers([None, None]) is None


@pytest.mark.parametrize("text", ["", " ", "NA", "n/a", "NaN", "?", " null ", "None", "-", "#N/A"])
def test_marks_of_a_missing_entry(text: str) -> None:
    assert clean(text) is None


def test_other_text_is_kept_without_its_blanks() -> None:
    assert clean("  Nantes ") == "Nantes"
    assert clean("-999") == "-999"
    assert clean("-999", ["-999"]) is None


def test_dates_are_days() -> None:
    days = parse_dates(["1970-01-02", None, "2024-02-29 12:00", "1969-12-31T18:00:00"])
    assert days is not None
    assert [day for day in days if not math.isnan(day)] == [1, 19782.5, -0.25]
    for text in ("03/04/2024", "2023-02-29", "2024-1-2", "2024-01-02 at noon", "20240102"):
        assert parse_dates(["2024-01-01", text]) is None
