"""California housing: the 1990 census blocks of Pace and Barry (1997), with scikit-learn's eight features."""

import gzip
import io
import math
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError, Dataset, Scaling, Split
from fcjax.datasets.download import RemoteFile, fetch
from fcjax.datasets.local import find_file, read_bytes

__all__ = ["COLUMNS", "FEATURES", "load_california", "parse_blocks", "to_features"]

COLUMNS = (
    "longitude",
    "latitude",
    "housingMedianAge",
    "totalRooms",
    "totalBedrooms",
    "population",
    "households",
    "medianIncome",
    "medianHouseValue",
)
FEATURES = ("MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude", "Longitude")

ROWS = 20_640
ARCHIVE = RemoteFile(
    "cal_housing.tgz",
    "aaa5c9a6afe2225cc2aed2723682ae403280c4a3695a2ddda4ffb5d8215ea681",
    ("https://ndownloader.figshare.com/files/5976036",),
)
MEMBER = "CaliforniaHousing/cal_housing.data"

# The archive holds 2 MB; more than this is something else, and is not unpacked.
MAX_BYTES = 1 << 24


def load_california(data_dir: Path | None = None) -> Dataset:
    """20,640 blocks of houses; the target is the median value in units of $100,000, capped at 5.00001.

    The split is the one that the literature on tabular nets reports on (Gorishniy et al. 2021, "rtdl"): scikit-learn's
    ``train_test_split(test_size=0.2, random_state=0)``, and its training part once more with ``random_state=1``, which
    gives 13,209 training, 3,303 validation and 4,128 test rows.

    Args:
        data_dir: a folder with ``cal_housing.data`` or ``cal_housing.tgz``, or one that holds such a folder called
            ``california``; None downloads the archive once (0.4 MB).

    Raises:
        DataError: the file is missing or damaged; the message names line and column.
    """
    file = _locate(data_dir)
    content = read_bytes(file)
    if content[:2] == b"\x1f\x8b":
        content = _unpack(content, str(file))
    blocks = parse_blocks(content, str(file))
    if len(blocks) != ROWS:
        raise DataError(f"{file}: expected {ROWS} rows, found {len(blocks)}: the file is not the whole of it")
    features, values = to_features(blocks)
    everything = Split(features.astype(np.float32), values.astype(np.float32)[:, None])
    train, validation, test = (everything.rows(rows) for rows in split_rtdl(ROWS))
    return Dataset(
        name="california",
        task="regression",
        train=train,
        validation=validation,
        test=test,
        input_scaling=Scaling.fit(train.inputs),
        target_scaling=Scaling.fit(train.targets),
    )


def parse_blocks(content: bytes, source: str) -> NDArray[np.float64]:
    """The numbers of ``cal_housing.data``: nine to a line, separated by commas, no header.

    Args:
        content: the whole file.
        source: its name, for messages.

    Returns:
        float64 of shape ``(n, 9)``, columns as ``COLUMNS``.

    Raises:
        DataError: a line has another number of fields, or a field is not a finite number, or ``households`` is not
            positive (features divide by it).
    """
    if not content.isascii():
        raise DataError(f"{source}: expected text of numbers and commas, found other bytes")
    lines = content.decode("ascii").splitlines()
    if not lines:
        raise DataError(f"{source}: expected lines of {len(COLUMNS)} numbers, found an empty file")
    return np.array([_parse_line(line, f"{source}, line {n}") for n, line in enumerate(lines, start=1)])


def _parse_line(line: str, place: str) -> list[float]:
    fields = line.split(",")
    if len(fields) != len(COLUMNS):
        raise DataError(f"{place}: expected {len(COLUMNS)} numbers separated by commas, found {len(fields)}")
    values = []
    for column, field in zip(COLUMNS, fields, strict=True):
        try:
            value = float(field) if "_" not in field else math.nan  # Python alone reads 1_000 as a number
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{place}, {column}: expected a finite number, found {field!r}")
        values.append(value)
    if not values[6] > 0:
        raise DataError(f"{place}, households: expected a positive number, found {fields[6]!r}")
    return values


def to_features(blocks: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The features and target that scikit-learn's ``fetch_california_housing`` computes from the census columns.

    ``AveRooms``, ``AveBedrms`` and ``AveOccup`` are ``totalRooms``, ``totalBedrooms`` and ``population`` per household;
    the target is ``medianHouseValue / 100000``.

    Args:
        blocks: shape ``(n, 9)``, columns as ``COLUMNS``.

    Returns:
        Features of shape ``(n, 8)``, columns as ``FEATURES``, and targets of shape ``(n,)``.
    """
    longitude, latitude, age, rooms, bedrooms, population, households, income, value = blocks.T
    per_household = (rooms / households, bedrooms / households, population / households)
    average_rooms, average_bedrooms, occupancy = per_household
    features = (income, age, average_rooms, average_bedrooms, population, occupancy, latitude, longitude)
    return np.stack(features, axis=1), value / 100_000


def split_rtdl(rows: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers of the training, validation and test parts, in the order that scikit-learn draws them."""
    from sklearn.model_selection import train_test_split  # a slow import

    rest, test = train_test_split(np.arange(rows), test_size=0.2, random_state=0)
    train, validation = train_test_split(rest, test_size=0.2, random_state=1)
    return train, validation, test


def _locate(data_dir: Path | None) -> Path:
    if data_dir is None:
        return fetch(ARCHIVE, "california")
    return find_file(data_dir, "california", ("cal_housing.data", "cal_housing.tgz", MEMBER))


def _unpack(content: bytes, source: str) -> bytes:
    """The one file that matters, read in memory: nothing of the archive is ever written to the disk."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            archive = stream.read(MAX_BYTES + 1)
        if len(archive) > MAX_BYTES:
            raise DataError(f"{source}: expected an archive of 2 MB, found more than {MAX_BYTES} bytes")
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            member = tar.extractfile(tar.getmember(MEMBER))
            if member is None:
                raise DataError(f"{source}: expected {MEMBER} to be a file")
            return member.read()
    except KeyError:
        raise DataError(f"{source}: expected an archive with {MEMBER} in it, found none") from None
    except (EOFError, OSError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{source}: the archive is truncated or corrupt ({error}): fetch it again") from None
