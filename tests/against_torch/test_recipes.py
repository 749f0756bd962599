"""Twenty steps of every recipe against PyTorch in float64: optimisers, clipping, schedules, averaging; and losses."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fcjax.losses import cross_entropy, smoothed, squared_error
from fcjax.models import FlaxModel
from fcjax.optimizers import make_optimizer
from fcjax.schedules import make_schedule
from fcjax.train_state import create_state
from fcjax.train_step import Batch, Learner

RATE, STEPS = 0.05, 20
RNG = np.random.default_rng(0)
START = {"kernel": RNG.normal(size=(3, 2)), "bias": RNG.normal(size=2)}
# Sizes from 0.01 to 10, so that clipping acts on some steps and not on others.
SIZES = 10.0 ** RNG.uniform(-2, 1, STEPS)
GRADIENTS = [{name: size * RNG.normal(size=p.shape) for name, p in START.items()} for size in SIZES]

Make = Callable[[list[dict[str, Any]] | list[torch.Tensor]], torch.optim.Optimizer]
T = torch.optim
# Name -> (PyTorch's optimiser, our settings).
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (lambda p: T.SGD(p, RATE), {"name": "sgd"}),
    "sgd decay": (lambda p: T.SGD(p, RATE, weight_decay=0.1), {"name": "sgd", "weight_decay": 0.1}),
    "momentum": (lambda p: T.SGD(p, RATE, momentum=0.9), {"name": "momentum"}),
    "momentum decay": (
        lambda p: T.SGD(p, RATE, momentum=0.8, weight_decay=0.1),
        {"name": "sgd", "momentum": 0.8, "weight_decay": 0.1},
    ),
    "nesterov decay": (
        lambda p: T.SGD(p, RATE, momentum=0.9, nesterov=True, weight_decay=0.1),
        {"name": "momentum", "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (lambda p: T.Adam(p, RATE), {"name": "adam"}),
    "adam decay": (lambda p: T.Adam(p, RATE, weight_decay=0.1), {"name": "adam", "weight_decay": 0.1}),
    "adamw": (lambda p: T.AdamW(p, RATE), {"name": "adamw"}),
    "adamw decay": (lambda p: T.AdamW(p, RATE, weight_decay=0.2), {"name": "adamw", "weight_decay": 0.2}),
    "rmsprop": (lambda p: T.RMSprop(p, RATE), {"name": "rmsprop"}),
    "rmsprop momentum decay": (
        lambda p: T.RMSprop(p, RATE, momentum=0.7, weight_decay=0.1),
        {"name": "rmsprop", "momentum": 0.7, "weight_decay": 0.1},
    ),
}
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cosine": (lambda o: T.lr_scheduler.CosineAnnealingLR(o, STEPS), {"name": "cosine"}),
    "step": (lambda o: T.lr_scheduler.StepLR(o, 6, 0.3), {"name": "step", "every": 6, "decay": 0.3}),
    "warm-up": (
        lambda o: T.lr_scheduler.SequentialLR(
            o,
            [T.lr_scheduler.LinearLR(o, 1 / 5, total_iters=4), T.lr_scheduler.CosineAnnealingLR(o, STEPS - 5)],
            [5],
        ),
        {"name": "cosine", "warmup": 5},
    ),
}


def torch_steps(make: Any, *, clip: float | None = None, scheduler: Any = None) -> Iterator[dict[str, np.ndarray]]:
    params = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in START.items()}
    optimizer = make(params)
    plan = scheduler(optimizer) if scheduler else None
    for gradients in GRADIENTS:
        for name, p in params.items():
            p.grad = torch.tensor(gradients[name])
        if clip:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.step()
        if plan:
            plan.step()
        yield {name: p.detach().numpy().copy() for name, p in params.items()}


def worst(optimizer: optax.GradientTransformation, expected: Iterator[dict[str, np.ndarray]]) -> float:
    """The largest difference over all steps."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, START)
        state, update, differences = optimizer.init(params), jax.jit(optimizer.update), []
        for gradients, theirs in zip(GRADIENTS, expected, strict=True):
            updates, state = update(jax.tree.map(jnp.asarray, gradients), state, params)
            params = optax.apply_updates(params, updates)
            differences += [np.abs(np.asarray(params[name]) - theirs[name]).max() for name in START]
    assert len(differences) == 2 * STEPS
    return float(max(differences))


def everything(make: Any) -> Any:
    return lambda params: make(list(params.values()))


# Float64 on both sides, 20 steps of size 0.05: a rounding is 1e-16, and every wrong rule stands above 1e-6.
SAME = 1e-10


@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize("case", OPTIMIZERS)
def test_every_optimizer_is_torchs(case: str, clip: float | None) -> None:
    make, settings = OPTIMIZERS[case]
    ours = make_optimizer(**settings, learning_rate=RATE, clip_norm=clip)
    assert worst(ours, torch_steps(everything(make), clip=clip)) <= SAME


