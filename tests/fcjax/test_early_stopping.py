"""Early stopping: every replica ends with the weights of its own best epoch, also after a crash."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.early_stopping import Standing, merged, standings
from fcjax.metrics import figures
from fcjax.models import MLP
from fcjax.plots import curves
from fcjax.programs import Programs
from fcjax.run import Run
from fcjax.task_data import sized_for
from fcjax.trainer import FitResult, fit


@given(st.lists(st.tuples(*[st.sampled_from([0.1, 0.2, 0.3, float("nan")])] * 2), max_size=9), st.integers(1, 4))
def test_a_replica_stands_where_it_would_alone(both: list[tuple[float, float]], patience: int) -> None:
    found = standings(both, patience)
    for k, standing in enumerate(found):
        assert [standing] == standings([[pair[k]] for pair in both], patience)


def test_what_comes_after_the_stop_does_not_count() -> None:
    assert standings([[3.0], [2.0], [2.5], [2.0], [0.1]], 2) == [Standing(2, stopped=True)]
    assert standings([[3.0], [2.0], [2.5], [1.0], [0.1]], 2) == [Standing(5, stopped=False)]


def test_replicas_are_merged_one_by_one() -> None:
    old, new = {"w": np.zeros((3, 2)), "b": np.zeros(3)}, {"w": np.ones((3, 2)), "b": np.ones(3)}
    found = merged(old, new, [True, False, True])
    np.testing.assert_array_equal(found["w"], [[1, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(found["b"], [1, 0, 1])
    assert merged(old, None, [False] * 3) is old


RNG = np.random.default_rng(2)


def noisy(rows: int) -> Split:
    """Little signal and much noise: a net soon learns the noise of a few rows by heart."""
    x = RNG.normal(size=(rows, 3)).astype(np.float32)
    return Split(x, (0.5 * x[:, :1] + RNG.normal(size=(rows, 1))).astype(np.float32))


DATA = Dataset("noise", "regression", noisy(12), noisy(40), validation=noisy(40))
CONFIG = TrainConfig(
    epochs=60, batch_size=6, devices="1", learning_rate=0.02, schedule="constant", seeds=2, patience=4,
    checkpoint_seconds=0.0,
)  # fmt: skip


def train(**changes: Any) -> FitResult:
    return fit(lambda rngs: MLP((3, 20, 1), dropout=0.1, rngs=rngs), DATA, replace(CONFIG, **changes), progress=False)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    folder = tmp_path_factory.mktemp("early") / "run"
    return folder, train(run_dir=folder)


def test_every_replica_ends_with_its_best_epoch(reference: tuple[Path, FitResult]) -> None:
    folder, result = reference
    validation = np.array([entry["validation"]["loss"] for entry in result.history])  # (epochs, replicas)
    best = [standing.best for standing in standings(validation.tolist(), 4)]
    assert result.summary["best_epochs"] == best
    assert len(result.history) == max(best) + 4 < 60
    assert best[0] != best[1]
    weights = load_file(folder / "weights.safetensors")
    assert json.loads((folder / "summary.json").read_text())["best_epochs"] == best
    assert DATA.validation is not None
    for k, (epoch, model) in enumerate(zip(best, result.models, strict=True)):
        assert result.summary["test"]["rmse"][k] == result.history[epoch - 1]["test"]["rmse"][k]
        loss = np.square(np.asarray(model(DATA.validation.inputs)) - DATA.validation.targets).mean()
        # float32 sums of 40 rows; the last epoch's weights would be off by far more.
        np.testing.assert_allclose(loss, validation[epoch - 1, k], rtol=1e-5)
        assert abs(loss - validation[-1, k]) > 1e-3 * loss
        layer = nnx.state(model)["layers"][0]["kernel"]
        np.testing.assert_array_equal(weights["layers.0.kernel"][k], np.asarray(layer[...]))


def test_a_run_that_crashed_stops_at_the_same_epoch_with_the_same_weights(
    reference: tuple[Path, FitResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = reference
    epochs, segment = max(whole.summary["best_epochs"]) + 1, Run.segment

    def crashing(run: Run) -> bool:
        if run.epoch == epochs:
            raise KeyboardInterrupt
        return segment(run)

    monkeypatch.setattr(Run, "segment", crashing)
    with pytest.raises(KeyboardInterrupt):
        train(run_dir=tmp_path / "run")
    monkeypatch.setattr(Run, "segment", segment)
    resumed = train(run_dir=tmp_path / "run", resume=True)
    assert resumed.summary["best_epochs"] == whole.summary["best_epochs"]
    assert resumed.summary["test"] == whole.summary["test"]
    for name, array in load_file(folder / "weights.safetensors").items():
        assert array.tobytes() == load_file(tmp_path / "run" / "weights.safetensors")[name].tobytes()


def ruin(monkeypatch: pytest.MonkeyPatch, replica: int, epoch: int) -> None:
    """The parameters of a replica are NaN from this epoch on."""
    original = Programs.train

    def train(self: Programs, state: Any, step: int, length: int) -> Any:
        if step // self.steps == epoch - 1:
            state = replace(state, params=jax.tree.map(lambda x: x.at[replica].set(jnp.nan), state.params))
        return original(self, state, step, length)

    monkeypatch.setattr(Programs, "train", train)


def test_a_replica_that_has_stopped_may_diverge(
    reference: tuple[Path, FitResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = reference
    best = whole.summary["best_epochs"]
    first, epoch = int(np.argmin(best)), min(best) + 5  # it has stopped after the epoch before
    assert epoch < max(best) + 4
    ruin(monkeypatch, first, epoch)
    result = train(run_dir=tmp_path / "run")
    assert result.summary["best_epochs"] == best
    assert result.summary["test"] == whole.summary["test"]
    for name, array in load_file(folder / "weights.safetensors").items():
        assert array.tobytes() == load_file(tmp_path / "run" / "weights.safetensors")[name].tobytes()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    for line in lines:
        over = line["epoch"] >= epoch
        for part in ("train", "validation", "test"):
            assert {name: [value is None for value in values] for name, values in line[part].items()} == {
                name: [over and k == first for k in range(2)] for name in line[part]
            }
    curves(lines, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_replica_that_runs_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: the same replica, one epoch before it stops."""
    ruin(monkeypatch, 1, 3)
    with pytest.raises(UsageError, match=r"epoch 3, step 6: expected a finite training loss, found nan \(seed 1\)"):
        train()


