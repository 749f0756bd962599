"""``fit``: what it returns, what it writes, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Scaling, Split
from fcjax.models import MLP
from fcjax.trainer import FitResult, TrainingError, fit

RNG = np.random.default_rng(0)


def make_split(rows: int) -> Split:
    x = RNG.normal(size=(rows, 5)).astype(np.float32)
    return Split(x, (x[:, :1] * 40 - x[:, 1:2] * 20 + 300).astype(np.float32))


TRAIN, TEST = make_split(37), make_split(11)
INPUT_SCALING, TARGET_SCALING = Scaling.fit(TRAIN.inputs), Scaling.fit(TRAIN.targets)
DATASET = Dataset("line", "regression", TRAIN, TEST, input_scaling=INPUT_SCALING, target_scaling=TARGET_SCALING)
CONFIG = TrainConfig(epochs=3, batch_size=8, devices="2", learning_rate=1e-2)


def small_net(rngs: nnx.Rngs) -> MLP:
    return MLP((5, 7, 1), rngs=rngs)


def dropout_net_in_float64(rngs: nnx.Rngs) -> MLP:
    model = MLP((5, 7, 1), dropout=0.2, rngs=rngs)
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model, nnx.Param)))
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    """One finished run with a validation split: its folder and what ``fit`` returned."""
    folder = tmp_path_factory.mktemp("runs") / "new" / "run"
    dataset = replace(DATASET, validation=make_split(9))
    return folder, fit(small_net, dataset, replace(CONFIG, run_dir=folder), progress=False)


def test_a_run_directory_tells_the_whole_run(run: tuple[Path, FitResult]) -> None:
    folder, result = run
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["checkpoints", "config.json", "metrics.jsonl", "summary.json", "weights.safetensors"]

    recorded = json.loads((folder / "config.json").read_text())
    assert (recorded["epochs"], recorded["batch_size"], recorded["optimizer"]) == (3, 8, "adam")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 5), (2, 10), (3, 15)]
    assert lines[-1]["validation"]["rmse"][0] < lines[0]["validation"]["rmse"][0]

    summary = json.loads((folder / "summary.json").read_text())
    assert summary == result.summary
    expected = {"task", "model", "parameters", "strategy", "precision", "devices", "seeds", "epochs", "test"}
    assert expected | {"samples_per_second", "compile_seconds", "wall_seconds"} <= summary.keys()
    assert (summary["task"], summary["model"], summary["parameters"]) == ("line", "MLP", 5 * 7 + 7 + 7 + 1)
    assert summary["test"] == lines[-1]["test"]
    assert len(summary["devices"]) == 2

    weights = load_file(folder / "weights.safetensors")
    assert sorted(weights) == ["layers.0.bias", "layers.0.kernel", "layers.1.bias", "layers.1.kernel"]
    assert isinstance(result.model, MLP)
    np.testing.assert_array_equal(weights["layers.0.kernel"], result.model.layers[0].kernel[...])


def test_reported_figures_are_those_of_the_returned_model(run: tuple[Path, FitResult]) -> None:
    _, result = run
    assert isinstance(result.model, MLP)
    predictions = TARGET_SCALING.inverse(np.asarray(result.model(INPUT_SCALING.apply(TEST.inputs))))
    error = predictions.astype(np.float64) - TEST.targets
    # Predictions of about 300 in float32, scaled to and fro: 1e-4 of an error of about 10.
    np.testing.assert_allclose(result.summary["test"]["rmse"], [np.sqrt((error**2).mean())], rtol=1e-4)
    np.testing.assert_allclose(result.summary["test"]["mae"], [np.abs(error).mean()], rtol=1e-4)


def test_replicas_equal_the_single_runs_of_their_seeds() -> None:
    with jax.enable_x64(True):
        together = fit(dropout_net_in_float64, DATASET, replace(CONFIG, seed=4, seeds=2), progress=False)
        alone = [fit(dropout_net_in_float64, DATASET, replace(CONFIG, seed=4 + k), progress=False) for k in range(2)]
        assert together.summary["seeds"] == [4, 5]
        for k, single in enumerate(alone):
            # 15 steps in float64: batched products round in another order, about 1e-16 a step.
            for name, values in single.summary["test"].items():
                np.testing.assert_allclose(together.summary["test"][name][k], values[0], rtol=1e-10)
            for one, other in zip(
                jax.tree.leaves(nnx.state(single.model, nnx.Param)),
                jax.tree.leaves(nnx.state(together.models[k], nnx.Param)),
                strict=True,
            ):
                assert one.dtype == jnp.float64
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)
        rmse = together.summary["test"]["rmse"]
        assert len({round(value, 6) for value in rmse}) == 2  # the replicas really differ


def test_a_module_stays_as_it_is_and_trains_alike_twice() -> None:
    model = small_net(nnx.Rngs(0))
    before = np.asarray(model.layers[0].kernel[...]).copy()
    first, second = (fit(model, DATASET, CONFIG, progress=False) for _ in range(2))
    np.testing.assert_array_equal(model.layers[0].kernel[...], before)
    assert first.summary["test"] == second.summary["test"]  # to the last bit
    other = fit(model, DATASET, replace(CONFIG, seed=1), progress=False)  # the same weights in another order
    assert first.summary["test"] != other.summary["test"]
    with pytest.raises(UsageError, match=r"expected a function from nnx\.Rngs"):
        fit(model, DATASET, replace(CONFIG, seeds=2), progress=False)


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    fit(small_net, DATASET, CONFIG)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pmap on 2 devices (cpu), float32"
    assert lines[1].startswith("MLP, 50 parameters; compiled in ")
    assert len(lines) == 5
    for word in ("epoch 3/3", "loss", "test RMSE", "samples/s", "ETA 0 s"):
        assert word in lines[-1]
    fit(small_net, DATASET, CONFIG, progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: expected a whole number of at least 1, found 0"),
        ({"epochs": -3}, "found -3"),
        ({"epochs": True}, "found True"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, found 0"),
        ({"batch_size": 38}, "batch_size: expected at most 37, the size of the training set of line; found 38"),
        ({"seeds": 0}, "seeds: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"learning_rate": 0.0}, "learning_rate: expected a finite number above 0, found 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: .* found nan"),
        ({"optimizer": "adagrad"}, "optimizer: expected one of sgd, .* found 'adagrad'"),
        ({"schedule": "linear"}, "schedule: expected one of cosine, constant, step; found 'linear'"),
        ({"clip_norm": 0.0}, "clip_norm: expected a finite number above 0, found 0.0"),
        ({"weight_decay": -0.1}, "weight_decay: expected a finite number of at least 0, found -0.1"),
        ({"ema": 1.0}, r"ema: expected a rate in \[0, 1\), found 1.0"),
        ({"strategy": "ddp"}, "strategy: expected one of pmap, jit, shard; found 'ddp'"),
        ({"task": "cifar"}, "task: expected one of digits, .* found 'cifar'"),
        ({"devices": "99"}, "devices: expected .* found '99'"),
        ({"dropout": 1.0}, "dropout: expected a rate"),
        ({"hidden": (3, 0)}, "hidden: expected a whole number"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        fit(small_net, DATASET, replace(CONFIG, run_dir=tmp_path / "run", **changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(
        TrainingError, match=r"epoch \d, step \d+: expected a finite training loss, found (nan|inf) \(seed 0\)"
    ):
        fit(small_net, DATASET, replace(CONFIG, learning_rate=1e30, optimizer="sgd"), progress=False)


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("mine")
    with pytest.raises(UsageError, match=r"expected a new run directory, found a run \(summary\.json\)"):
        fit(small_net, DATASET, replace(CONFIG, run_dir=tmp_path), progress=False)
    assert (tmp_path / "summary.json").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="expected a folder or nothing, found a file"):
        fit(small_net, DATASET, replace(CONFIG, run_dir=tmp_path / "file"), progress=False)
    with pytest.raises(UsageError, match="expected a folder to write to"):
        fit(small_net, DATASET, replace(CONFIG, run_dir=tmp_path / "file" / "run"), progress=False)
