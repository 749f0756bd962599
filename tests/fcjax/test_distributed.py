"""Two and four real processes train, stop, die and go on as one does; disagreement is seen before the first step."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fcjax.config import TrainConfig, UsageError

PROGRAM = Path(__file__).with_name("several_processes.py")
ONE: dict[str, Any] = {"processes": 1, "strategy": "jit", "devices": 1}
TWO: dict[str, Any] = {"processes": 2, "strategy": "pmap", "devices": 2}
FOUR: dict[str, Any] = {"processes": 4, "strategy": "shard", "devices": 1}
Found = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def train(folder: Path) -> Iterator[Callable[..., Found]]:
    """Trains in ``folder / name`` by several processes; gives how each ended, and what it said."""
    environment = os.environ | {"FCJAX_CACHE": str(folder / "cache")}
    arguments = [sys.executable, str(PROGRAM)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as program:
        tasks, answers = program.stdin, program.stdout
        assert tasks is not None
        assert answers is not None

        def ask(name: str, *runs: dict[str, Any], **task: Any) -> Found:
            print(json.dumps({"folder": str(folder / name), "runs": runs, **task}), file=tasks, flush=True)
            return json.loads(answers.readline())

        yield ask
        tasks.close()


@pytest.fixture(scope="module")
def alone(train: Callable[..., Found], folder: Path) -> Path:
    """A run by one process that nothing disturbed."""
    assert train("alone", {}, **ONE)["codes"] == [0]
    return folder / "alone"


@pytest.fixture(scope="module")
def together(train: Callable[..., Found], folder: Path) -> list[list[str]]:
    """What two processes said in each of their runs, one list per process."""
    stopped = {"folder": str(folder / "stopped")}
    found = train(
        "two",
        {"own": [{}, {"learning_rate": 0.02}]},
        {"own": [{}, {"shift": 1}]},
        {},
        {},  # the folder is taken now, which process 0 alone can see
        stopped | {"own": [{}, {"term_after": 2}]},
        stopped | {"resume": True},
        **TWO,
    )
    assert found["codes"] == [0, 0], found
    return [output.split("-- ended with ")[:-1] for output in found["outputs"]]


@pytest.fixture(scope="module")
def died(train: Callable[..., Found]) -> Found:
    """A run by two processes of which one was killed in the fourth epoch."""
    return train("died", {"own": [{}, {"dies_after": 3}]}, heartbeat=5, **TWO)


def assert_close(run: Path, expected: Path) -> None:
    own = load_file(run / "weights.safetensors")
    for name, array in load_file(expected / "weights.safetensors").items():
        # 50 steps in float64 with sums in another order: about 1e-16 a step.
        np.testing.assert_allclose(own[name], array, rtol=0, atol=1e-10, err_msg=name)


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "samples_per_second")} for line in lines]


def assert_equal(run: Path, expected: Path) -> None:
    assert metrics(run) == metrics(expected)
    own = load_file(run / "weights.safetensors")
    for name, array in load_file(expected / "weights.safetensors").items():
        assert own[name].tobytes() == array.tobytes(), name


def test_another_end_is_noticed(alone: Path, tmp_path: Path) -> None:
    """The twin: a single weight that is a little off."""
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    weights = load_file(alone / "weights.safetensors")
    weights["layers.0.kernel"][1, 2] += 1e-9
    save_file(weights, tmp_path / "weights.safetensors")
    for compare in (assert_close, assert_equal):
        with pytest.raises(AssertionError, match=r"layers\.0\.kernel"):
            compare(tmp_path, alone)


def test_two_processes_train_as_one(together: list[list[str]], alone: Path, folder: Path) -> None:
    first, other = (runs[2] for runs in together)
    assert "results in" in first
    assert "epoch" not in other  # only process 0 speaks
    assert_close(folder / "two", alone)
    assert len(json.loads((folder / "two" / "summary.json").read_text())["devices"]) == 4
    assert len(metrics(folder / "two")) == 5


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (0, "settings: expected the same in every process, found others than in process 0 in process 1"),
        (1, "data: expected the same in every process, found others than in process 0 in process 1"),
        (3, "expected a new run directory, found a run"),
    ],
)
def test_all_processes_say_what_is_wrong_before_the_first_step(
    run: int, message: str, together: list[list[str]]
) -> None:
    for runs in together:
        assert message in runs[run]
        assert "compiled" not in runs[run]


def test_a_signal_to_one_stops_all_at_the_same_step_and_all_go_on(together: list[list[str]], folder: Path) -> None:
    assert all("stopped by SIGTERM after step 30, saved" in runs[4] for runs in together)
    assert "goes on after epoch 3, step 30" in together[0][5]
    assert_equal(folder / "stopped", folder / "two")


def test_a_process_that_dies_takes_the_other_down_and_both_can_go_on(
    died: Found, together: list[list[str]], train: Callable[..., Found], folder: Path
) -> None:
    survivor, killed = died["codes"]
    assert killed == -9
    assert survivor not in (0, 999), died  # 999: not within the time given
    said = died["outputs"][0]
    assert "another of the 2 processes has died or left" in said or "another task died" in said
    shutil.copytree(folder / "died", folder / "by two")
    found = train("by two", {"resume": True}, **TWO)
    assert found["codes"] == [0, 0], found
    assert "goes on after epoch" in found["outputs"][0]
    assert_equal(folder / "by two", folder / "two")


@pytest.mark.usefixtures("died")
def test_one_goes_on_alone(alone: Path, train: Callable[..., Found], folder: Path) -> None:
    shutil.copytree(folder / "died", folder / "by one")
    found = train("by one", {"resume": True}, **ONE)
    assert found["codes"] == [0], found
    assert "goes on after epoch" in found["outputs"][0]
    assert_close(folder / "by one", alone)


@pytest.mark.usefixtures("died")
def test_four_go_on_streamed_and_leave_a_damaged_checkpoint_aside(
    alone: Path, train: Callable[..., Found], folder: Path
) -> None:
    shutil.copytree(folder / "died", folder / "by four")
    before, newest = sorted((folder / "by four" / "checkpoints").glob("[0-9]" * 9))[-2:]
    largest = max(newest.rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[:-50])
    # A row takes 16 bytes: of every step each process has one, and a chunk holds five.
    found = train("by four", {"resume": True, "device_memory": "160"}, **FOUR)
    assert found["codes"] == [0] * 4, found
    first, *others = found["outputs"]
    assert "data streamed, an epoch in 2 chunks of 80 B" in first
    assert f"warning: checkpoint {newest} is damaged and left aside" in first
    assert f"step {int(before.name)}" in first
    assert all("damaged" not in output for output in others)
    assert_close(folder / "by four", alone)


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
