"""Trains a model on a dataset: the loop over epochs. What runs on the devices is compiled elsewhere."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fcjax.agreement import everyone
from fcjax.config import TrainConfig
from fcjax.datasets import Dataset, with_computed_features
from fcjax.distributed import connect, explaining_a_lost_process, refuse_disagreement
from fcjax.ensemble import ensemble_figures
from fcjax.feeding import Streamed
from fcjax.interruption import Interruption, TrainingInterrupted
from fcjax.losses import Loss, default_loss
from fcjax.metrics import describe, mean
from fcjax.parallel import Parallel, make_parallel
from fcjax.preparation import ModelFactory, policy_of, prepare
from fcjax.programs import Programs
from fcjax.progress import Reporter
from fcjax.recording import Recorder
from fcjax.run import Run, TrainingError
from fcjax.run_directory import RunDirectory
from fcjax.task_data import refuse_for_data
from fcjax.train_state import TrainState, count_parameters
from fcjax.train_step import Learner

__all__ = ["FitResult", "ModelFactory", "TrainingError", "TrainingInterrupted", "fit"]


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
    files: Mapping[str, str] | None = None,
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
            written. With ``resume`` the run in ``run_dir`` goes on, to the same end bit by bit.
        loss: one number per example from outputs and targets; by default cross-entropy or the squared error.
        progress: shows what happens on standard output.
        files: further files for ``run_dir``, texts by name, written before training.

    Raises:
        UsageError: a setting and the data don't go together, or ``run_dir`` holds a run already, or one that can't be
            resumed.
        CheckpointError: a checkpoint can't be written; those before it are intact.
        TrainingInterrupted: SIGINT or SIGTERM came, and the run was saved in ``run_dir``.
        TrainingError: the training loss became infinite or NaN.
        DataError: the data holds NaN or infinite values, labels out of range, or no samples.
    """
    config = config or TrainConfig()
    config.check()
    refuse_for_data(config, dataset)
    started = time.perf_counter()
    connect(config)
    dataset = with_computed_features(dataset)
    refuse_disagreement(config, dataset)
    parallel = make_parallel(config.strategy, config.devices)
    learner, state, name = prepare(model, dataset, config, loss or default_loss(dataset.task), parallel.axis_name)
    records = everyone(config.run_dir is not None)[0]  # process 0 writes for all
    recorder = Recorder(RunDirectory(config.run_dir or Path()), config, files) if records else None
    with (
        Reporter(config.epochs, progress and jax.process_index() == 0) as reporter,
        recorder or nullcontext(),
        Interruption(recorder is not None) as interruption,
    ):
        reporter.say(_where(parallel, config))
        parameters = count_parameters(state.params) // config.replicas
        state = parallel.replicate(state)
        programs = Programs(learner, parallel, dataset, config, state)
        reporter.say(f"{name}, {parameters:,} parameters; compiled in {programs.compile_seconds:.1f} s")
        if isinstance(programs.feed, Streamed):
            reporter.say(str(programs.feed))
        run = Run(config, dataset, parallel, programs, state)
        with explaining_a_lost_process():
            if recorder:
                recorder.open(run, dataset, reporter.say)
            _train(run, recorder, reporter, interruption)
        about = {"task": dataset.name, "model": name, "parameters": parameters}
        result = _result(run, learner, about, started)
        if recorder:
            recorder.close(run, result.summary)
            reporter.say(f"results in {config.run_dir}")
    return result


def _train(run: Run, recorder: Recorder | None, reporter: Reporter, interruption: Interruption) -> None:
    """To the end, or to the first segment boundary after a signal to any of the processes."""
    first = run.epoch
    while not run.finished:
        signum = max(everyone(interruption.received or 0))
        if recorder and signum:
            recorder.save(run)
            recorder.wait()
            raise TrainingInterrupted(
                signum, f"stopped by {Signals(signum).name} after step {run.step}, saved in {run.config.run_dir}"
            )
        ended = run.segment()
        if recorder:
            recorder.after_segment(run, ended)
        if ended:
            _report(run, run.loop_seconds / (run.epoch - first), reporter)


def _report(run: Run, seconds: float, reporter: Reporter) -> None:
    """Shows the last epoch; ``seconds`` is what an epoch takes."""
    entry = run.history[-1]
    means = {name: mean(values) for name, values in entry["test"].items()}
    loss = mean(entry["train"]["loss"])
    remaining = seconds * (run.config.epochs - run.epoch)
    reporter.epoch(run.epoch, loss, f"test {describe(means)}", entry["samples_per_second"], remaining)


def _result(run: Run, learner: Learner, about: dict[str, Any], started: float) -> FitResult:
    """Trained modules and the summary."""
    config, figures = run.config, run.settle()
    state = jax.device_get(run.state)
    replicas = [state] if config.replicas == 1 else [_replica(state, k) for k in range(config.replicas)]
    summary = {
        **about,
        "strategy": config.strategy,
        **policy_of(config).on(run.parallel.devices[0].platform),
        "devices": [str(device) for device in run.parallel.devices],
        "seeds": run.seeds,
        **({"sweep": {config.swept[0]: list(config.swept[1])}} if config.swept else {}),
        "epochs": config.epochs,
        **({"best_epochs": [standing.best for standing in run.standings]} if run.standings else {}),
        **figures,
        "samples_per_second": round(run.samples * len(run.history) / run.train_seconds, 1),
        "compile_seconds": round(run.programs.compile_seconds, 3),
        "wall_seconds": round(time.perf_counter() - started, 3),
    }
    models = [learner.model.build(*jax.tree.map(jnp.asarray, (one.evaluated, one.buffers))) for one in replicas]
    if len(models) > 1:
        summary["ensemble"] = ensemble_figures(models, run.dataset, run.dataset.test)
    return FitResult(models, summary, run.history, state)


def _where(parallel: Parallel, config: TrainConfig) -> str:
    """In words: what it runs on."""
    kinds = sorted({device.device_kind for device in parallel.devices})
    count = len(parallel.devices)
    names = policy_of(config).on(parallel.devices[0].platform)
    arithmetic = names["precision"] + (" multiplied in TF32" if names["matmul"] == "tf32" else "")
    return f"{config.strategy} on {count} device{'s' * (count > 1)} ({', '.join(kinds)}), {arithmetic}"


def _replica(state: TrainState, number: int) -> TrainState:
    return jax.tree.map(lambda leaf: leaf[number], state)
