"""Training loops that take the same steps pass, optimiser by optimiser; how a difference is reported."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from torch import nn
from torch.optim import lr_scheduler

import compare
from compare.training.recipe import recipe_of, step
from compare.training.scales import scales
from compare.training.torch_loop import own_scaler

pytestmark = pytest.mark.usefixtures("small_programs")

Array = jax.Array


class TorchNet(nn.Module):
    """5-6-3."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.fc2, self.dropout = nn.Linear(5, 6), nn.Linear(6, 3), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.dropout(torch.tanh(self.fc1(x))))


class FlaxNet(nnx.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        self.fc1, self.fc2 = nnx.Linear(5, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 3, rngs=nnx.Rngs(1))
        self.dropout = nnx.Dropout(dropout, rngs=nnx.Rngs(2))

    def __call__(self, x: Array) -> Array:
        return self.fc2(self.dropout(jnp.tanh(self.fc1(x))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        return linen.Dense(3, name="fc2")(jnp.tanh(linen.Dense(6, name="fc1")(x)))


def batches(number: int = 5, rows: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets of a regression."""
    random = np.random.default_rng(1)
    draw = [(random.standard_normal((rows, 5)), random.standard_normal((rows, 3))) for _ in range(number)]
    return [(x.astype(np.float32), y.astype(np.float32)) for x, y in draw]


def mse(outputs: Any, targets: Any) -> Any:
    """The same words in both frameworks."""
    return ((outputs - targets) ** 2).mean()


def trained(seeded: Any, torch_optimizer: Any, optax_optimizer: Any, **fields: Any) -> compare.Report:
    """``check_training`` of the net above, with everything else the same on both sides."""
    given = {"batches": batches(), "torch_loss": mse, "jax_loss": mse, "flax_model": FlaxNet(), **fields}
    return compare.check_training(
        seeded(given.pop("torch_model", TorchNet)),
        given.pop("flax_model"),
        given.pop("batches"),
        torch_optimizer=torch_optimizer,
        optax_optimizer=optax_optimizer,
        **given,
    )


def scheduled(make: Callable[[Any], Any], rate: float = 0.1, momentum: float = 0.0) -> Callable[[Any], Any]:
    """SGD with a learning-rate scheduler."""

    def optimizer(parameters: Any) -> tuple[Any, Any]:
        sgd = torch.optim.SGD(parameters, rate, momentum=momentum)
        return sgd, make(sgd)

    return optimizer


def clip_as_torch(size: float) -> optax.GradientTransformation:
    """``clip_grad_norm_``, its epsilon included."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        factor = jnp.minimum(1.0, size / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


_STAIRS = optax.exponential_decay(0.1, 2, 0.5, staircase=True)
_COSINE = optax.cosine_decay_schedule(0.1, 5)
_WARM = optax.join_schedules([optax.linear_schedule(0.02, 0.1, 4), optax.constant_schedule(0.1)], [4])

RIGHT: dict[str, tuple[Callable[[Any], Any], Any, dict[str, Any]]] = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.1), optax.sgd(0.1), {"learning_rate": 0.1}),
    "momentum": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9), {}),
    "Nesterov, decay": (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
        optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1, momentum=0.9, nesterov=True)),
        {},
    ),
    "Adam": (lambda p: torch.optim.Adam(p, 1e-2), optax.adam(1e-2), {}),
    "Adam, L2": (
        lambda p: torch.optim.Adam(p, 1e-2, weight_decay=1e-2),
        optax.chain(optax.add_decayed_weights(1e-2), optax.adam(1e-2)),
        {},
    ),
    "AdamW": (lambda p: torch.optim.AdamW(p, 1e-2), optax.adamw(1e-2, weight_decay=1e-2), {}),
    "RMSprop": (
        lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.5, centered=True),
        optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False, momentum=0.5, centered=True),
        {},
    ),
    "Adagrad": (
        lambda p: torch.optim.Adagrad(p, 1e-2, initial_accumulator_value=0.1, eps=0.0),
        optax.adagrad(1e-2, initial_accumulator_value=0.1, eps=0.0),
        {},
    ),
    "StepLR": (
        scheduled(lambda o: lr_scheduler.StepLR(o, 2, 0.5), momentum=0.9),
        optax.sgd(_STAIRS, momentum=0.9),
        {"learning_rate": _STAIRS},
    ),
    "CosineAnnealingLR to its end": (
        scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, 5)),
        optax.sgd(_COSINE),
        {"learning_rate": _COSINE, "batches": batches(7)[:6]},
    ),
    "warm-up": (scheduled(lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 4)), optax.sgd(_WARM), {"learning_rate": _WARM}),
    "clip_grad_norm_": (
        lambda p: torch.optim.Adam(p, 1e-2),
        optax.chain(clip_as_torch(0.1), optax.adam(1e-2)),
        {"clip": 0.1},
    ),
    "clip_grad_value_": (
        lambda p: torch.optim.SGD(p, 0.1),
        optax.chain(optax.clip(0.05), optax.sgd(0.1)),
        {"clip": ("value", 0.05)},
    ),
    "accumulation": (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        optax.MultiSteps(optax.chain(optax.scale(2.0), optax.sgd(0.1, momentum=0.9)), 2),
        {"accumulate": 2, "batches": batches(6)},
    ),
    "GradScaler": (
        lambda p: torch.optim.SGD(p, 0.1),
        optax.sgd(0.1),
        {"scaler": torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)},
    ),
    "Linen": (lambda p: torch.optim.Adam(p, 1e-2), optax.adam(1e-2), {"flax_model": LinenNet()}),
    "dropout replayed": (
        lambda p: torch.optim.SGD(p, 0.1),
        optax.sgd(0.1),
        {"mode": "train", "torch_model": lambda: TorchNet(0.4), "flax_model": FlaxNet(0.4)},
    ),
}


