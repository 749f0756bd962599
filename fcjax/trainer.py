"""Trains a model on a dataset: the loop over epochs. What runs on the devices is compiled elsewhere."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Split
from fcjax.epoch import Arrays, Plan, evaluate, train_epoch
from fcjax.losses import Loss, default_loss, smoothed
from fcjax.metrics import describe, figures
from fcjax.optimizers import make_optimizer
from fcjax.parallel import Parallel, make_parallel
from fcjax.precision import Policy
from fcjax.progress import Reporter
from fcjax.run_directory import RunDirectory
from fcjax.schedules import make_schedule
from fcjax.train_state import PureModel, TrainState, count_parameters, create_state, stack_states
from fcjax.train_step import Learner

__all__ = ["FitResult", "ModelFactory", "TrainingError", "fit"]

ModelFactory = Callable[[nnx.Rngs], nnx.Module]
Figures = dict[str, list[float]]  # name -> one number per replica
EVALUATION_BATCH = 1000


class TrainingError(UsageError):
    """Training can't go on: its loss is no longer a number."""


@dataclass(frozen=True)
class FitResult:
    """What training gave.

    Args:
        models: one trained module per replica, in evaluation mode.
        summary: what ``summary.json`` holds; ``summary["test"]`` maps a metric to one number per replica.
        history: what ``metrics.jsonl`` holds, one entry per epoch.
        state: the final arrays; with several replicas every leaf has a leading replica axis.
    """

    models: list[nnx.Module] = field(repr=False)
    summary: dict[str, Any]
    history: list[dict[str, Any]] = field(repr=False)
    state: TrainState = field(repr=False)

    @property
    def model(self) -> nnx.Module:
        """The trained module (the first one of several replicas)."""
        return self.models[0]


def fit(
    model: nnx.Module | ModelFactory,
    dataset: Dataset,
    config: TrainConfig | None = None,
    *,
    loss: Loss | None = None,
    progress: bool = True,
) -> FitResult:
    """Trains ``model`` on ``dataset``; an epoch is one compiled program on all the devices.

    >>> result = fit(lambda rngs: MNISTClassifier(rngs=rngs), load("digits"))  # doctest: +SKIP
    >>> result.summary["test"]["accuracy"]  # doctest: +SKIP
    [0.98]

    Args:
        model: a module, which stays as it is, or a function from ``nnx.Rngs`` to a module, called once per replica.
            If the module's ``__call__`` has an argument ``rngs`` it gets one key per row while training.
        dataset: training, test and perhaps validation split, as NumPy arrays.
        config: the settings; ``task``, ``model`` and ``data_dir`` are only recorded. With ``run_dir`` None nothing is
            written.
        loss: one number per example from outputs and targets; by default cross-entropy or the squared error.
        progress: shows what happens on standard output.

    Raises:
        UsageError: a setting and the data don't go together, or ``run_dir`` holds a run already.
        TrainingError: the training loss became infinite or NaN.
        DataError: the data holds NaN or infinite values, labels out of range, or no samples.
    """
    config = config or TrainConfig()
    config.check()
    directory = RunDirectory(config.run_dir) if config.run_dir else None
    if directory:
        directory.refuse_existing()
    if config.batch_size > len(dataset.train):
        raise UsageError(
            f"batch_size: expected at most {len(dataset.train)}, the size of the training set of "
            f"{dataset.name}; found {config.batch_size}"
        )
    parallel = make_parallel(config.strategy, config.devices)
    if directory:
        directory.create(config.to_json())
    with Reporter(config.epochs, progress) as reporter:
        reporter.say(_where(parallel, config))
        run = _Run.prepare(model, dataset, config, loss or default_loss(dataset.task), parallel)
        reporter.say(f"{run.name}, {run.parameters:,} parameters; compiled in {run.compile_seconds:.1f} s")
        for number in range(1, config.epochs + 1):
            run.epoch(number)
            if directory:
                directory.append_metrics(run.history[-1])
            run.report(number, reporter)
        result = run.finish()
        if directory:
            directory.write_weights(named_arrays(result.state), {"format": "fcjax", "seeds": json.dumps(run.seeds)})
            directory.write_summary(result.summary)
            reporter.say(f"results in {directory.path}")
    return result


