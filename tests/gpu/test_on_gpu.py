"""What must hold on a GPU: ``pytest -m gpu tests/gpu``. Without one, all of it is skipped."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fcjax.config import TrainConfig
from fcjax.datasets import Dataset, Split
from fcjax.losses import squared_error
from fcjax.models import MLP
from fcjax.precision import Policy
from fcjax.trainer import FitResult, fit

pytestmark = pytest.mark.gpu

SIZES = (12, 40, 3)


@pytest.fixture(scope="module", autouse=True)
def card() -> str:
    """The kind of device that everything here runs on."""
    try:
        jax.devices("gpu")
    except RuntimeError:
        pytest.skip("needs a GPU that JAX sees")
    return "gpu"


def dataset() -> Dataset:
    """Rows of which the last batch has too few."""
    inputs = np.random.default_rng(0).standard_normal((150, SIZES[0]), np.float32)
    targets = np.tanh(inputs[:, : SIZES[-1]])
    return Dataset("rows", "regression", Split(inputs[:110], targets[:110]), Split(inputs[110:], targets[110:]))


def trained(devices: str, dtype: Any = np.float32, **settings: Any) -> FitResult:
    """A net with dropout after a few epochs on ``devices``."""

    def model(rngs: nnx.Rngs) -> MLP:
        net = MLP(SIZES, dropout=0.3, rngs=rngs)
        nnx.update(net, jax.tree.map(lambda x: x.astype(dtype), nnx.state(net, nnx.Param)))
        return net

    config = replace(TrainConfig(epochs=4, batch_size=32, devices=devices), **settings)
    return fit(model, dataset(), config, progress=False)


def parameters(result: FitResult) -> list[np.ndarray]:
    """All trained arrays."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(result.state.params))]


@pytest.mark.parametrize("strategy", ["pmap", "jit", "shard"])
def test_a_gpu_trains_as_the_cpu_does(card: str, strategy: str) -> None:
    with jax.enable_x64(True):
        here = trained("1" if strategy == "jit" else card, np.float64, strategy=strategy)
        with jax.default_device(jax.devices("cpu")[0]):
            there = trained("cpu", np.float64, strategy="pmap")
    for own, other in zip(parameters(here), parameters(there), strict=True):
        # 16 steps in float64: sums in another order, carried on through Adam's quotients.
        np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_two_runs_end_bit_for_bit_alike(card: str, precision: str) -> None:
    first, second = (trained(card, precision=precision) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(parameters(first), parameters(second), strict=True))
    other = trained(card, precision=precision, seed=1)  # the twin: another seed is another run
    assert not all(np.array_equal(a, b) for a, b in zip(parameters(first), parameters(other), strict=True))


def test_a_resumed_run_ends_bit_for_bit_like_the_uninterrupted_one(card: str, tmp_path: Path) -> None:
    whole = trained(card, epochs=6, schedule="constant")
    folder = tmp_path / "run"
    trained(card, epochs=3, schedule="constant", run_dir=folder, checkpoint_every=1)
    resumed = trained(card, epochs=6, schedule="constant", run_dir=folder, checkpoint_every=1, resume=True)
    assert all(np.array_equal(a, b) for a, b in zip(parameters(whole), parameters(resumed), strict=True))


def products_in(policy: Policy) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A jitted matrix product as ``policy`` has it made."""

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        with policy.products():
            return a @ b

    return jax.jit(product)


def test_float32_products_are_not_made_in_tf32_unless_asked_for(card: str) -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 512, 512))
    exact = a.astype(np.float32).astype(np.float64) @ b.astype(np.float32).astype(np.float64)
    error = {}
    for matmul in ("float32", "tf32"):
        found = products_in(Policy("float32", matmul))(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
        error[matmul] = float(np.abs(np.asarray(found, np.float64) - exact).max() / np.abs(exact).max())
    # Sums of 512 terms: about √512 roundings of 2^-24 in float32, of 2^-11 in TF32.
    assert error["float32"] < 1e-5
    if any(kind in jax.devices(card)[0].device_kind for kind in ("A100", "H100", "H200", "B200")):
        assert error["tf32"] > 1e-5


def test_replicas_are_the_runs_of_their_seeds(card: str) -> None:
    with jax.enable_x64(True):
        together = trained(card, np.float64, seeds=3)
        alone = [trained(card, np.float64, seed=seed) for seed in range(3)]
    for number, one in enumerate(alone):
        for all_of_them, own in zip(parameters(together), parameters(one), strict=True):
            # As above: a batched product adds up in another order than a single one.
            np.testing.assert_allclose(all_of_them[number], own, rtol=1e-9, atol=1e-10)


def test_a_port_is_checked_with_its_flax_leg_on_the_gpu(card: str) -> None:
    torch = pytest.importorskip("torch")
    import compare

    class FlaxNet(nnx.Module):
        def __init__(self, epsilon: float, rngs: nnx.Rngs) -> None:
            self.norm = nnx.LayerNorm(12, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
            self.linear = nnx.Linear(12, 5, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return nnx.relu(self.linear(self.norm(x)))

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.LayerNorm(12), torch.nn.Linear(12, 5), torch.nn.ReLU())
    x = np.random.default_rng(0).standard_normal((6, 12)).astype(np.float32)
    with jax.default_device(jax.devices(card)[0]):
        check = partial(compare.check, net, inputs=x)
        assert compare.check(net, FlaxNet(1e-5, nnx.Rngs(0)), x).passed
        assert not check(FlaxNet(1e-3, nnx.Rngs(0))).passed  # the twin


def test_the_loss_falls_at_every_precision(card: str) -> None:
    for precision in ("float32", "bfloat16", "float16"):
        result = fit(
            lambda rngs: MLP(SIZES, rngs=rngs),
            dataset(),
            TrainConfig(epochs=20, batch_size=32, learning_rate=1e-2, devices=card, precision=precision),
            loss=squared_error,
            progress=False,
        )
        losses = [entry["train"]["loss"][0] for entry in result.history]
        assert losses[-1] < 0.7 * losses[0]
