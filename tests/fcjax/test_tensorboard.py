"""What TensorBoard is told, read back from the event files."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.models import MLP
from fcjax.tensorboard import TensorBoard, refuse_without_writer
from fcjax.trainer import fit

ENTRY: dict[str, Any] = {
    "epoch": 3,
    "step": 30,
    "train": {"loss": [0.5, 0.25]},
    "test": {"accuracy": [0.75, None]},
    "samples_per_second": 100.0,
}


def events(file: Path) -> list[Any]:
    """All records: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def scalars(file: Path) -> dict[tuple[str, int], float]:
    """The figures by tag and epoch."""
    return {(value.tag, event.step): value.simple_value for event in events(file) for value in event.summary.value}


def purged(file: Path) -> list[int]:
    """From which epochs on earlier figures are hidden."""
    return [event.step for event in events(file) if event.HasField("session_log")]


def test_replicas_are_told_apart_and_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, done=2)
    board.write(ENTRY, seeds=[7, 8])
    board.close()
    (file,) = tmp_path.iterdir()
    assert purged(file) == [3]
    assert scalars(file) == {
        ("train/loss/replica_0_seed_7", 3): 0.5,
        ("train/loss/replica_1_seed_8", 3): 0.25,
        ("test/accuracy/replica_0_seed_7", 3): 0.75,
        ("samples_per_second", 3): 100.0,
    }


def test_a_run_tells_every_epoch_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    data = Dataset("line", "regression", Split(x, x[:, :1]), Split(x[:5], x[:5, :1]))
    config = TrainConfig(epochs=2, batch_size=4, devices="1", schedule="constant", run_dir=tmp_path, tensorboard=True)
    history = []
    for epochs, resume in ((2, False), (3, True)):
        settings = replace(config, epochs=epochs, resume=resume)
        history = fit(lambda rngs: MLP((3, 2, 1), rngs=rngs), data, settings, progress=False).history
    files = sorted((tmp_path / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert [purged(file) for file in files] == [[1], [3]]
    found = scalars(files[0]) | scalars(files[1])
    assert {epoch for _, epoch in scalars(files[1])} == {3}
    for line in history:
        for name, (value,) in line["test"].items():
            assert found[f"test/{name}", line["epoch"]] == np.float32(value)


def test_without_the_package_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcjax.tensorboard.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="tensorboard: expected tensorboardX, found it not installed: pip install"):
        refuse_without_writer()
