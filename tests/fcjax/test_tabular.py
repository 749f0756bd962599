"""The network for tables: embeddings and members against plain formulas, training member by member, whole runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fcjax.cli import main
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split, load
from fcjax.losses import cross_entropy, squared_error
from fcjax.prediction import load_run
from fcjax.tabular import MemberLinear, PiecewiseLinear, TabularNet
from fcjax.tasks import ModelSpec, model_spec
from fcjax.train_state import create_state
from fcjax.train_step import Batch, Learner
from fcjax.trainer import fit

RNG = np.random.default_rng(0)
EDGES = ((-1.0, 0.0, 2.0), (0.0, 1.0), (-3.0, -1.0, 1.0, 4.0))


def redrawn(model: Any) -> Any:
    """The model with every parameter drawn anew: as made, some are all ones or all zeros."""
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), state))
    return model


def test_the_embedding_by_its_formula() -> None:
    embed = redrawn(PiecewiseLinear(EDGES, 5, rngs=nnx.Rngs(0)))
    x = RNG.normal(size=(40, 3)).astype(np.float32) * 3
    expected = np.zeros((40, 3, 5))
    slope, offset, pieces = (np.asarray(p[...], np.float64) for p in (embed.slope, embed.offset, embed.pieces))
    for row in range(40):
        for f, edges in enumerate(EDGES):
            value = float(x[row, f])
            expected[row, f] = slope[f] * value + offset[f]
            for t in range(len(edges) - 1):
                share = (value - edges[t]) / (edges[t + 1] - edges[t])
                share = share if t == 0 else max(share, 0.0)
                share = share if t == len(edges) - 2 else min(share, 1.0)
                expected[row, f] += pieces[f, t] * share
    # A sum of five float32 products of numbers up to 30.
    np.testing.assert_allclose(np.asarray(embed(jnp.asarray(x))), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"PiecewiseLinear: expected input of shape \(\.\.\., 3\)"):
        embed(jnp.zeros((2, 4)))
    for wrong in ((1.0,), (1.0, 1.0), (2.0, 1.0), (0.0, float("nan"))):
        with pytest.raises(ValueError, match="feature 1: expected at least two edges that rise"):
            PiecewiseLinear((EDGES[0], wrong), 5, rngs=nnx.Rngs(0))


def test_a_member_is_a_linear_layer_of_its_own() -> None:
    layer = redrawn(MemberLinear(4, 3, 2, rngs=nnx.Rngs(0)))
    x = RNG.normal(size=(6, 2, 4)).astype(np.float32)
    kernel, r, s, b = (np.asarray(p[...]) for p in (layer.kernel, layer.input_scale, layer.output_scale, layer.bias))
    for m in range(2):
        own = x[:, m] @ (kernel * np.outer(r[m], s[m])) + b[m]
        np.testing.assert_allclose(layer(jnp.asarray(x))[:, m], own, rtol=1e-4, atol=1e-5)  # float32, other order
    signs = MemberLinear(50, 3, 2, signs=True, rngs=nnx.Rngs(0)).input_scale[...]
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert (signs[0] != signs[1]).any()


@nnx.jit
def answers(model: nnx.Module, x: jax.Array) -> jax.Array:
    return model(x)


@pytest.mark.parametrize("classes", [False, True])
def test_together_they_answer_with_their_mean(classes: bool) -> None:
    model = redrawn(TabularNet(EDGES, 4, (7, 5), 3, 2, dropout=0.0, classes=classes, rngs=nnx.Rngs(0)))
    x = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    model.train()
    each = np.asarray(answers(model, x), np.float64)
    assert each.shape == (6, 3, 4)
    model.eval()
    found = np.asarray(answers(model, x))
    if not classes:
        np.testing.assert_allclose(found, each.mean(axis=1), rtol=1e-4, atol=1e-3)  # float32 numbers of about 100
        return
    probabilities = np.exp(each - each.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(np.exp(found), probabilities.mean(axis=1), atol=1e-4)
    assert np.abs(np.exp(found) - np.exp(np.log(probabilities).mean(axis=1))).max() > 1e-2  # the geometric mean


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_every_member_learns_by_itself(task: str) -> None:
    classes = task == "classification"
    model = redrawn(TabularNet(EDGES, 2, (7, 5), 3, 2, dropout=0.0, classes=classes, rngs=nnx.Rngs(0)))
    pure, state = create_state(model, optax.sgd(0.1), seed=0)
    x = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    y = jnp.asarray(RNG.integers(0, 2, 6)) if classes else jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32)
    loss = cross_entropy if classes else squared_error
    batch = Batch(x, y, jnp.arange(6), jnp.arange(6) < 5, jnp.int32(5))
    _, sums = jax.jit(Learner(pure, task, loss, optax.sgd(0.1)).train_step)(state, batch)
    model.train()
    each = answers(model, x)[:5]  # the last row is padding
    expected = np.mean([np.sum(loss(each[:, m], y[:5])) for m in range(3)])
    np.testing.assert_allclose(sums["loss"], expected, rtol=1e-5)  # float32
    # Trained on the loss of their mean answer, members would make up for each other's errors.
    assert abs(float(np.sum(loss(each.mean(axis=1), y[:5]))) / expected - 1) > 1e-2


X = RNG.normal(size=(60, 3)).astype(np.float32)
SPLIT = Split(X, (X[:, :1] * X[:, 1:2]).astype(np.float32))
DATASET = Dataset("product", "regression", SPLIT, SPLIT)
CONFIG = TrainConfig(model="tabular", epochs=2, batch_size=25, devices="1", hidden=(6,), members=2, bins=4, embedding=3)


def test_devices_and_replicas_share_the_work_alike() -> None:
    def double(rngs: nnx.Rngs) -> nnx.Module:
        model = model_spec(CONFIG, DATASET)(rngs)
        nnx.update(model, jax.tree.map(lambda p: p.astype(jnp.float64), nnx.state(model, nnx.Param)))
        return model

    with jax.enable_x64(True):
        alone = fit(double, DATASET, replace(CONFIG, seed=1), progress=False)
        together = fit(double, DATASET, replace(CONFIG, seeds=2, devices="2"), progress=False)
    # Six steps in float64; sums over devices and replicas round in another order.
    np.testing.assert_allclose(together.summary["test"]["rmse"][1], alone.summary["test"]["rmse"][0], rtol=1e-10)
    assert abs(together.summary["test"]["rmse"][0] / alone.summary["test"]["rmse"][0] - 1) > 1e-6


def test_a_spec_comes_back_from_json() -> None:
    spec = model_spec(CONFIG, DATASET)
    again = ModelSpec(**json.loads(json.dumps(spec.to_json())))
    x = jnp.asarray(X)
    first, second = spec(nnx.Rngs(0)), again(nnx.Rngs(0))
    first.eval(), second.eval()
    np.testing.assert_array_equal(first(x), second(x))


def test_images_are_no_table() -> None:
    with pytest.raises(UsageError, match=r"model: expected columns of numbers with tabular, found digits"):
        model_spec(CONFIG, load("digits"))


def test_a_table_of_numbers_and_text(tmp_path: Path) -> None:
    colours = np.array(["red", "green", "blue"])[RNG.integers(0, 3, 200)]
    size = RNG.normal(size=200)
    rows = [f"{a:.4f},{c},{'big' if a + (c == 'red') > 0.5 else 'small'}" for a, c in zip(size, colours, strict=True)]
    file = tmp_path / "t.csv"
    file.write_text("size,colour,kind\n" + "\n".join(rows) + "\n")
    flags = ["--model", "tabular", "--hidden", "8", "--members", "3", "--epochs", "30", "--batch-size", "32"]
    flags += ["--learning-rate", "0.02", "--seeds", "2", "--features", "quantile", "--devices", "1", "--no-cache"]
    main(["train", "table", "--file", str(file), "--target", "kind", *flags, "--run-dir", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["model"] == "TabularNet"
    assert min(summary["test"]["accuracy"]) > 0.8  # of 30 rows; the share of the larger class is 0.6
    run = load_run(tmp_path / "run")
    assert run.preprocessing is not None
    found = run.predict(run.preprocessing.inputs(run.preprocessing.read(file)))
    right = np.mean([name == row.rpartition(",")[2] for name, row in zip(run.labels(found), rows, strict=True)])
    assert right > 0.9
