"""The IDX parser gives exactly the array that is in the file, or a DataError: nothing in between."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from fcjax.datasets import DataError
from fcjax.datasets.idx import IMAGES, LABELS, format_idx, parse_idx

Images = NDArray[np.uint8]
images = arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6))
Pack = Callable[[bytes], bytes]
packing: st.SearchStrategy[Pack] = st.sampled_from([lambda b: b, lambda b: gzip.compress(b, mtime=0)])


@given(images, packing)
def test_round_trip(array: Images, pack: Pack) -> None:
    content = pack(format_idx(array))
    parsed = parse_idx(content, "f", IMAGES, array.shape[1:])
    assert parsed.dtype == np.uint8
    np.testing.assert_array_equal(parsed, array)


@given(arrays(np.uint8, st.integers(1, 50)))
def test_round_trip_of_labels(array: Images) -> None:
    np.testing.assert_array_equal(parse_idx(format_idx(array), "f", LABELS), array)


@given(images, packing, st.data())
def test_no_part_of_a_file_passes_for_the_whole(array: Images, pack: Pack, data: st.DataObject) -> None:
    content = pack(format_idx(array))
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(DataError, match="f: "):
        parse_idx(content[:length], "f", IMAGES, array.shape[1:])


@given(images, st.data())
def test_a_changed_gzip_file_gives_the_right_array_or_an_error(array: Images, data: st.DataObject) -> None:
    content = bytearray(gzip.compress(format_idx(array), mtime=0))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    try:
        parsed = parse_idx(bytes(content), "f", IMAGES, array.shape[1:])
    except DataError:
        return
    np.testing.assert_array_equal(parsed, array)  # a change of the time stamp, say, which says nothing


@given(images, st.data())
def test_a_changed_header_is_an_error(array: Images, data: st.DataObject) -> None:
    content = bytearray(format_idx(array))
    place = data.draw(st.integers(0, 15))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DataError):
        parse_idx(bytes(content), "f", IMAGES, array.shape[1:])


@given(st.binary(max_size=200), st.booleans())
def test_noise_is_an_error(noise: bytes, zipped: bool) -> None:
    with pytest.raises(DataError):
        parse_idx(gzip.compress(noise) if zipped else noise, "f", IMAGES, (28, 28))


ARRAY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
PLAIN = format_idx(ARRAY)
ZIPPED = gzip.compress(PLAIN, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "f: expected an IDX file, found an empty one"),
        (PLAIN[:3], "expected the magic number 2051, found 8"),
        (PLAIN[:9], "the header ends after 9 bytes: the file is truncated"),
        (PLAIN[:-1], r"expected 24 bytes after the header for the shape \(2, 3, 4\), found 23: the file is truncated"),
        (PLAIN + b"\0", "expected 24 bytes .* found more"),
        (gzip.compress(PLAIN + b"\0"), "expected 24 bytes .* found more"),
        (ZIPPED[:-9], "the gzip data ends too early: the file is truncated"),
        (ZIPPED[:-5] + b"\0" + ZIPPED[-4:], "the gzip data is corrupt .*CRC"),
        (ZIPPED + ZIPPED, "found more"),
        (format_idx(np.arange(5, dtype=np.uint8)), "magic number 2051, found 2049: these are labels, not images"),
        (b"<html><body>404</body></html>", "this is not an IDX file"),
        (format_idx(ARRAY.transpose(0, 2, 1)), r"entry of shape \(3, 4\), found 2 of \(4, 3\)"),
        (format_idx(ARRAY[:0]), "at least one entry"),
        (PLAIN[:4] + b"\xff" * 4 + PLAIN[8:], "more than the 1073741824 that are allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_by_its_name(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_idx(content, "f", IMAGES, (3, 4))


def test_images_given_for_labels() -> None:
    with pytest.raises(DataError, match="magic number 2049, found 2051: these are images, not labels"):
        parse_idx(PLAIN, "f", LABELS)


def test_a_decompression_bomb_is_not_unpacked() -> None:
    """64 MB of zeros behind a header that promises 24 bytes."""
    pack = zlib.compressobj(wbits=31)
    bomb = pack.compress(PLAIN) + pack.compress(bytes(64 << 20)) + pack.flush()
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(DataError, match="found more"):
        parse_idx(bomb, "f", IMAGES, (3, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
