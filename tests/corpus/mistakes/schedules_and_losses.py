"""Mistakes in losses, schedules and accumulation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from torch.nn import functional as F

from tests.corpus.loops import (
    STEPS,
    FlaxNet,
    Loop,
    TorchNet,
    adamw,
    classify,
    cosine,
    family,
    jax_ce,
    off_by_one,
    scheduled,
    sgd,
    stairs,
    train,
    unused,
    warmup,
)
from tests.corpus.models import seeded

Array = jax.Array


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


LOOPS = {
    "accumulation_mean": Loop(
        "MultiSteps averages, torch adds up",
        train(sgd(), optax.MultiSteps(optax.sgd(0.1), 2), accumulate=2),
        train(sgd(), optax.MultiSteps(optax.sgd(0.2), 2), accumulate=2),
        "update",
        2,
        ("accumulation_mean",),
    ),
    "accumulation_steps": Loop(
        "steps after 3 batches for 2",
        train(sgd(), optax.MultiSteps(optax.sgd(0.3), 3), accumulate=2),
        None,
        "update",
        2,
        ("accumulation_steps",),
    ),
    "cosine_length": Loop(
        "cosine over twice as many steps",
        train(
            scheduled(sgd(), cosine()),
            optax.sgd(optax.cosine_decay_schedule(0.1, 2 * STEPS)),
            learning_rate=optax.cosine_decay_schedule(0.1, 2 * STEPS),
        ),
        train(
            scheduled(sgd(), cosine()),
            optax.sgd(optax.cosine_decay_schedule(0.1, STEPS)),
            learning_rate=optax.cosine_decay_schedule(0.1, STEPS),
        ),
        "learning_rate",
        2,
        ("schedule_unit", "learning_rate_schedule"),
    ),
    "warmup_off_by_one": Loop(
        "warm-up starts from zero for 1/length",
        train(
            scheduled(sgd(), warmup(4)),
            optax.sgd(optax.linear_schedule(0.0, 0.1, 4)),
            learning_rate=optax.linear_schedule(0.0, 0.1, 4),
        ),
        train(
            scheduled(sgd(), warmup(4)),
            optax.sgd(off_by_one(optax.linear_schedule(0.0, 0.1, 4))),
            learning_rate=off_by_one(optax.linear_schedule(0.0, 0.1, 4)),
        ),
        "learning_rate",
        1,
        ("schedule_off_by_one", "warmup_shape"),
    ),
    "stairs_smooth": Loop(
        "StepLR without staircase",
        train(
            scheduled(sgd(), stairs),
            optax.sgd(optax.exponential_decay(0.1, 2, 0.5)),
            learning_rate=optax.exponential_decay(0.1, 2, 0.5),
        ),
        train(
            scheduled(sgd(), stairs),
            optax.sgd(optax.exponential_decay(0.1, 2, 0.5, staircase=True)),
            learning_rate=optax.exponential_decay(0.1, 2, 0.5, staircase=True),
        ),
        "learning_rate",
        2,
        ("staircase_missing",),
    ),
    "rate_in_momentum": Loop(
        "learning rate inside the momentum: late after a change",
        train(
            scheduled(sgd(momentum=0.9), stairs),
            optax.chain(optax.scale_by_schedule(lambda s: -0.1 * 0.5 ** (s // 2)), optax.trace(0.9)),
        ),
        train(scheduled(sgd(momentum=0.9), stairs), optax.sgd(lambda s: 0.1 * 0.5 ** (s // 2), momentum=0.9)),
        "moments",
        1,
        ("rate_before_momentum",),
    ),
    "loss_sum": Loop(
        "squared errors summed over outputs",
        train(sgd(), optax.sgd(0.1), jax_loss=lambda o, y: ((o - y) ** 2).sum(-1).mean()),
        None,
        "loss",
        1,
        ("loss_sum_for_mean",),
    ),
    "loss_halved": Loop(
        "optax.l2_loss",
        train(sgd(), optax.sgd(0.1), jax_loss=lambda o, y: optax.l2_loss(o, y).mean()),
        None,
        "loss",
        1,
        ("loss_halved",),
    ),
    "huber_for_smooth": Loop(
        "Huber for smooth L1 with beta 0.5",
        train(
            sgd(),
            optax.sgd(0.1),
            torch_loss=lambda o, y: F.smooth_l1_loss(o, y, beta=0.5),
            jax_loss=lambda o, y: optax.huber_loss(o, y, delta=0.5).mean(),
        ),
        None,
        "loss",
        1,
        ("loss_swapped", "loss_factor", "loss_halved"),
    ),
    "probabilities": Loop(
        "softmax before the cross-entropy",
        classify(F.cross_entropy, lambda o, y: jax_ce(jax.nn.softmax(o), y)),
        classify(F.cross_entropy, jax_ce),
        "loss",
        1,
        ("softmax_before_cross_entropy",),
    ),
    "smoothing_missing": Loop(
        "label smoothing forgotten",
        classify(smooth(0.1), jax_ce),
        classify(smooth(0.1), jax_smooth(0.1)),
        "loss",
        1,
        ("label_smoothing_missing",),
    ),
    "smoothing_value": Loop(
        "another label smoothing",
        classify(smooth(0.1), jax_smooth(0.2)),
        None,
        "loss",
        1,
        ("label_smoothing_value",),
    ),
    "weights_unnormalised": Loop(
        "class weights, divided by the batch and not by their sum",
        classify(weighted, jax_weighted(False)),
        classify(weighted, jax_weighted(True)),
        "loss",
        1,
        ("class_weights_normalisation",),
    ),
    "weights_missing": Loop(
        "class weights forgotten",
        classify(weighted, jax_ce),
        None,
        "loss",
        1,
        ("class_weights_missing",),
    ),
    "unused_moves": Loop(
        "an unused layer decays",
        train(adamw(weight_decay=0.1), optax.adamw(1e-2, weight_decay=0.1), unused()),
        None,
        "update",
        1,
        ("unused_parameter_moved",),
    ),
    "stop_gradient": Loop(
        "stop_gradient left in",
        train(sgd(), optax.sgd(0.1), lambda: (seeded(TorchNet), FlaxNet(stopped=True))),
        None,
        "gradients",
        1,
        ("gradient_stopped",),
    ),
    "rate_tenfold": Loop(
        "learning rate ten times too small",
        train(sgd(), optax.sgd(0.01)),
        train(sgd(), optax.sgd(0.1)),
        "update",
        1,
        ("learning_rate_factor",),
    ),
    "another_optimizer": Loop(
        "SGD for Adam",
        train(lambda parameters: torch.optim.Adam(parameters, 1e-2), optax.sgd(1e-2)),
        None,
        "update",
        1,
        ("optimizer_swapped",),
    ),
    "two_at_once": Loop(
        "halved loss and forgotten Nesterov",
        train(
            sgd(momentum=0.9, nesterov=True),
            optax.sgd(0.1, momentum=0.9),
            jax_loss=lambda o, y: optax.l2_loss(o, y).mean(),
        ),
        None,
        "loss",
        1,
        ("loss_halved",),
        ("nesterov_missing",),
    ),
}

FAMILY = family("schedules_and_losses", LOOPS)
