"""Each mistake in a training loop fails, and its cause is named; without it the same loop passes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn
from torch.optim import lr_scheduler

import compare
from compare.training.rates import rate_causes

pytestmark = pytest.mark.usefixtures("small_programs")

Array = jax.Array
ADAM = torch.optim.Adam


class TorchNet(nn.Module):
    """5-4-3, with a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 4), nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


class FlaxNet(nnx.Module):
    def __init__(self, stop: bool = False) -> None:
        self.fc1, self.fc2 = nnx.Linear(5, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 3, rngs=nnx.Rngs(1))
        self.unused = nnx.Param(jnp.ones(2))
        self.stop = stop

    def __call__(self, x: Array) -> Array:
        h = jnp.tanh(self.fc1(x))
        return self.fc2(jax.lax.stop_gradient(h) if self.stop else h)


def mse(outputs: Any, targets: Any) -> Any:
    """The same words in both frameworks."""
    return ((outputs - targets) ** 2).mean()


def used(params: Any) -> Any:
    """All parameters but the one that torch leaves alone."""
    return jax.tree.map(lambda p: p.shape != (2,), params)


def decayed(decay: float, mask: Any = used) -> optax.GradientTransformation:
    """Weight decay as torch has it: not where there is no gradient."""
    return optax.add_decayed_weights(decay, mask=mask)


def adamw(decay: float, **settings: Any) -> optax.GradientTransformation:
    """AdamW at 1e-2."""
    return optax.adamw(1e-2, weight_decay=decay, mask=used, **settings)


def sgd(**settings: Any) -> Callable[[Any], Any]:
    """Torch's SGD at 0.1."""
    return lambda parameters: torch.optim.SGD(parameters, 0.1, **settings)


def scheduled(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Torch's SGD at 0.1 with a scheduler."""

    def optimizer(parameters: Any) -> tuple[Any, Any]:
        made = torch.optim.SGD(parameters, 0.1)
        return made, make(made)

    return optimizer


STAIRS = scheduled(lambda o: lr_scheduler.StepLR(o, 2, 0.5))
FALLING = scheduled(lambda o: lr_scheduler.ExponentialLR(o, 0.8))
WARM = scheduled(lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 4))
COSINE = scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, 9))


def falling(count: Any) -> Any:
    """ExponentialLR(0.8) at 0.1."""
    return 0.1 * 0.8**count


def cosine(count: Any) -> Any:
    """CosineAnnealingLR(9) at 0.1."""
    return optax.cosine_decay_schedule(0.1, 9)(count)


def norm_clip(size: float, epsilon: float = 1e-6) -> optax.GradientTransformation:
    """Torch's ``clip_grad_norm_``."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda g: g * jnp.minimum(1, size / (optax.tree.norm(updates) + epsilon)), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def uncorrected_adam(b1: float, b2: float) -> optax.GradientTransformation:
    """Adam without bias correction."""

    def init(params: Any) -> Any:
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), *(optax.tree.zeros_like(params) for _ in range(2)))

    def update(g: Any, state: Any, params: Any = None) -> Any:
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, g)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, g)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + 1e-8), mu, nu)
        return direction, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A torch optimiser and the optax one with a mistake.

    Args:
        torch: callable parameters -> optimiser.
        wrong: the mistaken port.
        cause: names of the causes that must be among those reported, the first of them first.
        fields: of ``check_training``.
    """

    torch: Callable[[Any], Any]
    wrong: Any
    cause: tuple[str, ...]
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


MOMENTUM = sgd(momentum=0.9)
DECAYED_MOMENTUM = sgd(momentum=0.9, weight_decay=1e-2)
CLIPPED = {"clip": 0.1}
TWO = {"accumulate": 2}

