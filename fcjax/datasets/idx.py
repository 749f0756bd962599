"""The IDX format of the MNIST files: bytes in, array out, and nothing that isn't exactly right.

A file is ``0 0 type dimensions``, one big-endian 32-bit size per dimension, then the values in row-major order. The
only type used here is 8, unsigned bytes, which makes the first four bytes the number 2051 for images (three
dimensions) and 2049 for labels (one).
"""

import gzip
import io
import math
import struct
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError

__all__ = ["IMAGES", "LABELS", "format_idx", "parse_idx"]

LABELS, IMAGES = 1, 3  # numbers of dimensions

# Twice the largest set of this family (814,255 images); more is a broken header or an attack.
MAX_BYTES = 1 << 30


def parse_idx(content: bytes, source: str, dimensions: int, item: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, plain or gzipped (told by content, not by name).

    No more is decompressed than the header promises, plus one byte that must not be there.

    Args:
        content: the whole file.
        source: its name, for messages.
        dimensions: ``IMAGES`` or ``LABELS``.
        item: the expected shape of one entry, ``(28, 28)`` or ``()``.

    Returns:
        uint8 of shape ``(n, *item)``, with n at least 1.

    Raises:
        DataError: the content is anything else.
    """
    if not content:
        raise DataError(f"{source}: expected an IDX file, found an empty one")
    if content[:2] != b"\x1f\x8b":
        return _read(io.BytesIO(content), source, dimensions, item)
    try:
        # The last read runs into the end of the stream, which is where gzip checks its sum.
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            return _read(stream, source, dimensions, item)
    except EOFError:
        raise DataError(f"{source}: the gzip data ends too early: the file is truncated") from None
    except (OSError, zlib.error) as error:
        raise DataError(f"{source}: the gzip data is corrupt ({error}): fetch the file again") from None


def _read(stream: BinaryIO | gzip.GzipFile, source: str, dimensions: int, item: tuple[int, ...]) -> NDArray[np.uint8]:
    magic = stream.read(4)
    expected = bytes([0, 0, 8, dimensions])
    if magic != expected:
        raise DataError(
            f"{source}: expected the magic number {int.from_bytes(expected)}, found {int.from_bytes(magic)}"
            f"{_slip(magic)}"
        )
    header = stream.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{source}: the header ends after {4 + len(header)} bytes: the file is truncated")
    shape = struct.unpack(f">{dimensions}I", header)
    if shape[0] == 0 or shape[1:] != item:
        raise DataError(f"{source}: expected at least one entry of shape {item}, found {shape[0]} of {shape[1:]}")
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise DataError(f"{source}: the header promises {size} bytes, more than the {MAX_BYTES} that are allowed")
    body = stream.read(size + 1)
    if len(body) != size:
        found = "more" if len(body) > size else f"{len(body)}: the file is truncated"
        raise DataError(f"{source}: expected {size} bytes after the header for the shape {shape}, found {found}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _slip(magic: bytes) -> str:
    if magic == bytes([0, 0, 8, IMAGES]):
        return ": these are images, not labels"
    if magic == bytes([0, 0, 8, LABELS]):
        return ": these are labels, not images"
    return ": this is not an IDX file of unsigned bytes"


def format_idx(array: NDArray[np.uint8]) -> bytes:
    """The IDX file that holds ``array``: the inverse of ``parse_idx``.

    >>> format_idx(np.array([7, 2], np.uint8)).hex(" ")
    '00 00 08 01 00 00 00 02 07 02'
    """
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + np.ascontiguousarray(array, np.uint8).tobytes()
