"""A run that is killed, stopped or damaged and then resumed ends bit for bit like one that never was."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from safetensors.numpy import load_file

from fcjax.checkpoint import Checkpoints
from fcjax.cli import main
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.models import MLP
from fcjax.recording import Recorder
from fcjax.run import Run
from fcjax.trainer import FitResult, TrainingInterrupted, fit

RNG = np.random.default_rng(1)


def part(rows: int) -> Split:
    x = RNG.normal(size=(rows, 3)).astype(np.float32)
    return Split(x, (x @ [[1.0], [-2.0], [0.5]] + 0.3).astype(np.float32))


DATA = Dataset("line", "regression", part(18), part(7))
# 5 steps an epoch in segments of 2 and 3, each of which is saved.
CONFIG = TrainConfig(epochs=4, batch_size=4, devices="2", segments=2, checkpoint_seconds=0.0, learning_rate=1e-2)
Train = Callable[..., FitResult]


def net(rngs: nnx.Rngs) -> MLP:
    return MLP((3, 5, 1), dropout=0.2, rngs=rngs)


def train(
    folder: Path, model: Callable[[nnx.Rngs], nnx.Module] = net, data: Dataset = DATA, **changes: Any
) -> FitResult:
    return fit(model, data, replace(CONFIG, run_dir=folder, **changes), progress=changes.pop("progress", False))


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "samples_per_second")} for line in lines]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return timeless([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])


def last_state(folder: Path) -> dict[str, np.ndarray]:
    """Parameters, buffers, optimiser state, step and key at the end."""
    found = Checkpoints(folder / "checkpoints").newest(warn=lambda message: pytest.fail(message))
    assert found is not None
    return found.arrays


def differences(folder: Path, reference: Path) -> list[str]:
    """What differs between the ends of two runs, timings aside."""
    found = [] if metrics(folder) == metrics(reference) else ["metrics"]
    one, other = last_state(folder), last_state(reference)
    found += [name for name in one.keys() | other.keys() if one[name].tobytes() != other[name].tobytes()]
    weights, expected = load_file(folder / "weights.safetensors"), load_file(reference / "weights.safetensors")
    return found + [name for name in expected if weights[name].tobytes() != expected[name].tobytes()]


class StoppedError(Exception):
    """Stands for a crash."""


def stop_after(monkeypatch: pytest.MonkeyPatch, segments: int, act: Callable[[], None]) -> None:
    """Acts after so many segments, once."""
    original, left = Run.segment, [segments]

    def segment(self: Run) -> bool:
        ended = original(self)
        left[0] -= 1
        if left[0] == 0:
            act()
        return ended

    monkeypatch.setattr(Run, "segment", segment)


def crash() -> None:
    raise StoppedError


@pytest.fixture(scope="module", autouse=True)
def _programs_are_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(tmp_path_factory.mktemp("cache")), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    train(folder)
    return folder


@pytest.fixture(autouse=True)
def _signals_are_given_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_killed_at_any_moment_and_resumed_it_ends_the_same(tmp_path: Path) -> None:
    """20 SIGKILLs: before random changes of the file system, and at any time after one."""
    program = Path(__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), "20", "5"],
        capture_output=True,
        text=True,
        env=os.environ | {"FCJAX_CACHE": str(tmp_path / "cache")},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == 20
    assert found["runs"] >= 2
    for number in range(1, found["runs"] + 1):
        assert differences(tmp_path / str(number), tmp_path / "0") == [], number
        assert not [path for path in (tmp_path / str(number)).rglob("*") if ".tmp" in path.name]


def test_a_resumed_run_equals_an_undisturbed_one(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in the middle of an epoch; the log has run ahead of the last checkpoint, and its last line is torn."""
    with monkeypatch.context() as patched:
        stop_after(patched, 5, crash)
        with pytest.raises(StoppedError):
            train(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 3, "st')
    fit(net, DATA, replace(CONFIG, run_dir=tmp_path, resume=True))
    assert "goes on after epoch 2, step 10" in capsys.readouterr().out
    assert differences(tmp_path, reference) == []


def test_a_resumed_run_that_forgets_its_moments_is_noticed(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted mistake: the optimiser starts afresh."""
    with monkeypatch.context() as patched:
        stop_after(patched, 4, crash)
        with pytest.raises(StoppedError):
            train(tmp_path)
    original = Run.restore

    def forgetful(self: Run, snapshot: Any) -> None:
        fresh = self.state.opt_state
        original(self, snapshot)
        self.state = replace(self.state, opt_state=fresh)

    monkeypatch.setattr(Run, "restore", forgetful)
    train(tmp_path, resume=True)
    found = differences(tmp_path, reference)
    assert "metrics" in found
    assert any("kernel" in name for name in found)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves(
    number: signal.Signals,
    code: int,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        stop_after(patched, 3, lambda: os.kill(os.getpid(), number))
        with pytest.raises(TrainingInterrupted, match=f"stopped by {number.name} after step 7, saved in ") as stop:
            train(tmp_path, checkpoint_seconds=1e9)
    assert 128 + stop.value.signum == code
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000007"]
    train(tmp_path, checkpoint_seconds=1e9, resume=True)
    assert differences(tmp_path, reference) == []


def test_a_second_signal_is_not_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)  # to this very thread: two to the process could melt into one
        signal.raise_signal(signal.SIGINT)

    stop_after(monkeypatch, 1, twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have set it to be ignored
    with pytest.raises(KeyboardInterrupt) as stop:
        train(tmp_path)
    signal.signal(signal.SIGINT, before)
    assert not isinstance(stop.value, TrainingInterrupted)


def test_the_command_line_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    arguments = [
        "train",
        "housing",
        "--no-cache",
        "--epochs",
        "2",
        "--devices",
        "1",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--model", "mlp", "--hidden", "4"])
    assert end.value.code == 143
    assert f"to go on, add --resume --run-dir {tmp_path / 'run'}" in capsys.readouterr().err


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        stop_after(patched, 5, crash)
        with pytest.raises(StoppedError):
            train(tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    largest = max(newest.rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[:-50])
    fit(net, DATA, replace(CONFIG, run_dir=tmp_path, resume=True))
    out = capsys.readouterr().out
    assert f"warning: checkpoint {newest} is damaged" in out
    assert "goes on after epoch 1, step 7" in out
    assert differences(tmp_path, reference) == []


def test_a_run_that_cannot_be_resumed_says_why(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"found one that is finished after 4 epochs .*summary\.json"):
        train(reference, resume=True)
    with monkeypatch.context() as patched:
        stop_after(patched, 2, crash)
        with pytest.raises(StoppedError):
            train(tmp_path)
    expected = "learning_rate was 0.01 and is now 0.02, seed was 0 and is now 3. Leave them"
    with pytest.raises(UsageError, match=expected):
        train(tmp_path, resume=True, learning_rate=2e-2, seed=3, cache=False)
    with pytest.raises(UsageError, match="epochs was 4 and is now 5; epochs may only grow, and not under a cosine"):
        train(tmp_path, resume=True, epochs=5)
    with pytest.raises(UsageError, match=r"expected a new run directory, found a run .*or --resume it"):
        train(tmp_path)
    other = Dataset("line", "regression", part(18), DATA.test)
    with pytest.raises(UsageError, match="expected the data that the run was started with, found other data"):
        train(tmp_path, data=other, resume=True)
    with pytest.raises(UsageError, match=r"bias: expected float32 of shape .* was it of another model\?"):
        train(tmp_path, lambda rngs: MLP((3, 6, 1), dropout=0.2, rngs=rngs), resume=True)
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(UsageError, match="expected the settings of a run as JSON"):
        train(tmp_path, resume=True)
    with pytest.raises(UsageError, match="expected --run-dir"):
        TrainConfig(resume=True).check()


def test_epochs_may_grow_under_a_constant_rate(tmp_path: Path) -> None:
    constant: dict[str, Any] = {"schedule": "constant", "checkpoint_seconds": 1e9, "segments": 1}
    train(tmp_path / "long", **constant)
    train(tmp_path / "grown", **constant, epochs=2)
    train(tmp_path / "grown", **constant, resume=True)
    assert differences(tmp_path / "grown", tmp_path / "long") == []


def test_resumed_on_other_devices_it_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def net64(rngs: nnx.Rngs) -> MLP:
        model = net(rngs)
        nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model, nnx.Param)))
        return model

    with jax.enable_x64(True):
        train(tmp_path / "whole", net64)
        with monkeypatch.context() as patched:
            stop_after(patched, 3, crash)
            with pytest.raises(StoppedError):
                train(tmp_path / "moved", net64)
        train(tmp_path / "moved", net64, resume=True, strategy="shard", devices="3", segments=1)
        moved, whole = last_state(tmp_path / "moved"), last_state(tmp_path / "whole")
    for name, array in whole.items():
        # 20 steps in float64 with sums in another order: about 1e-16 a step.
        np.testing.assert_allclose(moved[name], array, rtol=0, atol=1e-10, err_msg=name)


def test_the_best_is_chosen_by_validation_and_never_by_the_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: list[tuple[int, float | None]] = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, one: scores.append((one.step, one.score)))
    with_validation = replace(DATA, validation=part(6))
    losses = [entry["validation"]["loss"][0] for entry in train(tmp_path / "a", data=with_validation).history]
    assert scores[1::2] == list(zip([5, 10, 15, 20], losses, strict=True))
    assert all(score is None for _, score in scores[::2])  # in the middle of an epoch nothing is measured
    scores.clear()
    losses = [entry["train"]["loss"][0] for entry in train(tmp_path / "b").history]
    assert [score for _, score in scores[1::2]] == losses


def test_every_so_many_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(Recorder, "save", lambda self, run: saved.append(run.step))
    train(tmp_path, checkpoint_seconds=1e9, checkpoint_every=3)
    assert saved == [15, 20]  # after epoch 3, and at the end
