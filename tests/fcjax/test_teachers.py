"""Learning from a finished run: the distance from its answers, its share of the loss, and the runs that are refused."""

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
from fcjax.datasets import Dataset, Split, load_table
from fcjax.distillation import Distillation
from fcjax.losses import cross_entropy, squared_error
from fcjax.models import MLP
from fcjax.prediction import load_run
from fcjax.teachers import with_soft_targets
from fcjax.train_state import create_state
from fcjax.train_step import Batch, Learner
from fcjax.trainer import FitResult, fit

RNG = np.random.default_rng(0)
ROWS = 37
X = RNG.normal(size=(ROWS, 5)).astype(np.float32)
LABELS = RNG.integers(0, 3, ROWS).astype(np.int32)
SOFT = np.log(RNG.dirichlet(np.ones(3), ROWS)).astype(np.float32)
CONFIG = TrainConfig(epochs=2, batch_size=8, devices="3", dropout=0.2, teacher_share=0.7)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_distance_is_the_divergence_at_that_temperature(temperature: float) -> None:
    outputs = RNG.normal(size=(ROWS, 3)) * 4

    def softened(z: np.ndarray) -> np.ndarray:
        powers = np.exp(z / temperature)
        return powers / powers.sum(axis=1, keepdims=True)

    p, q = softened(SOFT.astype(np.float64)), softened(outputs)
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1)
    loss = Distillation(0.5, temperature).loss("classification")
    with jax.enable_x64(True):
        np.testing.assert_allclose(loss(jnp.asarray(outputs), jnp.asarray(SOFT)), expected, rtol=1e-12)
        np.testing.assert_allclose(loss(jnp.asarray(SOFT), jnp.asarray(SOFT)), 0, atol=1e-15)  # nothing left to learn


def gradients(share: float, soft: np.ndarray | None, task: str = "classification") -> Any:
    loss, y = (cross_entropy, LABELS) if task == "classification" else (squared_error, SOFT[:, ::-1].copy())
    pure, state = create_state(MLP((5, 6, 3), rngs=nnx.Rngs(0)), optax.sgd(0.1), seed=0)
    learner = Learner(pure, task, loss, optax.sgd(0.1), distillation=Distillation(share, 2.0))
    batch = Batch(
        jnp.asarray(X), jnp.asarray(y), jnp.arange(ROWS), jnp.ones(ROWS, bool), jnp.int32(ROWS), as_array(soft)
    )
    return learner._gradients(state, batch)[0]


def as_array(soft: np.ndarray | None) -> jax.Array | None:
    return None if soft is None else jnp.asarray(soft)


def test_the_share_divides_the_gradient_between_targets_and_teacher() -> None:
    for task in ("classification", "regression"):
        none, half, whole = (gradients(share, SOFT, task) for share in (0.0, 0.25, 1.0))
        mixed = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, none, whole)
        # float32 sums over 37 rows of numbers below 1
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), half, mixed)
        apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), none, whole)
        assert max(jax.tree.leaves(apart)) > 1e-2
        alone = gradients(0.0, None, task)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), none, alone)


def taught(soft: np.ndarray | None, **changes: Any) -> FitResult:
    data = Dataset("points", "classification", Split(X, LABELS, soft), Split(X[:9], LABELS[:9]), classes=3)
    return fit(lambda rngs: MLP((5, 6, 3), rngs=rngs), data, replace(CONFIG, **changes), progress=False)


def test_a_teacher_changes_the_net_alike_whether_rows_are_streamed_or_resident() -> None:
    resident, streamed, alone = taught(SOFT), taught(SOFT, device_memory="400"), taught(None)
    for one, other in zip(*(jax.tree.leaves(run.state.params) for run in (resident, streamed)), strict=True):
        np.testing.assert_array_equal(one, other)
    kernels = [run.state.params["layers"][0]["kernel"] for run in (resident, alone)]
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 1e-4


def test_rows_keep_their_soft_targets() -> None:
    picked = Split(X, LABELS, SOFT).rows(np.array([4, 2]))
    assert picked.soft_targets is not None
    np.testing.assert_array_equal(picked.soft_targets, SOFT[[4, 2]])


TABLE = "size,kind,price\n" + "".join(f"{n * 7 % 60},{'ab'[n % 2]},{3 * n + n % 2}\n" for n in range(60))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "table.csv").write_text(TABLE)
    main(command(folder, "run", "--seeds", "2"))
    return folder


def command(folder: Path, name: str, *more: str) -> list[str]:
    settings = [
        "--file",
        str(folder / "table.csv"),
        "--target",
        "price",
        "--hidden",
        "8",
        "--epochs",
        "3",
        "--learning-rate",
        "0.01",
    ]
    return ["train", "table", *settings, "--run-dir", str(folder / name), "--strategy", "jit", *more]


def test_a_run_learns_from_another(run: Path) -> None:
    main(command(run, "student", "--teacher", str(run / "run"), "--teacher-share", "0.9"))
    one, other = (load_run(run / name).model.layers[0].kernel[...] for name in ("student", "run"))  # type: ignore[attr-defined]
    assert one.shape == other.shape
    assert float(jnp.abs(one - other).max()) > 1e-3


def test_soft_targets_are_what_the_run_predicts(run: Path) -> None:
    dataset, preprocessing = load_table(run / "table.csv", "price", task="regression", validation=0.15, seed=0)
    teacher = load_run(run / "run")
    found = with_soft_targets(dataset, teacher, preprocessing).train.soft_targets
    np.testing.assert_array_equal(found, teacher.predict_each(dataset.train.inputs).mean(axis=0))


def test_a_run_that_learned_something_else_is_refused(run: Path, tmp_path: Path) -> None:
    teacher = load_run(run / "run")
    digits = Dataset("points", "classification", Split(X, LABELS), Split(X, LABELS), classes=3)
    with pytest.raises(UsageError, match="learned the task classification of points, found regression in"):
        with_soft_targets(digits, teacher)
    (tmp_path / "table.csv").write_text(TABLE.replace("kind", "sort"))
    with pytest.raises(SystemExit) as end:
        main(command(tmp_path, "student", "--teacher", str(run / "run")))
    assert end.value.code == 2
    assert not (tmp_path / "student").exists()
    dataset, preprocessing = load_table(tmp_path / "table.csv", "price", task="regression", validation=0.15, seed=0)
    with pytest.raises(UsageError, match=r"the columns \('size', 'sort=a'.*found \('size', 'kind=a'"):
        with_soft_targets(dataset, teacher, preprocessing)