@dataclass
class _Run:
    """A run under way: compiled programs, data on the devices, and what has been measured."""

    config: TrainConfig
    dataset: Dataset
    parallel: Parallel
    name: str
    pure: PureModel
    state: TrainState
    parameters: int
    train: Callable[[TrainState], tuple[TrainState, Any]]
    evaluations: dict[str, Callable[[TrainState], Any]]
    compile_seconds: float
    started: float
    train_seconds: float = 0.0
    loop_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def prepare(
        cls,
        model: nnx.Module | ModelFactory,
        dataset: Dataset,
        config: TrainConfig,
        loss: Loss,
        parallel: Parallel,
    ) -> "_Run":
        """Initial state, data on the devices, programs compiled."""
        started = time.perf_counter()
        optimizer = _optimizer(config, Plan(len(dataset.train), config.batch_size, 1).steps)
        policy = _policy(config)
        pure, state, name = _initial_state(model, optimizer, config)
        parameters = count_parameters(state.params) // config.seeds
        learner = Learner(
            pure,
            dataset.task,
            loss,
            optimizer,
            dataset.input_scaling,
            dataset.target_scaling,
            parallel.axis_name,
            policy,
            _training_loss(loss, config),
            config.input_dropout,
            config.ema,
        )
        state = parallel.replicate(state)
        train, compile_seconds = _program(learner, parallel, train_epoch, state, dataset.train, config)
        evaluations = {}
        for part, split in dataset.parts().items():
            if part != "train":
                evaluations[part], seconds = _program(learner, parallel, evaluate, state, split, config)
                compile_seconds += seconds
        return cls(
            config, dataset, parallel, name, pure, state, parameters, train, evaluations, compile_seconds, started
        )

    @property
    def seeds(self) -> list[int]:
        """The seeds of the replicas."""
        return [self.config.seed + k for k in range(self.config.seeds)]

    def epoch(self, number: int) -> None:
        """Trains for one epoch, evaluates, and records both; ``number`` counts from 1."""
        started = time.perf_counter()
        self.state, sums = jax.block_until_ready(self.train(self.state))
        seconds = time.perf_counter() - started
        self.train_seconds += seconds
        entry: dict[str, Any] = {"epoch": number, "step": number * self._steps}
        entry["train"] = self._figures(sums, self.dataset.train)
        self._expect_finite(entry["train"]["loss"], number)
        if (scale := self.state.loss_scale) is not None:
            entry["loss_scale"] = np.atleast_1d(jax.device_get(scale.value)).tolist()
            entry["skipped_steps"] = np.atleast_1d(jax.device_get(scale.skipped)).tolist()
        for name, program in self.evaluations.items():
            entry[name] = self._figures(program(self.state), self.dataset.parts()[name])
        self.loop_seconds += time.perf_counter() - started
        entry["samples_per_second"] = round(self._samples / seconds, 1)
        entry["seconds"] = round(seconds, 4)
        self.history.append(entry)

    def report(self, number: int, reporter: Reporter) -> None:
        """Shows the last epoch."""
        entry = self.history[-1]
        means = {name: float(np.mean(values)) for name, values in entry["test"].items()}
        loss = float(np.mean(entry["train"]["loss"]))
        remaining = self.loop_seconds / number * (self.config.epochs - number)
        reporter.epoch(number, loss, f"test {describe(means)}", entry["samples_per_second"], remaining)

    def finish(self) -> FitResult:
        """Trained modules and the summary."""
        state = jax.device_get(self.state)
        replicas = [state] if self.config.seeds == 1 else [_replica(state, k) for k in range(self.config.seeds)]
        last = self.history[-1]
        summary = {
            "task": self.dataset.name,
            "model": self.name,
            "parameters": self.parameters,
            "strategy": self.config.strategy,
            **_policy(self.config).on(self.parallel.devices[0].platform),
            "devices": [str(device) for device in self.parallel.devices],
            "seeds": self.seeds,
            "epochs": self.config.epochs,
            **{name: last[name] for name in self.evaluations},
            "samples_per_second": round(self._samples * len(self.history) / self.train_seconds, 1),
            "compile_seconds": round(self.compile_seconds, 3),
            "wall_seconds": round(time.perf_counter() - self.started, 3),
        }
        models = [self.pure.build(*jax.tree.map(jnp.asarray, (one.evaluated, one.buffers))) for one in replicas]
        return FitResult(models, summary, self.history, state)

    @property
    def _steps(self) -> int:
        return Plan(len(self.dataset.train), self.config.batch_size, 1).steps

    @property
    def _samples(self) -> int:
        """Samples trained on per epoch, those of all replicas counted."""
        return len(self.dataset.train) * self.config.seeds

    def _figures(self, sums: Any, split: Split) -> Figures:
        host = {name: np.atleast_1d(values) for name, values in jax.device_get(sums).items()}
        one_each = [
            figures({name: values[k] for name, values in host.items()}, self.dataset, split.targets)
            for k in range(self.config.seeds)
        ]
        return {name: [one[name] for one in one_each] for name in one_each[0]}

    def _expect_finite(self, losses: list[float], number: int) -> None:
        for seed, loss in zip(self.seeds, losses, strict=True):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"epoch {number}: expected a finite training loss, found {loss} (seed {seed}); "
                    f"a learning rate below {self.config.learning_rate} may help"
                )


