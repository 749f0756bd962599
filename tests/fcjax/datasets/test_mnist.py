"""MNIST from a folder: small files of the same form, each of their faults, and the originals where they are."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fcjax.datasets import DataError, load
from fcjax.datasets.idx import format_idx
from fcjax.datasets.mnist import FILES

TRAIN_IMAGES, TRAIN_LABELS = FILES["train"]
TEST_IMAGES, TEST_LABELS = FILES["test"]


def write(folder: Path, *, pack: bool = True) -> Path:
    """A folder with 30 training and 20 test images; pixels tell part and position."""
    folder.mkdir(parents=True, exist_ok=True)
    for offset, count, (image_file, label_file) in zip((0, 100), (30, 20), FILES.values(), strict=True):
        images = np.full((count, 28, 28), offset, np.uint8)
        images[:, 0, 1] += np.arange(count, dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((image_file, images), (label_file, labels)):
            content = format_idx(array)
            (folder / (name if pack else name[:-3])).write_bytes(gzip.compress(content) if pack else content)
    return folder


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("subfolder", ["", "fashion"])
def test_files_are_found_packed_or_not_here_or_in_the_subfolder(tmp_path: Path, pack: bool, subfolder: str) -> None:
    write(tmp_path / subfolder, pack=pack)
    data = load("fashion", tmp_path)
    assert (data.name, data.task, data.classes) == ("fashion", "classification", 10)
    assert (len(data.train), len(data.test)) == (30, 20)
    assert data.train.inputs[7, 0, 1] == 7
    assert data.test.inputs[7, 0, 1] == 107
    assert data.test.targets.dtype == np.int32
    assert data.input_scaling is not None
    assert data.input_scaling.mean == pytest.approx(data.train.inputs.mean(), rel=1e-6)  # float32


def test_a_plain_file_under_the_packed_name_is_read_by_content(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / TRAIN_LABELS
    file.write_bytes(gzip.decompress(file.read_bytes()))
    assert len(load("mnist", tmp_path).train) == 30


def rewrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def remove(folder: Path) -> None:
    (folder / TEST_LABELS).unlink()


NARROW = np.zeros((30, 28, 27), np.uint8)


def cut(folder: Path) -> None:
    file = folder / TEST_IMAGES
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, f"expected {TEST_LABELS} or t10k-labels-idx1-ubyte .*found t10k-images"),
        (cut, f"{TEST_IMAGES}: the gzip data ends too early"),
        (rewrite(TRAIN_LABELS, b""), f"{TRAIN_LABELS}: .* empty"),
        (rewrite(TRAIN_LABELS, format_idx(np.zeros(29, np.uint8))), f"{TRAIN_LABELS}: expected 30 labels.*found 29"),
        (
            rewrite(TRAIN_LABELS, format_idx(np.arange(30, dtype=np.uint8) % 11)),
            f"{TRAIN_LABELS}: expected labels 0 to 9, found 10 at position 10",
        ),
        (rewrite(TRAIN_IMAGES, format_idx(NARROW)), r"entry of shape \(28, 28\), found 30 of \(28, 27\)"),
    ],
)
def test_each_damaged_file_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = write(tmp_path)
    load("mnist", folder)  # the twin: it is whole before
    damage(folder)
    with pytest.raises(DataError, match=message):
        load("mnist", folder)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder, found nothing"):
        load("mnist", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a folder, found a file"):
        load("mnist", tmp_path / "file")
    with pytest.raises(DataError, match="found nothing"):
        load("mnist", tmp_path / "file" / "..")


@pytest.mark.data
def test_the_original_files() -> None:
    root = os.environ.get("FCJAX_TEST_DATA")
    if not root or not (Path(root) / "mnist").is_dir():
        pytest.skip("FCJAX_TEST_DATA names no folder with mnist/ in it")
    data = load("mnist", root)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(data.test.targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.input_scaling is not None
    np.testing.assert_allclose(data.input_scaling.mean / 255, 0.1307, atol=5e-5)  # as usually quoted, to four digits
    np.testing.assert_allclose(data.input_scaling.std / 255, 0.3081, atol=5e-5)
