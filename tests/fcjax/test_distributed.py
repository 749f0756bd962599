"""Two and four real processes train as one does, and disagreement is seen before the first step."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fcjax.config import TrainConfig, UsageError

PROGRAM = Path(__file__).with_name("one_process.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    folder: Path, processes: int, strategy: str, devices: int, changes: list[str] | None = None, shift: int = 0
) -> list[tuple[int, str]]:
    """Exit code and output of every process; ``changes`` and ``shift`` are those of the last one."""
    port = free_port()
    running = []
    for number in range(processes):
        own = (changes or ["{}"] * processes)[number]
        moved = shift if number == processes - 1 else 0
        arguments = [folder, port, processes, number, strategy, devices, own, moved]
        command = [sys.executable, str(PROGRAM), *map(str, arguments)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        return [(process.wait(120), process.communicate()[0]) for process in running]
    finally:
        for process in running:
            process.kill()


@pytest.mark.parametrize(("strategy", "processes", "devices"), [("pmap", 2, 2), ("shard", 2, 1), ("shard", 4, 1)])
def test_several_processes_train_as_one(strategy: str, processes: int, devices: int, tmp_path: Path) -> None:
    assert start(tmp_path / "alone", 1, "jit", 1)[0][0] == 0
    found = start(tmp_path / "together", processes, strategy, devices)
    assert [code for code, _ in found] == [0] * processes, found
    assert "results in" in found[0][1]
    assert all("epoch" not in output for _, output in found[1:])  # only process 0 speaks
    alone, together = (load_file(tmp_path / name / "weights.safetensors") for name in ("alone", "together"))
    for name, array in alone.items():
        # 50 steps in float64 with sums in another order: about 1e-16 a step.
        np.testing.assert_allclose(together[name], array, rtol=0, atol=1e-10, err_msg=name)
    summary = json.loads((tmp_path / "together" / "summary.json").read_text())
    assert len(summary["devices"]) == processes * devices
    assert len((tmp_path / "together" / "metrics.jsonl").read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("changes", "shift", "message"),
    [
        (["{}", '{"learning_rate": 0.02}'], 0, "settings: expected the same in every process, found others"),
        (["{}", "{}"], 1, "data: expected the same in every process, found others than in process 0 in process 1"),
    ],
)
def test_disagreement_is_seen_before_the_first_step(
    changes: list[str], shift: int, message: str, tmp_path: Path
) -> None:
    found = start(tmp_path / "run", 2, "pmap", 1, changes, shift)
    assert all(code == 2 and message in output for code, output in found), found
    assert not (tmp_path / "run").exists()


def test_a_process_that_dies_takes_the_run_down_with_a_clear_message(tmp_path: Path) -> None:
    began = time.monotonic()
    (survivor, output), (died, _) = start(
        tmp_path / "run", 2, "pmap", 1, ['{"epochs": 100000}', '{"epochs": 100000, "dies_after": 3}']
    )
    assert died == -9
    assert survivor != 0
    assert "another of the 2 processes has died or left" in output or "another task died" in output
    assert time.monotonic() - began < 100  # starting up, and a bounded time


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coordinator": "a:1"}, "expected with --num-processes and --process-id"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "process_id: expected a number from 0 to 1"),
    ],
)
def test_incomplete_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**changes).check()  # type: ignore[arg-type]