MISTAKES: dict[str, Pair] = {
    "decoupled for L2": Pair(lambda p: ADAM(p, 1e-2, weight_decay=1e-2), adamw(1e-2), ("decay_decoupled_for_l2",)),
    "L2 for decoupled": Pair(
        lambda p: torch.optim.AdamW(p, 1e-2),
        optax.chain(decayed(1e-2), optax.adam(1e-2)),
        ("decay_l2_for_decoupled",),
    ),
    "optax's default decay": Pair(lambda p: torch.optim.AdamW(p, 1e-2), adamw(1e-4), ("decay_value",)),
    "no decay": Pair(lambda p: torch.optim.AdamW(p, 1e-2), optax.adam(1e-2), ("decay_missing",)),
    "decay that torch has not": Pair(lambda p: ADAM(p, 1e-2), adamw(1e-3), ("decay_extra",)),
    "decay with the wrong sign": Pair(
        DECAYED_MOMENTUM, optax.chain(optax.sgd(0.1, momentum=0.9), decayed(1e-2)), ("decay_sign",)
    ),
    "decay after momentum": Pair(
        DECAYED_MOMENTUM,
        optax.chain(optax.trace(0.9), decayed(1e-2), optax.scale(-0.1)),
        ("decay_after_momentum",),
    ),
    "decay not on biases": Pair(
        lambda p: torch.optim.AdamW(p, 1e-2),
        optax.adamw(1e-2, weight_decay=1e-2, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)),
        ("decay_mask",),
    ),
    "unused parameter decays": Pair(
        lambda p: torch.optim.AdamW(p, 1e-2), optax.adamw(1e-2, weight_decay=1e-2), ("unused_parameter_moved",)
    ),
    "epsilon": Pair(lambda p: ADAM(p, 1e-2), optax.adam(1e-2, eps=1e-7), ("epsilon_value",)),
    "epsilon inside the root": Pair(
        lambda p: ADAM(p, 1e-2), optax.adam(1e-2, eps=0.0, eps_root=1e-8), ("epsilon_inside_root",)
    ),
    "betas swapped": Pair(
        lambda p: ADAM(p, 1e-2, betas=(0.8, 0.95)), optax.adam(1e-2, b1=0.95, b2=0.8), ("betas_swapped",)
    ),
    "b1": Pair(lambda p: ADAM(p, 1e-2), optax.adam(1e-2, b1=0.95), ("beta1_value",)),
    "b2": Pair(lambda p: ADAM(p, 1e-2), optax.adam(1e-2, b2=0.99), ("beta2_value",)),
    "no bias correction": Pair(
        lambda p: ADAM(p, 1e-2),
        optax.chain(uncorrected_adam(0.9, 0.999), optax.scale(-1e-2)),
        ("bias_correction_missing",),
    ),
    "NAdam": Pair(lambda p: ADAM(p, 1e-2), optax.nadam(1e-2), ("nesterov_extra",)),
    "AMSGrad": Pair(lambda p: ADAM(p, 1e-2, amsgrad=True), optax.adam(1e-2), ("amsgrad_missing",)),
    "RMSprop's decay": Pair(
        lambda p: torch.optim.RMSprop(p, 1e-2), optax.rmsprop(1e-2, eps_in_sqrt=False), ("rmsprop_decay",)
    ),
    "RMSprop's epsilon": Pair(
        lambda p: torch.optim.RMSprop(p, 1e-2), optax.rmsprop(1e-2, decay=0.99), ("epsilon_inside_root",)
    ),
    "optax's RMSprop": Pair(
        lambda p: torch.optim.RMSprop(p, 1e-2), optax.rmsprop(1e-2), ("epsilon_inside_root", "rmsprop_decay")
    ),
    "centred RMSprop": Pair(
        lambda p: torch.optim.RMSprop(p, 1e-2),
        optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False, centered=True),
        ("rmsprop_centered",),
    ),
    "Adagrad's start": Pair(
        lambda p: torch.optim.Adagrad(p, 1e-2, eps=0.0), optax.adagrad(1e-2, eps=0.0), ("accumulator_start",)
    ),
    "no momentum": Pair(MOMENTUM, optax.sgd(0.1), ("momentum_missing",)),
    "another momentum": Pair(MOMENTUM, optax.sgd(0.1, momentum=0.99), ("momentum_value",)),
    "momentum as an average": Pair(
        MOMENTUM, optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)), ("momentum_average",)
    ),
    "dampening left out": Pair(sgd(momentum=0.9, dampening=0.9), optax.sgd(0.1, momentum=0.9), ("dampening",)),
    "Nesterov": Pair(MOMENTUM, optax.sgd(0.1, momentum=0.9, nesterov=True), ("nesterov_extra",)),
    "no Nesterov": Pair(sgd(momentum=0.9, nesterov=True), optax.sgd(0.1, momentum=0.9), ("nesterov_missing",)),
    "uphill": Pair(sgd(), optax.scale(0.1), ("update_sign",)),
    "another learning rate": Pair(lambda p: ADAM(p, 1e-2), optax.adam(3e-3), ("learning_rate_factor",)),
    "no schedule": Pair(FALLING, optax.sgd(0.1), ("schedule_missing",)),
    "schedule late by one": Pair(
        COSINE, optax.sgd(lambda count: cosine(jnp.maximum(count - 1, 0))), ("schedule_off_by_one",)
    ),
    "schedule early by one": Pair(COSINE, optax.sgd(lambda count: cosine(count + 1)), ("schedule_off_by_one",)),
    "no staircase": Pair(STAIRS, optax.sgd(optax.exponential_decay(0.1, 2, 0.5)), ("staircase_missing",)),
    "schedule per epoch": Pair(COSINE, optax.sgd(lambda count: cosine(count // 3)), ("schedule_unit",)),
    "another decay rate": Pair(FALLING, optax.sgd(lambda count: 0.1 * 0.9**count), ("schedule_decay_rate",)),
    "no warm-up": Pair(WARM, optax.sgd(0.1), ("schedule_missing", "warmup_missing")),
    "warm-up that torch has not": Pair(sgd(), optax.sgd(optax.linear_schedule(0.0, 0.1, 3)), ("warmup_extra",)),
    "clip's epsilon": Pair(
        lambda p: ADAM(p, 1e-2),
        optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)),
        ("clip_epsilon",),
        CLIPPED,
    ),
    "clip by value": Pair(sgd(), optax.chain(optax.clip(0.1), optax.sgd(0.1)), ("clip_value_for_norm",), CLIPPED),
    "no clipping": Pair(sgd(), optax.sgd(0.1), ("clip_missing",), CLIPPED),
    "clip after the moments": Pair(
        MOMENTUM, optax.chain(optax.trace(0.9), norm_clip(0.1), optax.scale(-0.1)), ("clip_after_moments",), CLIPPED
    ),
    "clip before accumulation": Pair(
        sgd(),
        optax.chain(norm_clip(0.1), optax.MultiSteps(optax.sgd(0.2), 2).gradient_transformation()),
        ("clip_before_accumulation",),
        {**CLIPPED, **TWO},
    ),
    "accumulation by mean": Pair(sgd(), optax.MultiSteps(optax.sgd(0.1), 2), ("accumulation_mean",), TWO),
    "no accumulation": Pair(sgd(), optax.sgd(0.1), ("accumulation_missing",), TWO),
    "loss summed": Pair(sgd(), optax.sgd(0.1), ("loss_sum_for_mean",), {"jax_loss": lambda o, y: ((o - y) ** 2).sum()}),
    "loss halved": Pair(sgd(), optax.sgd(0.1), ("loss_halved",), {"jax_loss": lambda o, y: optax.l2_loss(o, y).mean()}),
    "loss of another kind": Pair(
        sgd(),
        optax.sgd(0.1),
        ("loss_swapped",),
        {"torch_loss": nn.MSELoss(), "jax_loss": lambda o, y: optax.huber_loss(o, y).mean()},
    ),
    "probabilities for logits": Pair(
        sgd(),
        optax.sgd(0.1),
        ("softmax_before_cross_entropy",),
        {
            "torch_loss": lambda o, y: nn.functional.cross_entropy(o, y.softmax(1)),
            "jax_loss": lambda o, y: optax.softmax_cross_entropy(jax.nn.softmax(o), jax.nn.softmax(y)).mean(),
        },
    ),
    "parameter left out by optax": Pair(
        sgd(),
        optax.chain(
            optax.masked(optax.set_to_zero(), lambda p: jax.tree.map(lambda a: a.shape == (4,), p)), optax.sgd(0.1)
        ),
        ("parameter_not_trained",),
    ),
    "gradient stopped": Pair(sgd(), optax.sgd(0.1), ("gradient_stopped",), {"flax_model": FlaxNet(stop=True)}),
}

