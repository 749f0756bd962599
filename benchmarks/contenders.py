"""The same training in several ways: fcjax, the common JAX loops, and PyTorch's. One turn is one pass over the data."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fcjax
from benchmarks.rounds import Turn, missing
from fcjax.epoch import Arrays, Plan, train_segment
from fcjax.optimizers import make_optimizer
from fcjax.parallel import make_parallel
from fcjax.precision import Policy
from fcjax.train_state import create_state
from fcjax.train_step import Learner

__all__ = ["Work", "a3", "a4", "fcjax_turn", "jax_loops", "mlp", "torch_loops"]

RATE = 1e-3


@dataclass(frozen=True)
class Work:
    """What is trained on what.

    Args:
        name: "A3", the classifier of 28x28 images, "A4", the regressor of tables, or "MLP", a regressor of any sizes.
        inputs, targets: as stored.
        mean, std: of the inputs, for scaling.
        dropout: rate of A3's dropout.
        sizes: of the MLP, inputs and outputs included.
    """

    name: Literal["A3", "A4", "MLP"]
    inputs: np.ndarray
    targets: np.ndarray
    mean: float
    std: float
    dropout: float = 0.2
    sizes: tuple[int, ...] = ()

    @property
    def classifies(self) -> bool:
        """Whether targets are classes."""
        return self.name == "A3"

    def flax_model(self) -> nnx.Module:
        """A new model, of the first seed."""
        rngs = nnx.Rngs(0)
        if self.classifies:
            return fcjax.MNISTClassifier(dropout=self.dropout, rngs=rngs)
        if self.name == "MLP":
            return fcjax.MLP(self.sizes, rngs=rngs)
        return fcjax.Regressor(self.inputs.shape[1], rngs=rngs)

    def torch_model(self) -> Any:
        """A new model, of the first seed."""
        import torch

        from compare.models import torch_models

        torch.manual_seed(0)
        if self.classifies:
            model = torch_models.MNISTClassifier()
            model.dropout.p = self.dropout
            return model
        if self.name == "MLP":
            raise ValueError("contenders: the MLP is measured on its own, without PyTorch beside it")
        return torch_models.Regressor(self.inputs.shape[1])


def a3(samples: int, dropout: float = 0.2) -> Work:
    """Images of noise whose class a fixed linear map tells: all contenders can learn it equally well."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (samples, 28, 28), np.uint8)
    scores = (images.reshape(samples, -1).astype(np.float32) - 127.5) @ random.standard_normal((784, 10), np.float32)
    return Work("A3", images, scores.argmax(axis=1).astype(np.int32), 127.5, 73.9, dropout)


def a4(samples: int, features: int = 8) -> Work:
    """Tables of noise whose target is a fixed function."""
    random = np.random.default_rng(0)
    table = random.standard_normal((samples, features), np.float32)
    target = np.sin(table[:, :1]) + table[:, 1:2] * table[:, 2:3]
    return Work("A4", table, target.astype(np.float32), 0.0, 1.0)


def mlp(sizes: tuple[int, ...], samples: int) -> Work:
    """A net of any sizes, which learns to repeat its first inputs."""
    inputs = np.random.default_rng(0).standard_normal((samples, sizes[0]), np.float32)
    return Work("MLP", inputs, np.ascontiguousarray(inputs[:, : sizes[-1]]), 0.0, 1.0, sizes=sizes)


def fcjax_turn(
    work: Work,
    batch_size: int,
    strategy: str = "pmap",
    precision: str = "float32",
    replicas: int = 1,
    optimizer: str = "adam",
) -> Turn:
    """A whole pass as one compiled program, data resident as stored."""
    parallel = make_parallel(strategy)
    rule = make_optimizer(optimizer, RATE)
    states = [create_state(work.flax_model(), rule, seed=seed) for seed in range(replicas)]
    state = states[0][1] if replicas == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *(s for _, s in states))
    scaling = fcjax.Scaling(np.array(work.mean, np.float32), np.array(work.std, np.float32))
    learner = Learner(
        states[0][0],
        "classification" if work.classifies else "regression",
        fcjax.negative_log_likelihood if work.classifies else fcjax.squared_error,
        rule,
        scaling,
        axis_name=parallel.axis_name,
        policy=Policy(precision),
    )
    plan = Plan(len(work.inputs), batch_size, len(parallel.devices))
    data = parallel.replicate(Arrays(jnp.asarray(work.inputs), jnp.asarray(work.targets)))
    state = parallel.replicate(state)
    segment = partial(train_segment, learner, plan, plan.steps)
    program, _ = parallel.compile(segment, state, data, replicas=replicas, donate=True)

    def turn() -> float:
        nonlocal state
        state, sums = program(state, data)
        return float(jnp.sum(sums["loss"]) / (len(work.inputs) * replicas))

    return turn


