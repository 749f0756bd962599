"""Any table file, told apart by its content."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from fcjax.datasets.dataset import DataError
from fcjax.datasets.local import read_bytes
from fcjax.datasets.table.columns import Table
from fcjax.datasets.table.csv_file import read_csv
from fcjax.datasets.table.numerals import Mark
from fcjax.datasets.table.typed_files import read_npz, read_parquet

__all__ = ["read_table"]

MAX_BYTES = 1 << 32
"""More than this is unpacked by the user, who then knows what is in it."""


def read_table(file: str | PathLike[str], missing: Sequence[str] = (), usual: Mark | None = None) -> Table:
    """The table in a CSV, Parquet or NPZ file, gzipped or not.

    Args:
        file: its path.
        missing: marks of a missing entry besides the usual ones.
        usual: the decimal mark of a text file that leaves it open (see ``read_csv``).

    Raises:
        DataError: the file can't be read, or is of another kind.
    """
    path = Path(file).expanduser()
    source = str(path)
    content = _unpacked(read_bytes(path), source)
    if content[:4] == b"PAR1":
        return read_parquet(content, source, missing)
    if content[:2] == b"PK":
        if _is_workbook(content):
            raise DataError(f"{source}: expected CSV, Parquet or NPZ, found a workbook: save the sheet as CSV")
        return read_npz(content, source, missing)
    return read_csv(content, source, missing, usual)


def _unpacked(content: bytes, source: str) -> bytes:
    """``content`` without the gzip around it, if there is any."""
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            unpacked = stream.read(MAX_BYTES + 1)
    except EOFError:
        raise DataError(f"{source}: the gzip data ends too early: the file is truncated") from None
    except (OSError, zlib.error) as error:
        raise DataError(f"{source}: the gzip data is corrupt ({error}): fetch the file again") from None
    if len(unpacked) > MAX_BYTES:
        raise DataError(f"{source}: the gzip data is larger than {MAX_BYTES >> 30} GiB: unpack the file first")
    return unpacked


def _is_workbook(content: bytes) -> bool:
    try:
        return "[Content_Types].xml" in zipfile.ZipFile(io.BytesIO(content)).namelist()
    except zipfile.BadZipFile:
        return False
