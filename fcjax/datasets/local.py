"""Data files that lie on this machine already."""

from collections.abc import Sequence
from pathlib import Path

from fcjax.datasets.dataset import DataError

__all__ = ["find_file", "read_bytes"]


def find_file(data_dir: Path, dataset: str, names: Sequence[str]) -> Path:
    """The first of ``names`` that is a file in ``data_dir``, or else in its subfolder ``dataset``.

    Raises:
        DataError: there is no such folder, or none of the files is in it.
    """
    if not data_dir.is_dir():
        found = "a file" if data_dir.exists() else "nothing"
        raise DataError(f"--data-dir {data_dir}: expected a folder, found {found}")
    for folder in (data_dir, data_dir / dataset):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    present = sorted(path.name for path in data_dir.iterdir())
    listing = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "") if present else "nothing"
    raise DataError(f"--data-dir {data_dir}: expected {' or '.join(names)} (also in {dataset}/), found {listing}")


def read_bytes(file: Path) -> bytes:
    """The content of ``file``; a ``DataError`` says why where it can't be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: can't be read: {error.strerror or error}") from None
