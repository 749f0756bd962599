"""A run counts as finished only when all of it is there and every number of it is finite."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.models import MLP
from fcjax.programs import Programs
from fcjax.run_directory import RunDirectory
from fcjax.trainer import FitResult, fit

RNG = np.random.default_rng(1)


def part(rows: int) -> Split:
    x = RNG.normal(size=(rows, 3)).astype(np.float32)
    return Split(x, (x @ [[1.0], [-2.0], [0.5]] + 0.3).astype(np.float32))


DATA = Dataset("line", "regression", part(18), part(7))
CONFIG = TrainConfig(epochs=2, batch_size=4, strategy="jit", learning_rate=1e-2)


def net(rngs: nnx.Rngs) -> MLP:
    return MLP((3, 5, 1), rngs=rngs)


def train(folder: Path, data: Dataset = DATA, **keywords: Any) -> FitResult:
    return fit(net, data, replace(CONFIG, run_dir=folder, resume=True), progress=False, **keywords)


class StoppedError(Exception):
    """Stands for a kill."""


def test_a_run_that_ends_between_any_two_of_its_files_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is there when the summary is, can be loaded: it is written last."""
    original, files = RunDirectory._write, {"model.json": "{}\n"}
    written: list[str] = []
    allowed = 1

    def write(self: RunDirectory, name: str, how: Callable[[Path], object]) -> None:
        if len(written) == allowed:
            raise StoppedError
        written.append(name)
        original(self, name, how)

    monkeypatch.setattr(RunDirectory, "_write", write)
    while allowed < 5:
        written.clear()
        with pytest.raises(StoppedError):
            train(tmp_path, files=files)
        assert not (tmp_path / "summary.json").exists()
        allowed += 1
    written.clear()
    result = train(tmp_path, files=files)
    assert written == ["config.json", "model.json", "metrics.jsonl", "weights.safetensors", "summary.json"]
    assert (tmp_path / "model.json").read_text() == "{}\n"
    expected = fit(net, DATA, CONFIG, progress=False)
    assert result.summary["test"] == expected.summary["test"]  # to the last bit
    assert isinstance(expected.model, MLP)
    with safe_open(tmp_path / "weights.safetensors", framework="numpy") as weights:
        assert list(weights.metadata()) == ["fcjax"]  # several would come in any order, and equal runs would differ
    kernel = load_file(tmp_path / "weights.safetensors")["layers.0.kernel"]
    np.testing.assert_array_equal(kernel, expected.model.layers[0].kernel[...])


def test_a_net_that_the_last_step_ruins_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Programs.train

    def ruined(self: Programs, state: Any, step: int, length: int) -> Any:
        state, sums = original(self, state, step, length)
        ruin = jnp.nan if step + length == 10 else 0
        # The moments, since evaluation would notice ruined parameters.
        moments = jax.tree.map(lambda x: x + jnp.asarray(ruin).astype(x.dtype), state.opt_state)
        return replace(state, opt_state=moments), sums

    monkeypatch.setattr(Programs, "train", ruined)
    expected = r"epoch 2, step 10: expected finite numbers in opt_state\.\S+, found nan at \("
    with pytest.raises(UsageError, match=expected):
        train(tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_a_figure_that_is_no_number_is_refused_where_it_arises(tmp_path: Path) -> None:
    far = Split(np.full((7, 3), 3e38, np.float32), DATA.test.targets)
    with pytest.raises(UsageError, match=r"epoch 1, step 5: expected a finite test (loss|rmse), found (inf|nan)"):
        train(tmp_path, replace(DATA, test=far))


def test_a_finished_run_whose_new_start_fails_has_lost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constant: dict[str, Any] = {"schedule": "constant", "run_dir": tmp_path, "resume": True}
    before = fit(net, DATA, replace(CONFIG, **constant), progress=False)
    content = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert {path.name for path in content} >= {"config.json", "metrics.jsonl", "summary.json", "weights.safetensors"}
    longer = replace(CONFIG, epochs=3, **constant)

    def fails(*_: Any) -> None:
        raise StoppedError

    for place, method in ((Programs, "train"), (RunDirectory, "_describe")):  # at the first step, and with a full disk
        with monkeypatch.context() as patched:
            patched.setattr(place, method, fails)
            with pytest.raises(StoppedError):
                fit(net, DATA, longer, progress=False)
        assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == content
    with pytest.raises(UsageError, match="found one that is finished after 2 epochs"):
        fit(net, DATA, replace(CONFIG, **constant), progress=False)
    assert fit(net, DATA, longer, progress=False).history[:2] == before.history


def test_a_full_disk_while_a_finished_run_goes_on_spares_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings could still be written, the metrics couldn't: the run can be loaded, and goes on."""
    constant: dict[str, Any] = {"schedule": "constant", "run_dir": tmp_path, "resume": True}
    fit(net, DATA, replace(CONFIG, **constant), progress=False)
    weights = (tmp_path / "weights.safetensors").read_bytes()
    original, longer = RunDirectory._write, replace(CONFIG, epochs=3, **constant)

    def full(self: RunDirectory, name: str, how: Callable[[Path], object]) -> None:
        if name == "metrics.jsonl":
            raise StoppedError
        original(self, name, how)

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "_write", full)
        with pytest.raises(StoppedError):
            fit(net, DATA, longer, progress=False)
    assert (tmp_path / "weights.safetensors").read_bytes() == weights
    assert (tmp_path / "summary.json").exists()
    assert len(fit(net, DATA, longer, progress=False).history) == 3


def test_one_process_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    """The lock is of the open folder, so that a second opening in this process stands for another process."""
    other = RunDirectory(tmp_path)
    other.claim()
    with pytest.raises(UsageError, match="found another process that writes into it"):
        train(tmp_path)
    assert not any(tmp_path.iterdir())
    other.release()
    train(tmp_path)
    with pytest.raises(UsageError, match="one that is finished"):
        train(tmp_path)
    RunDirectory(tmp_path).claim()  # neither the run that ended nor the one that was refused still holds it
