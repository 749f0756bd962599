"""Text tables: a header line, then one record to a line, with whatever separator, encoding and decimal mark."""

import csv
import io
import itertools
import re
from collections.abc import Sequence

import numpy as np

from fcjax.datasets.dataset import DataError
from fcjax.datasets.table.columns import Column, Table
from fcjax.datasets.table.dates import parse_dates
from fcjax.datasets.table.numerals import (
    Mark,
    clean,
    decimal_mark,
    parse_number,
    parse_numbers,
    with_signs,
    without_unit,
)

__all__ = ["read_csv"]

DELIMITERS = (",", ";", "\t", "|")
_ANNOUNCED = re.compile(r"sep=(.)\r?\n")  # a first line by which spreadsheets are told the separator


def read_csv(content: bytes, source: str, missing: Sequence[str] = (), usual: Mark | None = None) -> Table:
    """The table in a CSV file (or one separated by semicolons, tabs, bars or blanks).

    Fields may be quoted, and then hold separators and line ends. UTF-8 and UTF-16 with their marks, and the Western
    encoding of Windows are told apart by content. A column whose entries are all numbers, with or without a unit that
    they share, or all dates, becomes numbers. Lines above the header that start with ``#`` are comments.

    Args:
        content: the whole file.
        source: its name, for messages.
        missing: marks of a missing entry besides the usual ones (``numerals.MISSING``).
        usual: the decimal mark where the entries leave it open. None takes the comma if semicolons separate the fields,
            as spreadsheets write it where the comma is the decimal mark, and the point otherwise.

    Raises:
        DataError: the file is empty or has a header only, a row of another length (with its line), an unclosed quote,
            two columns of one name, no header, or bytes that are no text.
    """
    text = _decode(content, source)
    if not text.strip():
        raise DataError(f"{source}: expected a header line and rows, found an empty file")
    announced = _ANNOUNCED.match(text)
    skip = 1 if announced else _comments(text)
    delimiter = announced[1] if announced else _delimiter(text.split("\n", skip)[-1])
    header, records, lines = _records(text, delimiter, source, skip)
    if not records:
        raise DataError(f"{source}: expected rows below the header, found none")
    cells = [tuple(clean(cell, missing) for cell in column) for column in zip(*records, strict=True)]
    names = _names(header, cells, source)
    mark = decimal_mark(cells, usual or ("," if delimiter == ";" else "."))
    columns = {name: _column(name, cells[index], mark) for index, name in names.items()}
    return Table(source, columns, len(records), np.array(lines), mark)


def _decode(content: bytes, source: str) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings: tuple[str, ...] = ("utf-16",)
    else:
        encodings = ("utf-8-sig", "cp1252", "latin-1")  # the last takes any bytes
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
        break
    raise DataError(f"{source}: expected a text file, found bytes that are none (CSV, Parquet and NPZ are read)")


def _comments(text: str) -> int:
    """The number of lines at the top that are comments: they start with ``#``, and are not cut like the next one."""
    lines = text[: 1 << 16].split("\n")
    count = next((n for n, line in enumerate(lines) if not line.startswith("#")), 0)
    alike = count and any(lines[count].count(mark) == lines[count - 1].count(mark) > 0 for mark in DELIMITERS)
    return count - 1 if alike else count  # the names of the columns may begin with # themselves


def _delimiter(text: str) -> str:
    """The separator that cuts the header into most fields, and the first rows into as many."""
    scores = {}
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(text[: 1 << 16], newline=""), delimiter=delimiter, skipinitialspace=True)
        try:
            widths = [len(record) for record in itertools.islice(reader, 50) if record]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            scores[delimiter] = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
    if not scores and _blanks_separate(text):
        return " "
    return max(scores, key=lambda delimiter: scores[delimiter]) if scores else ","


def _blanks_separate(text: str) -> bool:
    """Whether the first lines all have the same number of words, more than one."""
    widths = {len(line.split()) for line in text[: 1 << 16].splitlines()[:50] if line.strip()}
    return len(widths) == 1 and widths.pop() > 1 and '"' not in text[: 1 << 16]


def _records(text: str, delimiter: str, source: str, skip: int) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, records, and the line on which each record starts. Blank lines are passed over."""
    if delimiter == " ":  # any number of blanks, also at the ends
        text = "\n".join(" ".join(line.split()) for line in text.splitlines())
    stream = io.StringIO(text, newline="")
    for _ in range(skip):
        stream.readline()
    reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] = []
    records: list[list[str]] = []
    lines = []
    start = skip + 1
    try:
        for record in reader:
            if not header:
                header = record
            elif len(record) > 1 or (record and (record[0].strip() or len(header) == 1)):
                records.append(record)
                lines.append(start)
            start = skip + reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{source}, line {start}: can't be read ({error}): is a quote not closed?") from None
    if records and all(len(record) == len(header) + 1 and not record[-1].strip() for record in records):
        records = [record[:-1] for record in records]  # every line ends with a separator, but for the header's
    for record, line in zip(records, lines, strict=True):
        if len(record) != len(header):
            slip = ""
            if len(record) > len(header):
                title = f": is line {skip + 1} a title, with the header below it?"
                slip = title if len(header) == 1 else f": is a field that holds {delimiter!r} without quotes?"
            raise DataError(
                f"{source}, line {line}: expected {len(header)} field{'s' * (len(header) > 1)} as in the header, found "
                f"{len(record)}{slip}"
            )
    return header, records, lines


def _names(header: list[str], cells: Sequence[tuple[str | None, ...]], source: str) -> dict[int, str]:
    """Column names by position. A column without a name is named by its number, or left out if it is blank."""
    names = {}
    for index, name in enumerate(header):
        name = name.strip()
        if name:
            names[index] = name
        elif any(cell is not None for cell in cells[index]):
            names[index] = f"column {index + 1}"
    given = [name for name in names.values() if name]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise DataError(f"{source}: expected every column name once, found twice: {', '.join(map(repr, twice))}")
    if all(parse_number(name.strip()) is not None for name in header):
        raise DataError(f"{source}, line 1: expected column names, found numbers only: is the header missing?")
    return names


def _column(name: str, texts: tuple[str | None, ...], mark: Mark) -> Column:
    # A file with decimal commas may hold a column with points; the other way round a comma groups thousands.
    marks: tuple[Mark, ...] = (",", ".") if mark == "," else (".",)
    signed = with_signs(texts)
    for written in (signed, without_unit(signed)):
        for candidate in marks if written else ():
            numbers = parse_numbers(written or (), candidate)
            if numbers is not None:
                return Column(name, texts, numbers)
    dates = parse_dates(texts)
    return Column(name, texts, dates, dates=dates is not None)