RIGHT: dict[str, tuple[Callable[[Any], Any], Any, dict[str, Any]]] = {
    "Adam": (lambda p: ADAM(p, 1e-2), optax.adam(1e-2), {}),
    "L2": (lambda p: ADAM(p, 1e-2, weight_decay=1e-2), optax.chain(decayed(1e-2), optax.adam(1e-2)), {}),
    "AdamW": (lambda p: torch.optim.AdamW(p, 1e-2), adamw(1e-2), {}),
    "decay and momentum": (DECAYED_MOMENTUM, optax.chain(decayed(1e-2), optax.sgd(0.1, momentum=0.9)), {}),
    "falling": (FALLING, optax.sgd(falling), {}),
    "cosine": (COSINE, optax.sgd(cosine), {}),
    "warm": (WARM, optax.sgd(optax.linear_schedule(0.02, 0.1, 4)), {}),
    "clipped": (sgd(), optax.chain(norm_clip(0.1), optax.sgd(0.1)), CLIPPED),
    "accumulated": (sgd(), optax.MultiSteps(optax.sgd(0.2), 2), TWO),
}


@pytest.fixture(scope="module")
def model(seeded: Any) -> nn.Module:
    return seeded(TorchNet)


def check(model: nn.Module, torch_optimizer: Any, optax_optimizer: Any, fields: dict[str, Any]) -> compare.Report:
    """Six batches of a regression."""
    random = np.random.default_rng(1)
    data = [(random.standard_normal((4, 5)), random.standard_normal((4, 3))) for _ in range(6)]
    given = {"torch_loss": mse, "jax_loss": mse, "flax_model": FlaxNet(), **fields}
    return compare.check_training(
        model,
        given.pop("flax_model"),
        data,
        torch_optimizer=torch_optimizer,
        optax_optimizer=optax_optimizer,
        **given,
    )


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_and_its_cause_is_named(model: nn.Module, mistake: str) -> None:
    pair = MISTAKES[mistake]
    report = check(model, pair.torch, pair.wrong, pair.fields)
    assert report.status == "failed", report.text()
    names = [cause.name for cause in report.causes]
    assert set(pair.cause) <= set(names), (names, report.text())
    assert names[0] in pair.cause, names