@pytest.mark.parametrize("pair", RIGHT)
def test_loops_that_take_the_same_steps_pass(seeded: Any, pair: str) -> None:
    torch_optimizer, optax_optimizer, fields = RIGHT[pair]
    report = trained(seeded, torch_optimizer, optax_optimizer, **fields)
    assert report.passed, report.text()
    assert report.first_divergence is None
    assert report.causes == ()
    if "learning_rate" in fields:
        assert report.check("learning_rate").status == "passed"


def test_neither_model_is_changed(seeded: Any) -> None:
    model, flax = seeded(TorchNet), FlaxNet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kernel = np.array(flax.fc1.kernel[...])
    compare.check_training(
        model,
        flax,
        batches(2),
        torch_optimizer=lambda p: torch.optim.SGD(p, 0.1),
        optax_optimizer=optax.sgd(0.1),
        torch_loss=mse,
        jax_loss=mse,
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    np.testing.assert_array_equal(kernel, flax.fc1.kernel[...])
    assert not jax.config.read("jax_enable_x64")
    assert torch.get_default_dtype() == torch.float32


def test_first_step_and_quantity_of_a_late_difference(seeded: Any) -> None:
    schedule = optax.piecewise_constant_schedule(0.1, {3: 0.5})
    report = trained(seeded, scheduled(lambda o: lr_scheduler.StepLR(o, 2, 0.5)), optax.sgd(schedule))
    assert report.first_divergence is not None
    assert (report.first_divergence.step, report.first_divergence.quantity) == (3, "update")
    given = trained(
        seeded, scheduled(lambda o: lr_scheduler.StepLR(o, 2, 0.5)), optax.sgd(schedule), learning_rate=schedule
    )
    assert given.first_divergence is not None
    assert (given.first_divergence.step, given.first_divergence.quantity) == (3, "learning_rate")
    assert given.status == "failed"


def test_an_epsilon_that_hardly_shows_is_seen(seeded: Any) -> None:
    report = trained(seeded, lambda p: torch.optim.Adam(p, 1e-3), optax.adam(1e-3, eps=1.1e-8))
    assert report.first_divergence is not None
    assert (report.first_divergence.step, report.first_divergence.quantity) == (1, "update")


def test_a_rate_rounded_to_float32_is_no_mistake(seeded: Any) -> None:
    rounded, exact = jnp.sqrt(jnp.float32(0.1)), 0.1**0.5
    report = trained(seeded, lambda p: torch.optim.SGD(p, exact), optax.sgd(lambda count: rounded))
    assert report.passed, report.text()
    assert report.check("update").status == "constants"
    mistaken = trained(seeded, lambda p: torch.optim.SGD(p, exact), optax.sgd(lambda count: rounded * 1.00001))
    assert not mistaken.passed


def test_a_rounded_rate_excuses_no_loss_that_differs_later(seeded: Any) -> None:
    rounded, exact = jnp.sqrt(jnp.float32(0.1)), 0.1**0.5
    data = batches()
    data[1] = (data[1][0], data[1][1] + np.float32(20.0))  # outliers in the second batch alone

    def clamped(outputs: Any, targets: Any) -> Any:
        return jnp.minimum((outputs - targets) ** 2, 50.0).mean()

    pair = (lambda p: torch.optim.SGD(p, exact), optax.sgd(lambda count: rounded))
    report = trained(seeded, *pair, batches=data, jax_loss=clamped)
    assert report.status == "failed", report.text()
    assert report.first_divergence is not None
    assert report.check("loss").status == "failed"


def test_moments_kept_in_another_form_are_noted(seeded: Any) -> None:
    scaled_first = optax.chain(optax.scale(-0.1), optax.trace(0.9))
    report = trained(seeded, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), scaled_first)
    assert report.passed, report.text()
    assert report.check("moments").status == "noted"


