"""Tables with units, odd dates, announced or missing separators: read as meant, or refused with the likely slip."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcjax.datasets import DataError, load_table
from fcjax.datasets.table.csv_file import read_csv
from fcjax.datasets.table.dates import parse_dates, two_ways_to_read
from fcjax.datasets.table.numerals import clean, parse_number, parse_numbers, with_signs, without_unit


@given(
    st.lists(st.integers(-(10**7), 10**7), min_size=1, max_size=5),
    st.sampled_from(["$", "€", ""]),
    st.sampled_from([" km", "%", " m/s", "°C", ""]),
)
def test_a_unit_that_all_share_is_set_aside(numbers: list[int], symbol: str, unit: str) -> None:
    texts = [f"{'-' * (n < 0)}{symbol}{abs(n):,}{unit}" for n in numbers]
    bare = without_unit([*texts, None])
    if not symbol and not unit:
        assert bare is None  # nothing to set aside
        return
    assert bare is not None
    assert bare[-1] is None
    assert [parse_number(text or "") for text in bare[:-1]] == numbers


@pytest.mark.parametrize("texts", [["3 km", "4 mi"], ["3 km", "4"], ["A1", "A2"], ["cat7"], ["km"], ["$"]])
def test_codes_and_mixed_units_stay_text(texts: list[str]) -> None:
    assert without_unit(texts) is None


@given(st.lists(st.sampled_from(["1", "-2.5", "1,5", "1e3", "1.234,5", "1,234.5", "x", "1_0", "٣", "inf"]), max_size=4))
def test_all_numbers_at_once_are_those_one_by_one(texts: list[str]) -> None:
    for mark in (".", ","):
        one_by_one = [parse_number(text, mark) for text in texts]
        found = parse_numbers(texts, mark)
        if not texts or None in one_by_one:
            assert found is None
        else:
            np.testing.assert_array_equal(found, np.array(one_by_one, float))


def test_dates_with_dots_and_zones_and_a_typeset_minus() -> None:
    np.testing.assert_array_equal(parse_dates(["1.2.1970", "1970-01-02T12:00:00Z"]), [31.0, 1.5])
    assert parse_dates(["31.4.2020"]) is None
    assert parse_dates(["03/04/2020"]) is None  # in March or in April?
    assert parse_number("\u22121.5") == -1.5
    assert parse_dates(["1970/02/01 06:00", "1 Feb 1970", "February 1, 1970"]) == pytest.approx([31.25, 31, 31])
    assert parse_dates(["1 Fex 1970"]) is parse_dates(["31 Feb 1970"]) is parse_dates(["1970/2-1"]) is None
    assert two_ways_to_read([None, "03/04/2020", "12-4-20"]) == "03/04/2020"
    assert two_ways_to_read(["03/04/2020", "x"]) is two_ways_to_read([None]) is two_ways_to_read(["3/4"]) is None
    assert two_ways_to_read(["03/04/2020", "23/4/20"]) is None
    assert clean("#DIV/0!") is clean("<NA>") is clean(".") is None
    assert clean("unknown") == "unknown"


@given(st.lists(st.integers(-(10**7), 10**7), min_size=1, max_size=5), st.sampled_from(["$", ""]))
def test_brackets_stand_for_minus(numbers: list[int], symbol: str) -> None:
    texts = [f"({symbol}{-n:,})" if n < 0 else f"{symbol}{n:,}" for n in numbers]
    signed = with_signs([*texts, None])
    bare = without_unit(signed) if symbol else signed
    assert bare is not None
    assert [parse_number(text or "") for text in bare[:-1]] == numbers
    assert with_signs(["(a)", "(1-2)", "f(3)", "(4"]) == ("(a)", "(1-2)", "f(3)", "(4")


ROWS = "".join(
    f"0{10 + i % 3},{1 + i % 12:02}/{1 + i % 5:02}/2020,{'Yes' if i % 2 else 'yes'},{f'({i}.5)' if i == 3 else i}\n"
    for i in range(40)
)


@pytest.mark.parametrize("packed", [False, True])
def test_what_may_be_meant_otherwise_is_said(packed: bool, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    content = ("zip,when,answer,x\n" + ROWS).encode()
    file.write_bytes(gzip.compress(content) if packed else content)
    notes = " ".join(load_table(file, "answer")[1].notes)
    assert "answer: 'Yes', 'yes' are classes apart, by their case alone" in notes
    assert "zip: '010' is taken as a number; say categorical if it is a code" in notes
    assert "when: '01/01/2020' may have the day or the month first: taken as text" in notes
    assert "x: '(3.5)' is taken as a negative number" in notes
    told = " ".join(load_table(file, "x", categorical=["zip", "when"])[1].notes)
    assert "zip: " not in told
    assert "day or the month" not in told
    assert "x: '(3.5)'" in told


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nx;y\n1,5;2\n2,5;3\n",
        "x   y\n 1.5  2\n2.5 3 \n",
        "x,y\n1.5,2,\n2.5,3,\n",  # a separator at the end of every line but the header's
        "x,y\n1.5 km,$2\n2.5 km,$3\n",
        "x,y\r1.5,2\r2.5,3\r",
        "x,y\n1.5,2\n  \n2.5,3\n\t\n",
        "# by logger 3, site A\n# of May\nx;y\n1.5;2\n2.5;3\n",
    ],
)
def test_the_same_table_in_other_clothes(text: str) -> None:
    table = read_csv(text.encode(), "f.csv")
    for name, expected in {"x": [1.5, 2.5], "y": [2.0, 3.0]}.items():
        np.testing.assert_array_equal(table.columns[name].numbers, expected)


def test_one_longer_line_is_no_habit_of_the_file() -> None:
    with pytest.raises(DataError, match=r"line 3: expected 2 fields as in the header, found 3: is a field that holds"):
        read_csv(b"x,y\n1,2\n2,3,\n", "f.csv")
    with pytest.raises(DataError, match=r"line 2: expected 1 field as in the header, found 2: is line 1 a title, with"):
        read_csv(b"Houses of 2020\nx,y\n1,2\n", "f.csv")
    with pytest.raises(DataError, match=r"line 3: expected 2 fields as in the header, found 1$"):
        read_csv(b"sep=;\nx;y\n1\n", "f.csv")


@pytest.mark.parametrize(
    ("header", "target", "slip"),
    [
        ("X,Price", "price", "found 'X', 'Price'; did you mean 'Price'?"),
        ("5.1,setosa", "species", "; is the line with the columns' names missing?"),
    ],
)
def test_an_unknown_column_comes_with_the_likely_slip(header: str, target: str, slip: str, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(header + "\n1,2\n2,3\n")
    with pytest.raises(DataError) as refused:
        load_table(file, target)
    assert slip in str(refused.value)
