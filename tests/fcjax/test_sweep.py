"""A sweep trains one replica per value, each equal to the run with that value alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.models import MLP
from fcjax.trainer import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
SPLIT = Split(X, X[:, :1] - X[:, 2:3])
DATASET = Dataset("plane", "regression", SPLIT, SPLIT)
CONFIG = TrainConfig(epochs=2, batch_size=8, devices="2", optimizer="adamw", seed=3)


def net(rngs: nnx.Rngs) -> MLP:
    model = MLP((4, 6, 1), dropout=0.2, rngs=rngs)
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model, nnx.Param)))
    return model


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
def test_a_replica_equals_the_run_with_its_value(name: str) -> None:
    values = (0.01, 0.2)
    with jax.enable_x64(True):
        sweep = f"{name}={','.join(map(str, values))}"
        together = fit(net, DATASET, replace(CONFIG, sweep=sweep), progress=False)
        assert together.summary["sweep"] == {name: list(values)}
        assert together.summary["seeds"] == [3, 3]
        for k, value in enumerate(values):
            alone = fit(net, DATASET, replace(CONFIG, **{name: value}), progress=False)  # type: ignore[arg-type]
            # 8 steps in float64; batched products round in another order.
            np.testing.assert_allclose(
                together.summary["test"]["rmse"][k], alone.summary["test"]["rmse"][0], rtol=1e-10
            )
    first, second = together.summary["test"]["rmse"]
    assert abs(first - second) > 1e-6


@pytest.mark.parametrize(
    "sweep", ["learning_rate", "learning_rate=", "learning_rate=1,x", "epochs=1,2", "clip_norm=-1"]
)
def test_what_is_no_sweep(sweep: str) -> None:
    with pytest.raises(UsageError, match=r"sweep: expected NAME=NUMBER,NUMBER,\.\.\. above 0 with learning_rate"):
        TrainConfig(sweep=sweep).check()
    with pytest.raises(UsageError, match="sweep: expected with one seed, found 2"):
        TrainConfig(sweep="learning_rate=1,2", seeds=2).check()


def test_the_ensemble_is_the_mean_of_the_replicas() -> None:
    result = fit(lambda rngs: MLP((4, 6, 1), rngs=rngs), DATASET, replace(CONFIG, seeds=3), progress=False)
    assert all(isinstance(model, MLP) for model in result.models)
    outputs = np.stack([np.asarray(model(jnp.asarray(X))) for model in result.models])
    expected = np.sqrt(((outputs.mean(axis=0) - SPLIT.targets) ** 2).mean())
    np.testing.assert_allclose(result.summary["ensemble"]["rmse"], expected, rtol=1e-5)  # float32
    # The error of the mean is not the mean of the errors: below it, since the replicas differ.
    assert result.summary["ensemble"]["rmse"] < np.mean(result.summary["test"]["rmse"]) - 1e-4
    alone = fit(lambda rngs: MLP((4, 6, 1), rngs=rngs), DATASET, CONFIG, progress=False)
    assert "ensemble" not in alone.summary
