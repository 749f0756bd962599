"""California housing: strict reading, scikit-learn's features, and the split of the literature."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from fcjax.datasets import DataError, load
from fcjax.datasets.california import MEMBER, parse_blocks, split_rtdl, to_features

FIRST = "-122.230000,37.880000,41.000000,880.000000,129.000000,322.000000,126.000000,8.325200,452600.000000"
SECOND = "-122.220000,37.860000,21.000000,7099.000000,1106.000000,2401.000000,1138.000000,8.301400,358500.000000"


def test_the_first_block_as_scikit_learn_has_it() -> None:
    features, values = to_features(parse_blocks(FIRST.encode(), "f"))
    expected = [8.3252, 41, 6.98412698, 1.02380952, 322, 2.55555556, 37.88, -122.23]
    np.testing.assert_allclose(features, [expected], rtol=1e-8)  # the digits that are printed
    np.testing.assert_allclose(values, [4.526], rtol=1e-12)


finite = st.floats(-1e9, 1e9)


@given(st.lists(st.tuples(*[finite] * 6, st.floats(1, 1e6), finite, finite), min_size=1, max_size=5), st.booleans())
def test_every_finite_number_comes_back(rows: list[tuple[float, ...]], newline: bool) -> None:
    text = "\n".join(",".join(map(repr, row)) for row in rows) + "\n" * newline
    np.testing.assert_array_equal(parse_blocks(text.encode(), "f"), rows)


@given(st.data())
def test_a_changed_byte_gives_numbers_or_an_error(data: st.DataObject) -> None:
    content = bytearray(f"{FIRST}\n{SECOND}".encode())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        blocks = parse_blocks(bytes(content), "f")
    except DataError:
        return
    assert blocks.shape == (2, 9)
    assert np.isfinite(blocks).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: expected lines of 9 numbers, found an empty file"),
        (f"{FIRST}\n{FIRST},1", "f, line 2: expected 9 numbers separated by commas, found 10"),
        (f"{FIRST}\n\n{FIRST}", "f, line 2: expected 9 numbers separated by commas, found 1"),
        (FIRST.replace(",", ";"), "f, line 1: expected 9 numbers separated by commas, found 1"),
        ("longitude,b,c,d,e,f,g,h,i\n" + FIRST, "f, line 1, longitude: expected a finite number, found 'longitude'"),
        (f"{FIRST}\n{SECOND.replace('1106.000000', 'nan')}", "line 2, totalBedrooms: .* found 'nan'"),
        (FIRST.replace("8.325200", "1e999"), "medianIncome: .* found '1e999'"),
        (FIRST.replace("880.000000", "8_80"), "totalRooms: .* found '8_80'"),
        (FIRST.replace("126.000000", "0"), "households: expected a positive number, found '0'"),
        (FIRST.replace("-122", "−122"), "expected text of numbers and commas, found other bytes"),
    ],
)
def test_each_fault_names_line_and_column(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_blocks(text.encode(), "f")


def test_the_split_is_that_of_scikit_learn() -> None:
    train, validation, test = split_rtdl(20_640)
    assert (len(train), len(validation), len(test)) == (13_209, 3_303, 4_128)
    assert sorted(np.concatenate([train, validation, test])) == list(range(20_640))
    rest, expected = train_test_split(np.arange(20_640), test_size=0.2, random_state=0)
    assert test[:5].tolist() == expected[:5].tolist() == [14740, 10101, 20566, 2670, 15709]
    assert train[:5].tolist() == train_test_split(rest, test_size=0.2, random_state=1)[0][:5].tolist()


@pytest.fixture(scope="module")
def whole() -> bytes:
    """20,640 lines of the right form, each with an income of its own."""
    return "\n".join(f"-120,37,{n % 52},900,200,500,100,{n / 1000},{n * 20}" for n in range(20_640)).encode()


def pack(content: bytes, member: str = MEMBER) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("place", ["cal_housing.data", "california/cal_housing.data", MEMBER, "cal_housing.tgz"])
def test_the_file_is_found_packed_or_not(tmp_path: Path, whole: bytes, place: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pack(whole) if place.endswith("tgz") else whole)
    data = load("california", tmp_path)
    sizes = {name: (split.inputs.shape, split.targets.shape) for name, split in data.parts().items()}
    assert sizes["train"] == ((13_209, 8), (13_209, 1))
    assert sizes["validation"][0][0] == 3_303
    assert data.test.inputs[0, 0] == np.float32(14740 / 1000)  # the row that scikit-learn draws first
    assert data.target_scaling is not None
    np.testing.assert_allclose(data.target_scaling.mean, data.train.targets.mean(axis=0), rtol=1e-6)  # float32
    z = data.target_scaling.apply(data.train.targets)
    assert z.std() == pytest.approx(1, rel=1e-5)
    assert abs(data.target_scaling.apply(data.test.targets).mean()) > 1e-3  # the twin: not fitted on all rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cal_housing.data", FIRST.encode(), "expected 20640 rows, found 1: the file is not the whole"),
        ("cal_housing.tgz", pack(b"", "other/name"), f"expected an archive with {MEMBER} in it"),
        ("cal_housing.tgz", pack(bytes(2000))[:60], "the archive is truncated or corrupt"),
        ("cal_housing.tgz", gzip.compress(b"no archive at all", mtime=0), "the archive is truncated or corrupt"),
        ("cal_housing.tgz", pack(bytes(20 << 20)), "expected an archive of 2 MB, found more than"),
        ("other.csv", b"1", r"expected cal_housing.data or cal_housing.tgz .* found other.csv"),
    ],
    ids=["short", "member", "cut", "no tar", "bomb", "name"],
)
def test_each_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("california", tmp_path)


@pytest.mark.data
def test_the_original_file() -> None:
    root = os.environ.get("FCJAX_TEST_DATA")
    if not root or not (Path(root) / "california").is_dir():
        pytest.skip("FCJAX_TEST_DATA names no folder with california/ in it")
    content = (Path(root) / "california" / "cal_housing.data").read_bytes()
    features, values = to_features(parse_blocks(content, "cal_housing.data"))
    assert values.mean() == pytest.approx(2.06855817, abs=5e-9)  # the digits that are printed
    assert (values == 5.00001).sum() == 965
    rest, test = train_test_split(features, test_size=0.2, random_state=0)
    train, validation = train_test_split(rest, test_size=0.2, random_state=1)
    data = load("california", root)
    assert data.validation is not None
    for split, expected in ((data.train, train), (data.validation, validation), (data.test, test)):
        np.testing.assert_array_equal(split.inputs, expected.astype(np.float32))
    # Always predicting the training mean gives the error that the literature starts from.
    error = np.sqrt(np.mean((data.test.targets - data.train.targets.mean()) ** 2))
    assert error == pytest.approx(1.142, abs=1e-3)
