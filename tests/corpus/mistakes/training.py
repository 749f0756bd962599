"""Mistakes in a training loop: optimiser, schedule, clipping, accumulation, loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from tests.corpus.mistake import Case, Family, Mistake
from tests.corpus.models import ids, rows, seeded

Array = jax.Array
STEPS = 6


class TorchNet(nn.Module):
    """5-6-3, with an unused layer on request."""

    def __init__(self, unused: bool = False) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        if unused:
            self.aux = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.norm(self.fc1(x))))


class FlaxNet(nnx.Module):
    def __init__(self, unused: bool = False, stopped: bool = False) -> None:
        rngs = nnx.Rngs(0)
        self.fc1, self.fc2 = nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(6, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.stopped = stopped
        if unused:
            self.aux = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = self.fc1(x)
        return self.fc2(jnp.tanh(self.norm(jax.lax.stop_gradient(h) if self.stopped else h)))


def regression(steps: int = STEPS) -> list[Any]:
    return [(rows(4, 5, seed=2 * i), rows(4, 3, seed=2 * i + 1)) for i in range(steps)]


def classes(steps: int = STEPS) -> list[Any]:
    return [(rows(4, 5, seed=2 * i), ids(4, vocabulary=3, seed=i)) for i in range(steps)]


def mse(outputs: Any, targets: Any) -> Any:
    return ((outputs - targets) ** 2).mean()


def jax_ce(logits: Array, targets: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def train(torch_optimizer: Any, optax_optimizer: Any, models: Any = None, batches: Any = None, **fields: Any) -> Callable[[], Case]:
    """A comparison of two loops; mean squared error on a regression unless told otherwise."""

    def make() -> Case:
        pair = models() if models else (seeded(TorchNet), FlaxNet())
        losses = {"torch_loss": mse, "jax_loss": mse}
        given = {"torch_optimizer": torch_optimizer, "optax_optimizer": optax_optimizer, **losses, **fields}
        return Case("check_training", (*pair, (batches or regression)()), given)

    return make


def classify(torch_loss: Any, jax_loss: Any) -> Callable[[], Case]:
    return train(sgd(), optax.sgd(0.1), batches=classes, torch_loss=torch_loss, jax_loss=jax_loss)


def sgd(rate: float = 0.1, **settings: Any) -> Callable[[Any], Any]:
    return lambda parameters: torch.optim.SGD(parameters, rate, **settings)


def adam(rate: float = 1e-2, **settings: Any) -> Callable[[Any], Any]:
    return lambda parameters: torch.optim.Adam(parameters, rate, **settings)


def adamw(rate: float = 1e-2, **settings: Any) -> Callable[[Any], Any]:
    return lambda parameters: torch.optim.AdamW(parameters, rate, **settings)


def scheduled(make: Callable[[Any], Any], schedule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def both(parameters: Any) -> Any:
        optimizer = make(parameters)
        return optimizer, schedule(optimizer)

    return both


def no_decay_on_vectors(parameters: Any) -> Any:
    """As in many training scripts: biases and norms don't decay."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, 1e-2)


def matrices(parameters: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, parameters)


def cosine(steps: int = STEPS) -> Callable[[Any], Any]:
    return lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, steps)


def warmup(length: int) -> Callable[[Any], Any]:
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / length))


def stairs(optimizer: Any) -> Any:
    return lr_scheduler.StepLR(optimizer, 2, 0.5)


def plain_sgd_decay(rate: float, decay: float) -> Any:
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate))


