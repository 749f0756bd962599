"""Tables whose files say what their entries are: Parquet and NPZ."""

import datetime
import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError
from fcjax.datasets.table.columns import Column, Table
from fcjax.datasets.table.dates import days
from fcjax.datasets.table.numerals import clean

__all__ = ["read_npz", "read_parquet"]

# What NumPy and zipfile raise for a damaged, encrypted or lying file.
UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(content: bytes, source: str, missing: Sequence[str] = ()) -> Table:
    """The table in an NPZ file: each array of shape ``(rows,)`` is a column.

    Durations become seconds. An array ``X`` of shape ``(rows, n)`` is n columns, ``X_0`` to ``X_{n-1}`` (one column
    ``X`` if n is 1). Pickled objects are never loaded.

    Raises:
        DataError: no NPZ file; arrays of objects, of more than two dimensions, or of different length.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except UNREADABLE as error:
        raise DataError(f"{source}: can't be read as NPZ ({error}); arrays of objects are not accepted") from None
    wrong = [f"{name} {array.shape}" for name, array in arrays.items() if array.ndim not in (1, 2)]
    if wrong or not arrays:
        raise DataError(f"{source}: expected arrays of shape (rows,) or (rows, n), found {', '.join(wrong) or 'none'}")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{source}: expected arrays of one length, found {lengths}")
    columns: dict[str, Column] = {}
    for name, array in arrays.items():
        table = array[:, None] if array.ndim == 1 else array  # (rows, n)
        for index, values in enumerate(table.T):
            label = name if table.shape[1] == 1 else f"{name}_{index}"
            if label in columns:
                raise DataError(f"{source}: expected every column name once, found twice: {label!r}")
            columns[label] = _from_array(label, values, source, missing)
    return _table(source, columns)


def _from_array(name: str, values: NDArray[Any], source: str, missing: Sequence[str]) -> Column:
    kind = values.dtype.kind
    if kind in "iuf":
        return Column(name, None, values.astype(np.float64))
    if kind == "b":
        return Column(name, tuple(map(str, values.tolist())), None)
    if kind == "U":
        return Column(name, tuple(clean(text, missing) for text in values.tolist()), None)
    if kind == "S":
        decoded = (text.decode("utf-8", "replace") for text in values.tolist())
        return Column(name, tuple(clean(text, missing) for text in decoded), None)
    if kind == "m":
        return Column(name, None, values / np.timedelta64(1, "s"))  # NaT becomes NaN
    if kind == "M":
        since = (values.astype("datetime64[us]") - np.datetime64(0, "us")) / np.timedelta64(1, "D")  # NaT becomes NaN
        return Column(name, None, since, dates=True)
    raise DataError(f"{source}, {name}: expected numbers, text, booleans or dates, found {values.dtype}")


def read_parquet(content: bytes, source: str, missing: Sequence[str] = ()) -> Table:
    """The table in a Parquet file. Text stays text, even where it looks like numbers; durations become seconds.

    Raises:
        DataError: pyarrow is not installed; no Parquet file; columns of lists or structures (all are listed).
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{source}: reading Parquet needs pyarrow: pip install 'fcjax[table]', or use CSV") from None
    try:
        data = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: can't be read as Parquet ({str(error).splitlines()[0]})") from None
    twice = sorted({name for name in data.column_names if data.column_names.count(name) > 1})
    if twice:
        raise DataError(f"{source}: expected every column name once, found twice: {', '.join(map(repr, twice))}")
    nested = [f"{field.name} ({field.type})" for field in data.schema if pyarrow.types.is_nested(field.type)]
    if nested:
        raise DataError(f"{source}: expected columns of single values, found {', '.join(nested)}")
    entries = zip(data.column_names, data.columns, strict=True)
    return _table(source, {name: _from_arrow(name, column, source, missing) for name, column in entries})


def _from_arrow(name: str, column: Any, source: str, missing: Sequence[str]) -> Column:
    import pyarrow

    if pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type):
        return Column(name, None, column.cast(pyarrow.float64(), safe=False).to_numpy())  # null becomes NaN
    for nanoseconds, kind in (
        (pyarrow.types.is_timestamp, pyarrow.timestamp),
        (pyarrow.types.is_duration, pyarrow.duration),
    ):
        if nanoseconds(column.type):
            column = column.cast(kind("us"), safe=False)  # Python's datetime has none
    if pyarrow.types.is_time64(column.type):
        column = column.cast(pyarrow.time64("us"), safe=False)
    return _from_list(name, column.to_pylist(), source, missing)


def _from_list(name: str, values: list[Any], source: str, missing: Sequence[str]) -> Column:
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {str} or not kinds:
        return Column(name, tuple(None if value is None else clean(value, missing) for value in values), None)
    if kinds == {bool}:
        return Column(name, tuple(None if value is None else str(value) for value in values), None)
    if kinds <= {int, float, Decimal}:
        return Column(name, None, np.array([np.nan if value is None else float(value) for value in values]))
    if kinds == {datetime.timedelta}:
        seconds = [np.nan if value is None else value.total_seconds() for value in values]
        return Column(name, None, np.array(seconds))
    if (
        kinds <= {datetime.date}
        or kinds <= {datetime.time}
        or all(issubclass(kind, datetime.datetime) for kind in kinds)
    ):
        return Column(name, None, np.array([np.nan if value is None else _days(value) for value in values]), dates=True)
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DataError(f"{source}, {name}: expected numbers, text, booleans or dates, found {found}")


def _days(value: datetime.date | datetime.time) -> float:
    if isinstance(value, datetime.time):  # as a text file's: of 1970-01-01
        return days(datetime.datetime.combine(datetime.date(1970, 1, 1), value))
    if isinstance(value, datetime.datetime):
        return days(value)
    return days(datetime.datetime(value.year, value.month, value.day))


def _table(source: str, columns: dict[str, Column]) -> Table:
    rows = 0
    for column in columns.values():
        rows = len(column.missing())
    if not rows:
        raise DataError(f"{source}: expected a table with rows, found none")
    return Table(source, columns, rows)