def named_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """The parameters that evaluation uses, and the buffers, by dotted Flax path, ``{"fc1.kernel": ...}``."""
    leaves = [
        *jax.tree_util.tree_leaves_with_path(state.evaluated),
        *jax.tree_util.tree_leaves_with_path(state.buffers),
    ]
    return {".".join(str(entry.key) for entry in path): np.asarray(leaf) for path, leaf in leaves}


def _initial_state(
    model: nnx.Module | ModelFactory, optimizer: optax.GradientTransformation, config: TrainConfig
) -> tuple[PureModel, TrainState, str]:
    """The model taken apart, its state before the first step (one per replica, stacked), and the model's name."""
    seeds = range(config.seed, config.seed + config.seeds)
    if isinstance(model, nnx.Module):
        if config.seeds > 1:
            raise UsageError(
                f"model: expected a function from nnx.Rngs to a module, since each of the {config.seeds} replicas "
                "starts from weights of its own; found one module"
            )
        modules = [model]
    else:
        modules = [model(nnx.Rngs(seed)) for seed in seeds]
    scale_loss = _policy(config).scales_loss
    parts = [
        create_state(module, optimizer, seed, scale_loss=scale_loss, average=config.ema > 0)
        for module, seed in zip(modules, seeds, strict=True)
    ]
    states = [state for _, state in parts]
    return parts[0][0], states[0] if len(states) == 1 else stack_states(states), type(modules[0]).__name__


def _program(
    learner: Learner, parallel: Parallel, function: Callable[..., Any], state: TrainState, split: Split, c: TrainConfig
) -> tuple[Callable[[TrainState], Any], float]:
    """``train_epoch`` or ``evaluate`` compiled for one split, whose arrays stay on the devices; and the seconds."""
    training = function is train_epoch
    rows = c.batch_size if training else min(EVALUATION_BATCH, len(split))
    plan = Plan(len(split), rows, len(parallel.devices))
    data = parallel.replicate(Arrays(jnp.asarray(split.inputs), jnp.asarray(split.targets)))
    one = partial(function, learner, plan)
    program, seconds = parallel.compile(one, state, data, replicas=c.seeds, donate=training)
    return lambda state: program(state, data), seconds


def _where(parallel: Parallel, config: TrainConfig) -> str:
    """In words: what it runs on."""
    kinds = sorted({device.device_kind for device in parallel.devices})
    count = len(parallel.devices)
    names = _policy(config).on(parallel.devices[0].platform)
    arithmetic = names["precision"] + (" multiplied in TF32" if names["matmul"] == "tf32" else "")
    return f"{config.strategy} on {count} device{'s' * (count > 1)} ({', '.join(kinds)}), {arithmetic}"


def _optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """The update rule and its schedule; ``steps`` are those of an epoch."""
    schedule = make_schedule(
        config.schedule,
        config.epochs * steps,
        warmup=round(config.warmup * steps),
        every=max(1, round(config.step_epochs * steps)),
        decay=config.step_decay,
    )
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


def _policy(config: TrainConfig) -> Policy:
    return Policy(config.precision, config.matmul)


def _replica(state: TrainState, number: int) -> TrainState:
    return jax.tree.map(lambda leaf: leaf[number], state)