def test_a_replica_all_of_whose_steps_were_skipped_has_no_figures() -> None:
    sums = {"count": np.int64(0), "loss": 0.0, "squared": np.zeros(1), "absolute": np.zeros(1)}
    found = figures(sums, DATA, DATA.test.targets)
    assert found.keys() == {"loss", "rmse", "mae", "r2"}  # as many as the other replicas have
    assert np.isnan(list(found.values())).all(), found


def test_without_a_validation_part_there_is_nothing_to_go_by() -> None:
    config = TrainConfig(patience=3, batch_size=6)
    with pytest.raises(UsageError, match="patience: expected with --validation SHARE, found no validation part of n"):
        fit(lambda rngs: MLP((3, 2, 1), rngs=rngs), replace(DATA, validation=None), config, progress=False)


@pytest.mark.parametrize(("rows", "batch", "epochs"), [(7, 8, 200), (105, 8, 200), (1000, 64, 188), (70_000, 256, 20)])
def test_sizes_for_a_table_of_any_size(rows: int, batch: int, epochs: int) -> None:
    data = replace(DATA, train=Split(np.zeros((rows, 3), np.float32), np.zeros((rows, 1), np.float32)))
    config = TrainConfig()
    found = sized_for(config, data, frozenset())
    assert (found.batch_size, found.epochs, found.patience) == (min(batch, rows), epochs, max(20, epochs // 4))
    assert sized_for(config, data, {"batch_size", "epochs", "patience"}) == config
    best = sized_for(replace(config, preset="best", epochs=100), data, frozenset())
    assert (best.batch_size, best.epochs, best.patience) == (128 if rows > 128 else min(batch, rows), 100, 25)
