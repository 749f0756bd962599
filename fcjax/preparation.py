"""From settings to a learner and its first state."""

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import optax
from flax import nnx

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset
from fcjax.distillation import Distillation
from fcjax.epoch import Plan
from fcjax.losses import Loss, smoothed
from fcjax.optimizers import make_optimizer
from fcjax.precision import Policy
from fcjax.schedules import make_schedule
from fcjax.train_state import PureModel, TrainState, create_state, stack_states
from fcjax.train_step import Learner

__all__ = ["ModelFactory", "policy_of", "prepare"]

ModelFactory = Callable[[nnx.Rngs], nnx.Module]


def prepare(
    model: nnx.Module | ModelFactory, dataset: Dataset, config: TrainConfig, loss: Loss, axis_name: str | None
) -> tuple[Learner, TrainState, str]:
    """The learner, the state before the first step (with several replicas stacked), and the model's name.

    Raises:
        UsageError: one module where each of several replicas needs its own, or label smoothing in regression.
    """
    optimizer = _optimizer(config, Plan(len(dataset.train), config.batch_size, 1).steps)
    pure, state, name = _initial_state(model, optimizer, config)
    learner = Learner(
        pure,
        dataset.task,
        loss,
        optimizer,
        dataset.input_scaling,
        dataset.target_scaling,
        axis_name,
        policy_of(config),
        _training_loss(loss, config),
        config.input_dropout,
        config.ema,
        config.adversarial,
        Distillation(config.teacher_share, config.temperature) if dataset.train.soft_targets is not None else None,
    )
    return learner, state, name


def policy_of(config: TrainConfig) -> Policy:
    """The precision that the settings ask for."""
    return Policy(config.precision, config.matmul)


def _initial_state(
    model: nnx.Module | ModelFactory, optimizer: optax.GradientTransformation, config: TrainConfig
) -> tuple[PureModel, TrainState, str]:
    """The model taken apart, its state before the first step (one per replica, stacked), and the model's name."""
    seeds = config.replica_seeds
    if isinstance(model, nnx.Module):
        if config.replicas > 1:
            raise UsageError(
                f"model: expected a function from nnx.Rngs to a module, since each of the {config.replicas} replicas "
                "starts from weights of its own; found one module"
            )
        modules = [model]
    else:
        modules = [model(nnx.Rngs(seed)) for seed in seeds]
    scale_loss = policy_of(config).scales_loss
    parts = [
        create_state(module, optimizer, seed, scale_loss=scale_loss, average=config.ema > 0)
        for module, seed in zip(modules, seeds, strict=True)
    ]
    states = [state for _, state in parts]
    if config.swept:
        states = [
            _with_number(state, config.swept[0], value) for state, value in zip(states, config.swept[1], strict=True)
        ]
    return parts[0][0], states[0] if len(states) == 1 else stack_states(states), type(modules[0]).__name__


def _with_number(state: TrainState, name: str, value: float) -> TrainState:
    """The state with another number of the optimiser's, such as its learning rate."""
    numbers = state.opt_state.numbers
    return replace(
        state, opt_state=state.opt_state._replace(numbers=numbers | {name: jnp.full_like(numbers[name], value)})
    )


def _optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """The update rule and its schedule; ``steps`` are those of an epoch."""
    schedule = make_schedule(
        config.schedule,
        config.epochs * steps,
        warmup=round(config.warmup * steps),
        every=max(1, round(config.step_epochs * steps)),
        decay=config.step_decay,
    )
    if config.swept:  # with its own number for each replica, put in later; here it only must not be absent
        config = replace(config, **{config.swept[0]: max(config.swept[1])}, sweep=None)  # type: ignore[arg-type]
    return make_optimizer(
        config.optimizer,
        config.learning_rate,
        schedule=schedule,
        weight_decay=config.weight_decay,
        decay_biases=config.decay_biases,
        momentum=config.momentum,
        nesterov=config.nesterov,
        clip_norm=config.clip_norm,
    )


def _training_loss(loss: Loss, config: TrainConfig) -> Loss | None:
    """The loss with smoothed labels, if that is asked for."""
    if not config.label_smoothing:
        return None
    try:
        return smoothed(loss, config.label_smoothing)
    except ValueError as error:
        raise UsageError(str(error)) from None