@pytest.mark.parametrize("right", RIGHT)
def test_the_same_loops_without_the_mistake_pass(model: nn.Module, right: str) -> None:
    report = check(model, *RIGHT[right])
    assert report.passed, report.text()
    assert report.causes == ()


def test_a_parameter_frozen_in_torch_alone(seeded: Any) -> None:
    model = seeded(TorchNet)
    model.fc1.bias.requires_grad_(False)
    report = check(model, sgd(), optax.sgd(0.1), {})
    assert report.causes[0].name == "parameter_frozen_in_torch", report.text()
    frozen = optax.chain(
        optax.masked(optax.set_to_zero(), lambda p: jax.tree.map(lambda a: a.shape == (4,), p)), optax.sgd(0.1)
    )
    assert report.first_divergence is not None
    assert report.first_divergence.quantity == "gradients"
    assert [cause.name for cause in report.causes] == ["parameter_frozen_in_torch"]
    # Optax may be what freezes it.
    assert check(model, sgd(), frozen, {}).passed


def test_no_cause_is_named_where_none_fits(model: nn.Module) -> None:
    report = check(model, lambda p: ADAM(p, 1e-2), optax.lion(1e-2), {})
    assert report.status == "failed"
    assert report.causes == ()


def test_two_mistakes_at_once_are_both_named(model: nn.Module) -> None:
    report = check(model, lambda p: torch.optim.AdamW(p, 1e-2), adamw(1e-4, eps=1e-6), {})
    assert {cause.name for cause in report.causes} == {"decay_value", "epsilon_value"}, report.text()
    both = check(
        model, lambda p: ADAM(p, 1e-2), optax.adam(2e-2, eps=1e-6), {"jax_loss": lambda o, y: ((o - y) ** 2).sum()}
    )
    assert {"loss_sum_for_mean", "epsilon_value", "learning_rate_factor"} <= {cause.name for cause in both.causes}


RATES = {
    "late": ([1.0, 1.0, 0.9, 0.7], [1.0, 0.9, 0.7, 0.6], "schedule_off_by_one"),
    "early": ([0.9, 0.7, 0.6, 0.2], [1.0, 0.9, 0.7, 0.6], "schedule_off_by_one"),
    "stairs": ([1.0, 1.0, 0.7, 0.7], [1.0, 0.9, 0.7, 0.6], "staircase_extra"),
    "twice as fast": ([1.0, 0.7, 0.5, 0.2], [1.0, 0.9, 0.7, 0.6, 0.5, 0.3][:4], None),
    "no warm-up": ([0.4, 0.4, 0.4, 0.3], [0.1, 0.2, 0.4, 0.3], "warmup_missing"),
    "factor": ([0.2, 0.18, 0.14, 0.12], [1.0, 0.9, 0.7, 0.6], "learning_rate_factor"),
}


@pytest.mark.parametrize("name", RATES)
def test_rates(name: str) -> None:
    found, expected, cause = RATES[name]
    names = [c.name for c in rate_causes(found, expected)]
    assert (cause in names) if cause else names == []
    assert rate_causes(expected, expected) == []