@pytest.mark.parametrize(
    ("case", "mistake"),
    [
        ("momentum", {"name": "momentum", "nesterov": True}),
        ("nesterov decay", {"name": "momentum", "weight_decay": 0.1}),
        ("adam decay", {"name": "adamw", "weight_decay": 0.1}),  # decoupled for L2
        ("adamw decay", {"name": "adam", "weight_decay": 0.2}),
        ("adamw", {"name": "adamw", "weight_decay": 1e-4}),  # optax's own default
        ("sgd decay", {"name": "sgd", "weight_decay": 0.1, "decay_biases": False}),
        ("sgd", {"name": "sgd", "clip_norm": 1.5}),
    ],
)
def test_a_wrong_rule_is_caught(case: str, mistake: dict[str, Any]) -> None:
    make, _ = OPTIMIZERS[case]
    assert worst(make_optimizer(**mistake, learning_rate=RATE), torch_steps(everything(make))) > 1e-6


def test_clipping_has_torchs_epsilon() -> None:
    def without(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(gradients)))
        return jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.5 / norm), gradients), state

    plain = optax.chain(optax.GradientTransformation(lambda params: optax.EmptyState(), without), optax.sgd(RATE))
    make, _ = OPTIMIZERS["sgd"]
    assert worst(plain, torch_steps(everything(make), clip=1.5)) > SAME


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_that_spares_biases_is_torchs_with_two_groups(name: str) -> None:
    kind = {"sgd": T.SGD, "adamw": T.AdamW}[name]

    def groups(params: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
        return kind(
            [{"params": [params["kernel"]], "weight_decay": 0.3}, {"params": [params["bias"]]}], RATE, weight_decay=0.0
        )

    ours = make_optimizer(name, RATE, weight_decay=0.3, decay_biases=False)
    assert worst(ours, torch_steps(groups)) <= SAME


@pytest.mark.parametrize("case", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:.*epoch parameter.*:UserWarning")  # torch's SequentialLR warns about itself
def test_every_schedule_is_torchs(case: str) -> None:
    scheduler, settings = SCHEDULERS[case]
    make, _ = OPTIMIZERS["momentum"]
    expected = list(torch_steps(everything(make), scheduler=scheduler))
    schedule = make_schedule(**settings, steps=STEPS)
    assert worst(make_optimizer("momentum", RATE, schedule=schedule), iter(expected)) <= SAME
    assert worst(make_optimizer("momentum", RATE), iter(expected)) > 1e-3


def test_smoothed_labels_are_torchs() -> None:
    logits, labels = RNG.normal(size=(7, 4)) * 3, RNG.integers(0, 4, 7)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), label_smoothing=0.15, reduction="none"
    )
    with jax.enable_x64(True):
        ours = smoothed(cross_entropy, 0.15)(jnp.asarray(logits), jnp.asarray(labels))
        plain = cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(ours, expected, rtol=1e-13)  # float64's rounding
    assert np.abs(np.asarray(plain) - expected.numpy()).max() > 0.01


def test_the_moving_average_is_torchs() -> None:
    x, y = RNG.normal(size=(STEPS, 5, 3)), RNG.normal(size=(STEPS, 5, 2))

    def difference(decay: float) -> float:
        """Between our average and PyTorch's with decay 0.8, after 20 steps of SGD."""
        with jax.enable_x64(True):
            model = FlaxModel(3, 4, 2, rngs=nnx.Rngs(0))
            nnx.update(model, jax.tree.map(lambda p: p.astype(float), nnx.state(model, nnx.Param)))
            layers: list[Any] = [torch.nn.Linear(3, 4).double(), torch.nn.Linear(4, 2).double()]
            theirs = torch.nn.Sequential(*layers)
            with torch.no_grad():
                for layer, ours in zip(layers, (model.layer1, model.layer2), strict=True):
                    assert ours.bias is not None
                    layer.weight.copy_(torch.tensor(np.array(ours.kernel[...]).T))
                    layer.bias.copy_(torch.tensor(np.array(ours.bias[...])))
            averaged: Any = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.8))
            torch_optimizer = T.SGD(theirs.parameters(), RATE)
            optimizer = make_optimizer("sgd", RATE)
            pure, state = create_state(model, optimizer, 0, average=True)
            learner = Learner(pure, "regression", squared_error, optimizer, average_decay=decay)
            step = jax.jit(learner.train_step)
            for xs, ys in zip(x, y, strict=True):
                torch_optimizer.zero_grad()
                ((theirs(torch.tensor(xs)) - torch.tensor(ys)) ** 2).mean().backward()
                torch_optimizer.step()
                averaged.update_parameters(theirs)
                rows = jnp.arange(5, dtype=jnp.int32)
                state, _ = step(state, Batch(jnp.asarray(xs), jnp.asarray(ys), rows, rows >= 0, jnp.int32(5)))
            expected = next(averaged.module.parameters()).detach().numpy().T
            assert np.abs(np.asarray(state.params["layer1"]["kernel"]) - expected).max() > 1e-3
            return float(np.abs(np.asarray(state.evaluated["layer1"]["kernel"]) - expected).max())

    assert difference(0.8) <= SAME
    assert difference(0.79) > 1e-5