def uncorrected_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam as typed from memory, without the bias correction."""

    def update(gradients: Any, state: Any, parameters: Any = None) -> Any:
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, gradients)
        nu = jax.tree.map(lambda n, g: b2 * n + (1 - b2) * g * g, state.nu, gradients)
        updates = jax.tree.map(lambda m, n: m / (jnp.sqrt(n) + eps), mu, nu)
        return updates, state._replace(count=state.count + 1, mu=mu, nu=nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def unused(stopped: bool = False) -> Callable[[], Any]:
    return lambda: (seeded(lambda: TorchNet(True)), FlaxNet(True, stopped))


def off_by_one(schedule: Any) -> Any:
    return lambda step: schedule(step + 1)


def smooth(factor: float) -> Callable[[Any, Any], Any]:
    return lambda out, y: F.cross_entropy(out, y, label_smoothing=factor)


def jax_smooth(factor: float) -> Callable[[Array, Array], Array]:
    def loss(logits: Array, targets: Array) -> Array:
        labels = optax.smooth_labels(jax.nn.one_hot(targets, 3), factor)
        return optax.softmax_cross_entropy(logits, labels).mean()

    return loss


WEIGHTS = (0.2, 1.0, 3.0)


def weighted(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(out, y, weight=torch.tensor(WEIGHTS, dtype=out.dtype))


def jax_weighted(divide: bool) -> Callable[[Array, Array], Array]:
    def loss(logits: Array, targets: Array) -> Array:
        each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        weights = jnp.asarray(WEIGHTS)[targets]
        return (weights * each).sum() / (weights.sum() if divide else each.shape[0])

    return loss


ENTRIES: dict[str, tuple[str, Any, Any, str, int, tuple[str, ...] | None]] = {
    # name: words, wrong, right, quantity, step, causes
    "adamw_for_adam": (
        "Adam's L2 decay ported to decoupled adamw", train(adam(weight_decay=0.1), optax.adamw(1e-2, weight_decay=0.1)),
        train(adam(weight_decay=0.1), optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2))),
        "moments", 1, ("decay_decoupled_for_l2",)),
    "l2_for_adamw": (
        "AdamW ported to L2 and Adam",
        train(adamw(weight_decay=0.1), optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2))),
        train(adamw(weight_decay=0.1), optax.adamw(1e-2, weight_decay=0.1)), "moments", 1, ("decay_l2_for_decoupled",)),
    "adamw_default_decay": (
        "default decay: 1e-2 in torch, 1e-4 in optax", train(adamw(), optax.adamw(1e-2)),
        train(adamw(), optax.adamw(1e-2, weight_decay=1e-2)), "update", 1, ("decay_value",)),
    "decay_on_biases": (
        "decay reaches biases and norms", train(no_decay_on_vectors, optax.adamw(1e-2, weight_decay=0.1)),
        train(no_decay_on_vectors, optax.adamw(1e-2, weight_decay=0.1, mask=matrices)), "update", 1, ("decay_mask",)),
    "decay_sign": (
        "decay chained after sgd: added to the update", train(sgd(weight_decay=0.1), optax.chain(optax.sgd(0.1), optax.add_decayed_weights(0.1))),
        train(sgd(weight_decay=0.1), plain_sgd_decay(0.1, 0.1)), "update", 1, ("decay_sign",)),
    "adam_epsilon": (
        "eps 1e-8 for torch's 1e-4", train(adam(eps=1e-4), optax.adam(1e-2)), train(adam(eps=1e-4), optax.adam(1e-2, eps=1e-4)),
        "update", 1, ("epsilon_value",)),
    "adam_epsilon_root": (
        "epsilon under the root", train(adam(eps=1e-3), optax.adam(1e-2, eps=0.0, eps_root=1e-6)),
        train(adam(eps=1e-3), optax.adam(1e-2, eps=1e-3)), "update", 1, ("epsilon_inside_root",)),
    "adam_beta2": (
        "b2 left at 0.999", train(adam(betas=(0.9, 0.95)), optax.adam(1e-2)), train(adam(betas=(0.9, 0.95)), optax.adam(1e-2, b2=0.95)),
        "moments", 1, ("beta2_value",)),
    "adam_no_correction": (
        "no bias correction", train(adam(), optax.chain(uncorrected_adam(), optax.scale(-1e-2))), None,
        "update", 1, ("bias_correction_missing",)),
    "rmsprop_defaults": (
        "RMSprop's defaults: decay 0.9 for 0.99 and epsilon under the root",
        train(lambda p: torch.optim.RMSprop(p, 1e-2), optax.rmsprop(1e-2)),
        train(lambda p: torch.optim.RMSprop(p, 1e-2), optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False)),
        "moments", 1, ("rmsprop_decay",)),
    "adagrad_start": (
        "Adagrad's accumulator starts at 0.1", train(lambda p: torch.optim.Adagrad(p, 0.1, eps=1e-7), optax.adagrad(0.1)),
        None, "moments", 1, ("accumulator_start",)),
    "momentum_as_average": (
        "optax.ema for momentum", train(sgd(momentum=0.9), optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1))),
        train(sgd(momentum=0.9), optax.sgd(0.1, momentum=0.9)), "moments", 1, ("momentum_average",)),
    "nesterov": (
        "Nesterov forgotten", train(sgd(momentum=0.9, nesterov=True), optax.sgd(0.1, momentum=0.9)),
        train(sgd(momentum=0.9, nesterov=True), optax.sgd(0.1, momentum=0.9, nesterov=True)), "update", 1, ("nesterov_missing",)),
    "dampening": (
        "dampening forgotten: seen from the second step", train(sgd(momentum=0.9, dampening=0.5), optax.sgd(0.1, momentum=0.9)),
        None, "moments", 2, ("dampening",)),
    "decay_after_momentum": (
        "decay added after the momentum: seen from the second step",
        train(sgd(momentum=0.9, weight_decay=0.1), optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1), optax.scale(-0.1))),
        train(sgd(momentum=0.9, weight_decay=0.1), optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))),
        "moments", 1, ("decay_after_momentum",)),
    "clip_by_value": (
        "clipped by value for norm", train(sgd(), optax.chain(optax.clip(0.2), optax.sgd(0.1)), clip=0.2), None,
        "update", 1, ("clip_value_for_norm",)),
    "clip_after_adam": (
        "update clipped, not the gradient", train(adam(), optax.chain(optax.scale_by_adam(), optax.clip_by_global_norm(0.2), optax.scale(-1e-2)), clip=0.2),
        None, "moments", 1, ("clip_after_moments",)),
    "clip_threshold": (
        "another threshold", train(sgd(), optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), clip=0.2), None,
        "update", 1, ("clip_threshold", "clip_missing")),
    "clip_each": (
        "each parameter by its own norm", train(sgd(), optax.chain(optax.clip_by_block_rms(0.05), optax.sgd(0.1)), clip=0.2), None,
        "update", 1, None),
    "accumulation_mean": (
        "MultiSteps averages, torch adds up", train(sgd(), optax.MultiSteps(optax.sgd(0.1), 2), accumulate=2),
        train(sgd(), optax.MultiSteps(optax.sgd(0.2), 2), accumulate=2), "update", 2, ("accumulation_mean",)),
    "accumulation_steps": (
        "steps after 3 batches for 2", train(sgd(), optax.MultiSteps(optax.sgd(0.3), 3), accumulate=2), None, "update", 2,
        ("accumulation_steps",)),
    "cosine_length": (
        "cosine over twice as many steps", train(scheduled(sgd(), cosine()), optax.sgd(optax.cosine_decay_schedule(0.1, 2 * STEPS)),
            learning_rate=optax.cosine_decay_schedule(0.1, 2 * STEPS)),
        train(scheduled(sgd(), cosine()), optax.sgd(optax.cosine_decay_schedule(0.1, STEPS)), learning_rate=optax.cosine_decay_schedule(0.1, STEPS)),
        "learning_rate", 2, ("schedule_unit", "learning_rate_schedule")),
    "warmup_off_by_one": (
        "warm-up starts from zero for 1/length", train(scheduled(sgd(), warmup(4)), optax.sgd(optax.linear_schedule(0.0, 0.1, 4)),
            learning_rate=optax.linear_schedule(0.0, 0.1, 4)),
        train(scheduled(sgd(), warmup(4)), optax.sgd(off_by_one(optax.linear_schedule(0.0, 0.1, 4))), learning_rate=off_by_one(optax.linear_schedule(0.0, 0.1, 4))),
        "learning_rate", 1, ("schedule_off_by_one", "warmup_shape")),
    "stairs_smooth": (
        "StepLR without staircase", train(scheduled(sgd(), stairs), optax.sgd(optax.exponential_decay(0.1, 2, 0.5)), learning_rate=optax.exponential_decay(0.1, 2, 0.5)),
        train(scheduled(sgd(), stairs), optax.sgd(optax.exponential_decay(0.1, 2, 0.5, staircase=True)), learning_rate=optax.exponential_decay(0.1, 2, 0.5, staircase=True)),
        "learning_rate", 2, ("staircase_missing",)),
    "rate_in_momentum": (
        "learning rate inside the momentum: late after a change",
        train(scheduled(sgd(momentum=0.9), stairs), optax.chain(optax.scale_by_schedule(lambda s: -0.1 * 0.5 ** (s // 2)), optax.trace(0.9))),
        train(scheduled(sgd(momentum=0.9), stairs), optax.sgd(lambda s: 0.1 * 0.5 ** (s // 2), momentum=0.9)),
        "moments", 1, ("rate_before_momentum",)),
    "loss_sum": (
        "squared errors summed over outputs", train(sgd(), optax.sgd(0.1), jax_loss=lambda o, y: ((o - y) ** 2).sum(-1).mean()), None,
        "loss", 1, ("loss_sum_for_mean",)),
    "loss_halved": (
        "optax.l2_loss", train(sgd(), optax.sgd(0.1), jax_loss=lambda o, y: optax.l2_loss(o, y).mean()), None, "loss", 1, ("loss_halved",)),
    "huber_for_smooth": (
        "Huber for smooth L1 with beta 0.5", train(sgd(), optax.sgd(0.1), torch_loss=lambda o, y: F.smooth_l1_loss(o, y, beta=0.5),
            jax_loss=lambda o, y: optax.huber_loss(o, y, delta=0.5).mean()), None, "loss", 1, ("loss_swapped", "loss_factor", "loss_halved")),
    "probabilities": (
        "softmax before the cross-entropy", classify(F.cross_entropy, lambda o, y: jax_ce(jax.nn.softmax(o), y)),
        classify(F.cross_entropy, jax_ce), "loss", 1, ("softmax_before_cross_entropy",)),
    "smoothing_missing": (
        "label smoothing forgotten", classify(smooth(0.1), jax_ce), classify(smooth(0.1), jax_smooth(0.1)), "loss", 1,
        ("label_smoothing_missing",)),
    "smoothing_value": (
        "another label smoothing", classify(smooth(0.1), jax_smooth(0.2)), None, "loss", 1, ("label_smoothing_value",)),
    "weights_unnormalised": (
        "class weights, divided by the batch and not by their sum", classify(weighted, jax_weighted(False)), classify(weighted, jax_weighted(True)),
        "loss", 1, ("class_weights_normalisation",)),
    "weights_missing": (
        "class weights forgotten", classify(weighted, jax_ce), None, "loss", 1, ("class_weights_missing",)),
    "unused_moves": (
        "an unused layer decays", train(adamw(weight_decay=0.1), optax.adamw(1e-2, weight_decay=0.1), unused()), None,
        "update", 1, ("unused_parameter_moved",)),
    "stop_gradient": (
        "stop_gradient left in", train(sgd(), optax.sgd(0.1), lambda: (seeded(TorchNet), FlaxNet(stopped=True))), None, "gradients", 1,
        ("gradient_stopped",)),
    "rate_tenfold": (
        "learning rate ten times too small", train(sgd(), optax.sgd(0.01)), train(sgd(), optax.sgd(0.1)), "update", 1, ("learning_rate_factor",)),
    "two_at_once": (
        "halved loss and forgotten Nesterov",
        train(sgd(momentum=0.9, nesterov=True), optax.sgd(0.1, momentum=0.9), jax_loss=lambda o, y: optax.l2_loss(o, y).mean()), None,
        "loss", 1, ("loss_halved",)),
}

BEHIND = {"two_at_once": frozenset({"nesterov_missing"}), "rmsprop_defaults": frozenset({"epsilon_inside_root"})}
FAMILY = Family(
    "training",
    {name: right for name, (_, _, right, _, _, _) in ENTRIES.items() if right},
    tuple(
        Mistake(
            name, words, wrong, (), None if causes is None else frozenset(causes), BEHIND.get(name), quantity=quantity, step=step,
        )
        for name, (words, wrong, _, quantity, step, causes) in ENTRIES.items()
    ),
)
