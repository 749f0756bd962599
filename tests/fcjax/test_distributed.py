"""Two and four real processes train, stop, die and go on as one does; disagreement is seen before the first step."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fcjax.config import TrainConfig, UsageError

PROGRAM = Path(__file__).with_name("several_processes.py")
TWO: dict[str, Any] = {"processes": 2, "strategy": "pmap", "devices": 2}
# In the order in which they run; a row takes 16 bytes, of which four processes have one each in every step.
SCENARIOS: dict[str, dict[str, Any]] = {
    "alone": {"folder": "alone", "processes": 1, "strategy": "jit", "devices": 1},
    "two": {"folder": "two", **TWO},
    "four, streamed": {
        "folder": "four",
        "processes": 4,
        "strategy": "shard",
        "devices": 1,
        "all": {"device_memory": "64"},
    },
    "other settings": {"folder": "other", **TWO, "own": [{}, {"learning_rate": 0.02}]},
    "other data": {"folder": "other", **TWO, "own": [{}, {"shift": 1}]},
    "taken folder": {"folder": "alone", **TWO},
    "one stops": {"folder": "stopped", **TWO, "own": [{}, {"term_after": 3}]},
    "goes on": {"folder": "stopped", "processes": 1, "strategy": "jit", "devices": 1, "all": {"resume": True}},
    "one of four dies": {
        "folder": "died",
        "processes": 4,
        "strategy": "shard",
        "devices": 1,
        "own": [{}, {}, {}, {"dies_after": 4}],
    },
    "one goes on": {"folder": "died", "processes": 1, "strategy": "jit", "devices": 1, "all": {"resume": True}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, dict[str, Any]]:
    """Exit codes and outputs of every process, by scenario."""
    tasks = [task | {"folder": str(folder / task["folder"]), "name": name} for name, task in SCENARIOS.items()]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *map(json.dumps, tasks)],
        capture_output=True,
        text=True,
        env=os.environ | {"FCJAX_CACHE": str(folder / "cache")},
        timeout=290,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(SCENARIOS, map(json.loads, done.stdout.splitlines()), strict=True))


def assert_same(run: Path, expected: Path) -> None:
    for name, array in load_file(expected / "weights.safetensors").items():
        # 50 steps in float64 with sums in another order: about 1e-16 a step.
        own = load_file(run / "weights.safetensors")[name]
        np.testing.assert_allclose(own, array, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(("name", "devices"), [("two", 4), ("four, streamed", 4)])
def test_several_processes_train_as_one(
    name: str, devices: int, found: dict[str, dict[str, Any]], folder: Path
) -> None:
    task = SCENARIOS[name]
    assert found[name]["codes"] == [0] * task["processes"], found[name]
    first, *others = found[name]["outputs"]
    assert "results in" in first
    assert ("data streamed, an epoch in 3 chunks of 32 B" in first) == ("streamed" in name)
    assert all("epoch" not in output for output in others)  # only process 0 speaks
    assert_same(folder / task["folder"], folder / "alone")
    summary = json.loads((folder / task["folder"] / "summary.json").read_text())
    assert len(summary["devices"]) == devices
    assert len((folder / task["folder"] / "metrics.jsonl").read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other settings", "settings: expected the same in every process, found others than in process 0 in process 1"),
        ("other data", "data: expected the same in every process, found others than in process 0 in process 1"),
        ("taken folder", "expected a new run directory, found a run"),  # which process 0 alone can see
    ],
)
def test_all_processes_say_what_is_wrong_before_the_first_step(
    name: str, message: str, found: dict[str, dict[str, Any]], folder: Path
) -> None:
    assert found[name]["codes"] == [2, 2], found[name]
    assert all(message in output for output in found[name]["outputs"]), found[name]
    assert not (folder / "other").exists()


def test_a_signal_to_one_stops_all_at_the_same_step(found: dict[str, dict[str, Any]], folder: Path) -> None:
    assert found["one stops"]["codes"] == [143, 143], found["one stops"]
    assert all("stopped by SIGTERM after step 20, saved" in output for output in found["one stops"]["outputs"])
    assert found["goes on"]["codes"] == [0], found["goes on"]
    assert "goes on after epoch 4, step 20" in found["goes on"]["outputs"][0]
    assert_same(folder / "stopped", folder / "alone")


def test_a_process_that_dies_takes_all_down_and_fewer_can_go_on(found: dict[str, dict[str, Any]], folder: Path) -> None:
    *survivors, died = found["one of four dies"]["codes"]
    assert died == -9
    assert not {0, 999} & set(survivors), found["one of four dies"]  # 999: not within the time given
    for output in found["one of four dies"]["outputs"][:3]:
        assert "another of the 4 processes has died or left" in output or "another task died" in output
    assert found["one goes on"]["codes"] == [0], found["one goes on"]
    assert "goes on after epoch" in found["one goes on"]["outputs"][0]
    assert_same(folder / "died", folder / "alone")


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
