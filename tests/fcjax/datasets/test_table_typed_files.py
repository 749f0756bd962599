"""Parquet and NPZ: the same table as the CSV, types respected, nothing pickled, damage refused."""

import datetime
import gzip
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcjax.datasets import DataError, read_table
from fcjax.datasets.table.columns import Table
from fcjax.datasets.table.typed_files import read_npz, read_parquet


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def numbers(table: Table, name: str) -> list[float]:
    values = table.columns[name].numbers
    assert values is not None
    return values.tolist()


def test_npz_arrays_become_columns() -> None:
    table = read_npz(
        npz(
            X=np.arange(6, dtype=np.float32).reshape(3, 2),
            y=np.array([[1], [0], [1]]),
            city=np.array(["Oslo", "?", " Bergen"]),
            new=np.array([True, False, True]),
            state=np.array([b"up", b"NA", b"down"]),
            took=np.array([90, "NaT", 1500], "timedelta64[ms]"),
            day=np.array(["1970-01-03", "NaT", "1970-01-01T12"], "datetime64[h]"),
        ),
        "f.npz",
    )
    assert list(table.columns) == ["X_0", "X_1", "y", "city", "new", "state", "took", "day"]
    assert numbers(table, "X_1") == [1, 3, 5]
    assert numbers(table, "y") == [1, 0, 1]
    assert table.columns["city"].as_texts() == ("Oslo", None, "Bergen")
    assert table.columns["new"].as_texts() == ("True", "False", "True")
    assert table.columns["state"].as_texts() == ("up", None, "down")
    np.testing.assert_array_equal(numbers(table, "took"), [0.09, np.nan, 1.5])
    np.testing.assert_array_equal(numbers(table, "day"), [2, np.nan, 0.5])
    assert table.columns["day"].dates
    assert table.place(2) == "row 3"


def test_parquet_columns_keep_their_types() -> None:
    table = read_parquet(
        parquet(
            whole=pa.array([1, None, 3], pa.int32()),
            real=[0.5, None, float("nan")],
            code=["007", "NA", None],
            city=pa.array(["Oslo", None, "Oslo"]).dictionary_encode(),
            new=[True, None, False],
            day=[datetime.date(1970, 1, 3), None, datetime.date(1970, 1, 1)],
            moment=pa.array([0, None, 43_200_000_000_001], pa.timestamp("ns")),
            took=pa.array([1_500_000_001, None, 0], pa.duration("ns")),
            at=pa.array([64_800_000_000_001, None, 0], pa.time64("ns")),
            money=pa.array([None, 2, 3], pa.decimal128(5, 2)),
        ),
        "f.parquet",
    )
    np.testing.assert_array_equal(numbers(table, "whole"), [1, np.nan, 3])
    np.testing.assert_array_equal(numbers(table, "real"), [0.5, np.nan, np.nan])
    assert table.columns["code"].as_texts() == ("007", None, None)  # text stays text
    assert table.columns["code"].numbers is None
    assert table.columns["city"].as_texts() == ("Oslo", None, "Oslo")
    assert table.columns["new"].as_texts() == ("True", None, "False")
    np.testing.assert_array_equal(numbers(table, "day"), [2, np.nan, 0])
    np.testing.assert_array_equal(numbers(table, "moment"), [0, np.nan, 0.5])
    np.testing.assert_array_equal(numbers(table, "took"), [1.5, np.nan, 0])
    np.testing.assert_array_equal(numbers(table, "at"), [0.75, np.nan, 0])
    np.testing.assert_array_equal(numbers(table, "money"), [np.nan, 2, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz(a=np.array([{}, 1], dtype=object)), "arrays of objects are not accepted"),
        (npz(a=np.zeros((2, 3, 4))), r"expected arrays of shape \(rows,\) or \(rows, n\), found a \(2, 3, 4\)"),
        (npz(a=np.zeros(3), b=np.zeros(4)), "expected arrays of one length, found {'a': 3, 'b': 4}"),
        (npz(a=np.zeros(3, complex)), "f, a: expected numbers, text, booleans or dates, found complex128"),
        (npz(a=np.zeros(0)), "expected a table with rows, found none"),
        (npz(a=np.zeros((2, 2)), a_1=np.zeros(2)), "found twice: 'a_1'"),
        (npz(), r"expected arrays of shape .* found none"),
        (npz(a=np.zeros(3))[:40], "can't be read as NPZ"),
    ],
)
def test_npz_faults(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_npz(content, "f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            parquet(a=[[1], [2]], b=[{"x": 1}, {"x": 2}]),
            r"expected columns of single values, found a \(list.*b \(struct",
        ),
        (parquet(a=[b"x", b"y"]), "f, a: expected numbers, text, booleans or dates, found bytes"),
        (parquet(a=pa.array([], pa.int32())), "expected a table with rows, found none"),
        (parquet(a=[1, 2])[:60], "can't be read as Parquet"),
    ],
)
def test_parquet_faults(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_parquet(content, "f")


NPZ = npz(a=np.arange(5.0), b=np.array(list("vwxyz")))
PARQUET = parquet(a=[1.0, 2.0, None], b=["x", "y", "z"])


@given(st.sampled_from([(read_npz, NPZ), (read_parquet, PARQUET)]), st.data())
def test_a_damaged_file_gives_a_table_or_a_data_error(file: tuple[Any, bytes], data: st.DataObject) -> None:
    read, whole = file
    content = bytearray(whole)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    try:
        table = read(bytes(content), "f")
    except DataError:
        return
    assert all(len(column.missing()) == table.rows for column in table.columns.values())


def test_files_are_told_apart_by_content(tmp_path: Path) -> None:
    for content in (NPZ, PARQUET, b"a,b\n1,v\n2,w"):
        (tmp_path / "file").write_bytes(content)
        assert list(read_table(tmp_path / "file").columns) == ["a", "b"]


def workbook() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (workbook(), "found a workbook: save the sheet as CSV"),
        (b"\x1f\x8b\x08", "the gzip data ends too early: the file is truncated"),
        (gzip.compress(b"x,y\n1,2\n", mtime=0)[:-9] + b"123456789", "the gzip data is corrupt"),
        (b"PK\x03\x04 broken", "can't be read as NPZ"),
        (b"\x89PNG\r\n\x1a\n\0", "expected a text file"),
    ],
    # Names of their own: workers must collect the same ones, and compressed bytes may hold the time.
    ids=["workbook", "gzip_truncated", "gzip_corrupt", "zip_broken", "png"],
)
def test_files_of_another_kind(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "file")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read: No such file"):
        read_table(tmp_path / "none")
    with pytest.raises(DataError, match="can't be read: Is a directory"):
        read_table(tmp_path)


def test_without_pyarrow_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'fcjax\[table\]'"):
        read_parquet(PARQUET, "f")