def jax_loops(work: Work, batch_size: int) -> dict[str, Turn]:
    """A Python loop over a jitted step, with plain functions and with ``nnx.jit`` as in Flax's tutorials."""
    inputs = (work.inputs.astype(np.float32) - work.mean) / work.std

    def loss_of(model: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        outputs = model(x, rngs=key)
        if work.classifies:
            return -jnp.take_along_axis(outputs, y[:, None], axis=1).mean()
        return jnp.mean((outputs - y) ** 2)

    model = work.flax_model()
    model.train()
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)

    @nnx.jit
    def nnx_step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array, step: int) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(0), step)
        loss, gradients = nnx.value_and_grad(loss_of)(model, x, y, key)
        optimizer.update(model, gradients)
        return loss

    graph, params = nnx.split(model)
    adam = optax.adam(RATE)
    carried = (params, adam.init(params))

    @jax.jit
    def pure_step(carried: Any, x: jax.Array, y: jax.Array, step: int) -> tuple[Any, jax.Array]:
        params, opt_state = carried
        key = jax.random.fold_in(jax.random.key(0), step)
        loss, gradients = jax.value_and_grad(lambda p: loss_of(nnx.merge(graph, p), x, y, key))(params)
        updates, opt_state = adam.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    def batches() -> Iterator[tuple[Any, Any, int]]:
        for rows in _orders(work, batch_size):
            yield inputs[rows], work.targets[rows], next(steps)

    steps = itertools.count()

    def nnx_turn() -> float:
        return float(jnp.mean(jnp.stack([nnx_step(model, optimizer, *batch) for batch in batches()])))

    def pure_turn() -> float:
        nonlocal carried
        losses = []
        for batch in batches():
            carried, loss = pure_step(carried, *batch)
            losses.append(loss)
        return float(jnp.mean(jnp.stack(losses)))

    return {"JAX, loop over a jitted step": pure_turn, "JAX, loop over nnx.jit": nnx_turn}


def _orders(work: Work, batch_size: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng().permutation(len(work.inputs))
    yield from np.split(order, range(batch_size, len(order), batch_size))


def torch_loops(work: Work, batch_size: int, compiled: bool = True) -> dict[str, Turn]:
    """The tutorial's loop over a DataLoader, loops over resident tensors, and those compiled.

    Raises:
        ImportError: torch is not installed.
    """
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = (torch.from_numpy(work.inputs).float() - work.mean) / work.std
    y = torch.from_numpy(work.targets)
    y = y.long() if work.classifies else y
    loader = DataLoader(TensorDataset(x, y), batch_size, shuffle=True)
    resident_x, resident_y = x.to(device), y.to(device)

    def resident() -> Iterator[Any]:
        for rows in torch.randperm(len(x), device=device).split(batch_size):
            yield resident_x[rows], resident_y[rows]

    def loop(batches: Callable[[], Any], fused: bool, mode: str | None = None) -> Turn:
        model = work.torch_model().to(device).train()
        criterion = torch.nn.functional.nll_loss if work.classifies else torch.nn.functional.mse_loss
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=fused)

        def objective(inputs: Any, targets: Any) -> Any:
            return criterion(model(inputs), targets)

        called = objective if mode is None else torch.compile(objective, mode=mode)

        def turn() -> float:
            losses = []
            for inputs, targets in batches():
                optimizer.zero_grad()
                loss = called(inputs.to(device), targets.to(device))
                loss.backward()
                optimizer.step()
                losses.append(loss.detach().clone())
            return float(torch.stack(losses).mean())

        return turn

    turns = {
        "torch, DataLoader": loop(lambda: loader, fused=False),
        "torch, resident, fused Adam": loop(resident, fused=True),
    }
    if compiled:
        turns["torch.compile, resident, fused Adam"] = loop(resident, fused=True, mode="default")
        if device.type == "cuda":
            turns["torch.compile, CUDA graphs"] = loop(resident, fused=True, mode="reduce-overhead")
        else:
            missing("torch.compile with CUDA graphs", "there is no CUDA device")
    return turns
