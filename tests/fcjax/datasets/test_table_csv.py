"""CSV files as they come: every cell arrives as it was written, or the error names the line."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcjax.datasets import DataError
from fcjax.datasets.table.columns import Table
from fcjax.datasets.table.csv_file import read_csv


def read(text: str, encoding: str = "utf-8") -> Table:
    return read_csv(text.encode(encoding), "f.csv")


def cells(table: Table, name: str) -> list[str | None]:
    return list(table.columns[name].as_texts())


def numbers(table: Table, name: str) -> list[float]:
    values = table.columns[name].numbers
    assert values is not None
    return values.tolist()


# A leading letter keeps a cell from being blank, a number or a mark for a missing entry.
words = st.text("ab,;\t|\"'\n é€.", max_size=8).map(lambda text: "w" + text.rstrip())


@given(
    st.lists(st.tuples(words, words, words), min_size=2, max_size=6),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_quoted_cells_come_back_whole(
    rows: list[tuple[str, str, str]], delimiter: str, end: str, encoding: str
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("x", "y", "z"), *rows])
    table = read(buffer.getvalue(), encoding)
    assert [cells(table, name) for name in "xyz"] == [list(column) for column in zip(*rows, strict=True)]


@given(st.binary(max_size=80))
def test_noise_gives_a_table_or_a_data_error(noise: bytes) -> None:
    try:
        table = read_csv(noise, "f.csv")
    except DataError:
        return
    assert all(len(column.as_texts()) == table.rows for column in table.columns.values())


AWKWARD = (
    '\ufeffname ; Fläche (m²);"Preis; EUR";note\r\n'
    '"Haus ""am See""";120,5;1.250.000,00;"two\r\nlines"\r\n'
    "\r\n"
    "Müller; ?;980.000,50; plain \r\n"
    "Öl; 75,25;NA;\r\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_an_awkward_file(encoding: str) -> None:
    """Byte order mark, semicolons, decimal commas, CRLF, a blank line, quotes in quotes, a line end in a cell."""
    table = read(AWKWARD.removeprefix("\ufeff") if encoding != "utf-8" else AWKWARD, encoding)
    assert list(table.columns) == ["name", "Fläche (m²)", "Preis; EUR", "note"]
    assert cells(table, "name") == ['Haus "am See"', "Müller", "Öl"]
    assert cells(table, "note") == ["two\r\nlines", "plain", None]
    np.testing.assert_array_equal(numbers(table, "Fläche (m²)"), [120.5, np.nan, 75.25])
    np.testing.assert_array_equal(numbers(table, "Preis; EUR"), [1_250_000, 980_000.5, np.nan])
    assert [table.place(row) for row in range(3)] == ["line 2", "line 5", "line 6"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a,b\n"1,234",0.5\n"12,345",0.25', [1234, 12345]),  # a comma groups thousands
        ("a;b\n1,234;0,5\n12,345;0,25", [1.234, 12.345]),  # the same text where it is the decimal mark
        ("a;b\n1.234;0,5\n12.345;0,25", [1234, 12345]),
        ("a;b\n1.234;0.5\n12.345;0.25", [1.234, 12.345]),  # semicolons with points, decided by column b
        ("a\tb\n1,5\tx\n2,5\ty", [1.5, 2.5]),
        ('a,b\n"1,5",x\n"2,5",y', [1.5, 2.5]),
        ("a,b\ntrue,1\n 2 , 3", None),
    ],
)
def test_decimal_marks(text: str, expected: list[float] | None) -> None:
    table = read(text)
    if expected is None:
        assert table.columns["a"].numbers is None
    else:
        assert numbers(table, "a") == expected


def test_a_mark_that_is_known_decides_where_the_file_does_not() -> None:
    content = b"a;b\n1.234;x"
    for usual, expected in ((".", 1.234), (",", 1234.0), (None, 1234.0)):
        assert numbers(read_csv(content, "f", usual=usual), "a") == [expected]  # type: ignore[arg-type]


def test_dates_and_columns_of_one() -> None:
    table = read("day\n2024-01-02\n2024-01-05\n")
    assert table.columns["day"].dates
    assert np.diff(numbers(table, "day")) == [3]


def test_a_separator_inside_the_names_does_not_mislead() -> None:
    table = read("price, EUR;area, m2\n1;2\n3;4\n")
    assert list(table.columns) == ["price, EUR", "area, m2"]


def test_names_that_are_blank() -> None:
    """A saved index has no name; a separator at the end of every line makes a column of nothing."""
    assert list(read(",a,\n0,x,\n1,y,\n").columns) == ["column 1", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.csv: expected a header line and rows, found an empty file"),
        (" \n\n", "found an empty file"),
        ("a,b\n", "expected rows below the header, found none"),
        ("a,b\n1,2\n1,2,3\n", r"f.csv, line 3: expected 2 fields as in the header, found 3: .* holds ','"),
        ('a,b\n"x\ny",2\n\n1\n', "line 5: expected 2 fields as in the header, found 1"),
        ('a,b\n1,"2\n3,4\n', "line 2: can't be read .* is a quote not closed"),
        ("a,b, a\n1,2,3\n", "expected every column name once, found twice: 'a'"),
        ("1.5,2\n3,4\n", "line 1: expected column names, found numbers only: is the header missing"),
        ("a,b\n1,\0\n", "expected a text file, found bytes that are none"),
    ],
)
def test_each_fault_names_its_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(text)