def test_overflow_skips_the_step_and_the_scale_is_compared(seeded: Any) -> None:
    from flax.training.dynamic_scale import DynamicScale

    data = batches(7)
    data[1] = (data[1][0] * np.float32(np.inf), data[1][1])
    torch_scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    pair = (lambda p: torch.optim.SGD(p, 0.1), optax.sgd(0.1))
    own = trained(seeded, *pair, batches=data, scaler=(torch_scaler, Scale(8.0, 2)))
    assert own.check("loss_scale").status == "passed", own.text()
    assert own.passed, own.text()
    late = trained(seeded, *pair, batches=data, scaler=(torch_scaler, DynamicScale(scale=8.0, growth_interval=2)))
    assert late.first_divergence is not None
    assert late.first_divergence.quantity == "loss_scale"
    assert "loss_scale_growth_late" in {cause.name for cause in late.causes}


class Scale:
    """GradScaler's rules, as a port would write them."""

    def __init__(self, scale: float, interval: int, steps: int = 0) -> None:
        self.scale, self.interval, self.steps = scale, interval, steps

    def update(self, finite: bool) -> "Scale":
        (scale,) = scales([finite], self.scale, 2.0, 0.5, self.interval - self.steps if finite else -1)
        steps = self.steps + 1 if finite and scale == self.scale else 0
        return Scale(scale, self.interval, steps)


@pytest.mark.parametrize("interval", [1, 3])
def test_scales_are_grad_scalers(interval: int) -> None:
    scaler = own_scaler(torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=interval))
    finite = [True, True, True, False, True, True, True, True, False, False, True]
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer, seen = torch.optim.SGD([parameter], 0.1), []
    for ok in finite:
        parameter.grad = scaler.scale(torch.full((2,), 1.0 if ok else np.inf))
        scaler.step(optimizer)
        scaler.update()
        seen.append(scaler.get_scale())
    assert scales(finite, 16.0, 2.0, 0.5, interval) == seen


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    "SGD, nesterov, maximize": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, maximize=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    "AMSGrad": lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.1, alpha=0.9, centered=True, momentum=0.5, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.1, lr_decay=0.2, initial_accumulator_value=0.3, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recipes_are_torch_s_optimisers(name: str) -> None:
    random = np.random.default_rng(0)
    parameter = torch.nn.Parameter(torch.from_numpy(random.standard_normal((3, 2))))
    optimizer = OPTIMIZERS[name]([parameter])
    recipe = recipe_of(type(optimizer), optimizer.param_groups[0])
    assert recipe is not None
    state: dict[str, np.ndarray] = {}
    value = parameter.detach().numpy().copy()
    for count in range(1, 6):
        gradient = random.standard_normal((3, 2))
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        direction, extra, state = step(recipe, state, gradient, value, count, 0.1)
        value = value - 0.1 * direction + extra
        # A few operations per step in float64, on numbers of size one.
        np.testing.assert_allclose(value, parameter.detach().numpy(), rtol=0, atol=1e-14)


def test_what_shows_too_little_is_inconclusive(seeded: Any) -> None:
    pair = (lambda p: torch.optim.SGD(p, 0.1), optax.sgd(0.1))
    report = trained(seeded, *pair, batches=batches(1))
    assert report.status == "inconclusive"
    assert "fewer than two" in report.check("adequacy").detail
    still = trained(seeded, *pair, torch_loss=lambda o, y: 0.0 * mse(o, y), jax_loss=lambda o, y: 0.0 * mse(o, y))
    assert still.status == "inconclusive"


