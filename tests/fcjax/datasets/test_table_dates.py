"""Dates that name the day or the month first, times of day, and what a date says of its day, week and year."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from fcjax.datasets import DataError, Preprocessing, load_table
from fcjax.datasets.table.dates import days, first_in_slashes, parse_dates

EIGHTEENTH = (datetime(2008, 1, 18) - datetime(1970, 1, 1)).days


@pytest.mark.parametrize("texts", [["1/18/2008", "1/18/08"], ["18/1/2008", "18-01-08"], ["01/18/2008", None]])
def test_one_entry_tells_what_comes_first(texts: list[str | None]) -> None:
    found = parse_dates(texts)
    assert found is not None
    assert set(found[~np.isnan(found)]) == {EIGHTEENTH}
    assert parse_dates(["1/2/2008", *texts]) is not None
    assert parse_dates(["1/2/2008"]) is None  # the twin: nothing tells


def test_entries_that_contradict_each_other_are_no_dates() -> None:
    assert first_in_slashes(["18/1/2008", "1/18/2008"]) is None
    assert parse_dates(["18/1/2008", "1/18/2008"]) is parse_dates(["18/18/2008"]) is None
    assert parse_dates(["1/2/2008"], "month") != parse_dates(["1/2/2008"], "day")


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("14:30", 14.5),
        ("2:30 PM", 14.5),
        ("12:15 AM", 0.25),
        ("12:15pm", 12.25),
        ("07:00:36", 7.01),
        ("2:30 a.m.", 2.5),
    ],
)
def test_times_of_day(text: str, hour: float) -> None:
    alone, dated = parse_dates([text]), parse_dates([f"18 Jan 2008 {text}"])
    assert alone == pytest.approx([hour / 24], abs=1e-12)  # sums of few float64 numbers
    assert dated == pytest.approx([EIGHTEENTH + hour / 24], abs=1e-9)  # float64 resolves 2e-12 of 13,900 days


@pytest.mark.parametrize("text", ["24:00", "13:00 PM", "0:10 AM", "1:2", "12:60", "x 12:30", "ratio 1:30"])
def test_what_is_no_time_of_day(text: str) -> None:
    assert parse_dates([text]) is None


def write(file: Path, form: str, count: int = 400, hours: int = 31) -> Preprocessing:
    moments = [datetime(2007, 12, 30) + timedelta(hours=hours * n) for n in range(count)]
    file.write_text("when,y\n" + "".join(f"{moment.strftime(form)},{n % 37}.5\n" for n, moment in enumerate(moments)))
    return load_table(file, "y")[1]


def encoded(fitted: Preprocessing, file: Path, text: str) -> dict[str, float]:
    file.write_text("when\n" + text + "\n")
    return dict(zip(fitted.features, fitted.inputs(fitted.read(file))[0].tolist(), strict=True))


def test_one_new_row_is_read_in_the_order_of_the_training_file(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    by_month, by_day = write(file, "%m/%d/%Y %H:%M"), write(file, "%d/%m/%Y %H:%M")
    assert any(note == "when: '30/12/2007 00:00' is read with the day first" for note in by_day.notes)
    february = encoded(by_day, file, "2008-02-01")
    assert encoded(by_month, file, "02/01/2008") == encoded(by_day, file, "01/02/2008 00:00") == february
    assert encoded(by_day, file, "02/01/2008") != february
    with pytest.raises(
        DataError, match=r"line 2, when: .*in the training data the day comes first, found '02/13/2008'"
    ):
        encoded(by_day, file, "02/13/2008")


def test_a_date_says_where_it_is_in_day_week_and_year(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    fitted = write(file, "%Y-%m-%dT%H:%M")
    now = encoded(fitted, file, "2008-01-18T06:00")
    for cycle, length in (("day", 1), ("week", 7), ("year", 365.2425)):
        place = 2 * np.pi * days(datetime(2008, 1, 18, 6)) / length
        waves = [now[f"when, {wave} of the {cycle}"] for wave in ("sine", "cosine")]
        assert waves == pytest.approx([np.sin(place), np.cos(place)], abs=1e-6)  # float32
    assert encoded(fitted, file, "?")["when, cosine of the week"] == 0
    assert write(file, "%Y-%m-%d", 50, 24).features == ("when", "when, sine of the week", "when, cosine of the week")
    assert write(file, "%Y-%m-%d", 50, 7 * 24).features == ("when",)  # 50 Sundays: no whole year
    assert write(file, "%H:%M", 50).features == ("when", "when, sine of the day", "when, cosine of the day")
