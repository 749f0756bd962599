"""What TensorBoard is told: by a writer of our own, and by the real one where it is installed."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fcjax.cli import main
from fcjax.config import UsageError
from fcjax.tensorboard import TensorBoard, refuse_without_writer

ENTRY: dict[str, Any] = {
    "epoch": 3,
    "step": 30,
    "train": {"loss": [0.5, 0.25]},
    "test": {"accuracy": [0.75, 1.0]},
    "samples_per_second": 100.0,
}


class FakeWriter:
    """Remembers what it is told."""

    made: list["FakeWriter"] = []  # noqa: RUF012

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: dict[str, tuple[float, int]] = {}
        self.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars[tag] = (value, step)

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[FakeWriter]:
    module: Any = types.ModuleType("tensorboardX")
    module.SummaryWriter, module.__spec__ = FakeWriter, types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    monkeypatch.setattr(FakeWriter, "made", [])
    return FakeWriter.made


def test_replicas_are_told_apart(fake: list[FakeWriter], tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, done=2)
    board.write(ENTRY, seeds=[7, 8])
    board.close()
    assert (fake[0].folder, fake[0].purge_step, fake[0].closed) == (str(tmp_path), 3, True)
    assert fake[0].scalars == {
        "train/loss/replica 0 (seed 7)": (0.5, 3),
        "train/loss/replica 1 (seed 8)": (0.25, 3),
        "test/accuracy/replica 0 (seed 7)": (0.75, 3),
        "test/accuracy/replica 1 (seed 8)": (1.0, 3),
        "samples_per_second": (100.0, 3),
    }


def test_a_run_tells_every_epoch(fake: list[FakeWriter], tmp_path: Path) -> None:
    flags = ["--no-cache", "--devices", "1", "--batch-size", "500", "--epochs", "2", "--model", "mlp", "--hidden", "3"]
    main(["train", "housing", *flags, "--tensorboard", "--run-dir", str(tmp_path / "run")])
    assert fake[0].folder == str(tmp_path / "run" / "tensorboard")
    assert fake[0].closed
    assert {"train/loss", "test/rmse", "samples_per_second"} <= set(fake[0].scalars)
    assert {step for _, step in fake[0].scalars.values()} == {2}


def test_without_the_package_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcjax.tensorboard.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="tensorboard: expected tensorboardX, found it not installed: pip install"):
        refuse_without_writer()


def test_the_real_writer_takes_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path, done=0)
    board.write(ENTRY, seeds=[0, 1])
    board.close()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"test/accuracy" in events.read_bytes()