def test_own_steps(seeded: Any) -> None:
    def torch_step(model: Any, optimizer: Any, batch: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss = mse(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    def flax_step(rate: float) -> Callable[..., Any]:
        graph = nnx.graphdef(FlaxNet())
        others = nnx.state(FlaxNet(), nnx.Not(nnx.Param))

        def run(parameters: Any, state: Any, batch: Any) -> Any:
            loss, gradients = jax.value_and_grad(lambda p: mse(nnx.merge(graph, p, others)(batch[0]), batch[1]))(
                parameters
            )
            updates, state = optax.sgd(rate).update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state, loss

        return run

    pair = (lambda p: torch.optim.SGD(p, 0.1), optax.sgd(0.1))
    report = trained(seeded, *pair, torch_step=torch_step, flax_step=flax_step(0.1))
    assert report.passed, report.text()
    wrong = trained(seeded, *pair, torch_step=torch_step, flax_step=flax_step(0.11))
    assert wrong.status == "failed"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"batches": []}, "at least one"),
        ({"batches": [np.zeros((2, 5))]}, "pairs; batch 1"),
        ({"accumulate": 0}, "accumulate: expected"),
        ({"clip": "norm"}, "clip: expected"),
        ({"torch_optimizer": lambda p: None}, "torch_optimizer: expected"),
        ({"optax_optimizer": 0.1}, "optax_optimizer: expected"),
        ({"torch_loss": lambda o, y: (o - y) ** 2}, "torch_loss: expected a scalar"),
        ({"jax_loss": lambda o, y: (o - y) ** 2}, "jax_loss: expected a scalar"),
        ({"batches": [(np.zeros((2, 4)), np.zeros((2, 3)))]}, "the torch loop does not run"),
    ],
)
def test_wrong_usage_is_said(seeded: Any, fields: dict[str, Any], text: str) -> None:
    given = {"torch_optimizer": lambda p: torch.optim.SGD(p, 0.1), "optax_optimizer": optax.sgd(0.1), **fields}
    with pytest.raises(compare.UsageError, match=text):
        trained(seeded, **given)


def test_an_expected_failure_is_a_note(seeded: Any) -> None:
    reason = "the paper's epsilon"
    excused = dict.fromkeys(("loss", "gradients", "moments", "update", "parameters"), reason)
    pair = (lambda p: torch.optim.Adam(p, 1e-3), optax.adam(1e-3, eps=1e-6))
    report = trained(seeded, *pair, expected_failures=excused)
    assert report.passed, report.text()
    assert reason in report.check("update").detail
    assert not trained(seeded, *pair).passed


def test_a_clipping_that_is_never_reached_is_noted(seeded: Any) -> None:
    pair = (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9))
    report = trained(seeded, *pair, clip=1e6)
    assert report.passed
    assert report.check("adequacy").status == "noted"
    assert "nothing was clipped" in report.check("adequacy").detail
    active = trained(seeded, pair[0], optax.chain(clip_as_torch(0.1), pair[1]), clip=0.1)
    assert active.check("adequacy").status == "passed"
    assert "clip_missing" not in active.check("adequacy").detail


class TorchSquare(nn.Module):
    """A square matrix of the user's own: no shape tells which way round it is."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.fc = nn.Parameter(torch.randn(5, 5)), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.tanh(x @ self.mix))


class FlaxSquare(nnx.Module):
    def __init__(self, turned: bool) -> None:
        self.mix, self.fc = nnx.Param(jnp.ones((5, 5))), nnx.Linear(5, 3, rngs=nnx.Rngs(0))
        self.turned = turned

    def __call__(self, x: Array) -> Array:
        mix = self.mix[...]
        return self.fc(jnp.tanh(x @ (mix.T if self.turned else mix)))


@pytest.mark.parametrize("turned", [False, True])
def test_square_matrices_are_settled_first(seeded: Any, turned: bool) -> None:
    pair = (lambda p: torch.optim.Adam(p, 1e-2), optax.adam(1e-2))
    report = trained(seeded, *pair, torch_model=TorchSquare, flax_model=FlaxSquare(turned))
    assert report.passed, report.text()
