"""Everything there is to see of a finished run: its layers, its course, its mistakes; as text and as pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset
from fcjax.diagnostics import layer_activations, layer_statistics, statistics_table
from fcjax.prediction import Run, load_run
from fcjax.summary import summary
from fcjax.task_data import load_data

__all__ = ["inspect_run"]

METRICS = "metrics.jsonl"
SAMPLES = 512
"""Samples of the test set whose activations are looked at."""


def inspect_run(folder: Path, out: Path | None = None, say: Callable[[str], None] = print) -> list[Path]:
    """Says what the run's layers hold and do, and draws it.

    Args:
        folder: of a finished run.
        out: folder for the pictures; ``plots`` in the run's folder where not given.
        say: takes the text, line by line.

    Returns:
        The PNG files: weights of each layer, activations, course of training, and the confusion matrix or predicted
        against true values on the test set. Of several replicas the first is looked into; all predict together.

    Raises:
        UsageError: there is no finished run, or no folder to write to.
        DataError: the run's data is not there any more.
    """
    from fcjax import plots

    run = load_run(folder)
    history = _history(folder / METRICS)
    dataset = load_data(_config(run))[0]
    out = out or folder / "plots"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: expected a folder to write to, found: {error.strerror}") from None
    x = run.network_inputs(dataset.test.inputs[:SAMPLES])
    say(str(summary(run.model, jax.ShapeDtypeStruct(x.shape, jnp.float32))))
    activations = layer_activations(run.model, x)
    say("")
    say(f"outputs for {len(x)} samples of the test set")
    say(statistics_table(layer_statistics(activations)))
    files = []
    for path, kernel in _kernels(run.model):
        files.append(out / f"weights-{path}.png")
        plots.weight_heatmap(kernel, path, files[-1])
    files.append(out / "activations.png")
    plots.activation_histogram(activations, files[-1])
    files.append(out / "curves.png")
    plots.curves(history, files[-1])
    files.append(_draw_test(run, dataset, out))
    return files


def _history(file: Path) -> list[dict[str, Any]]:
    """What was written after each epoch."""
    try:
        history = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        named = [_names(entry) for entry in history]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{file}: expected a line of JSON for each epoch, found: {error}") from None
    other = next((n for n, names in enumerate(named, start=1) if names != named[0]), None if named else 1)
    if other is not None:
        raise UsageError(
            f"{file}: expected a line of JSON for each epoch, found other figures, or none, in line {other}"
        )
    return history


def _names(entry: dict[str, Any]) -> dict[str, list[str]]:
    """Names of the figures of each part; a ``LookupError`` or ``TypeError`` where it is no entry of an epoch."""
    _ = entry["epoch"], entry["train"]["loss"], entry["test"]["loss"]
    return {part: sorted(entry[part]) for part in ("train", "validation", "test") if part in entry}


def _config(run: Run) -> TrainConfig:
    """The run's settings again.

    Raises:
        UsageError: they are not as they were written.
    """
    known = set(TrainConfig.__dataclass_fields__)
    values: dict[str, Any] = {name: value for name, value in run.config.items() if name in known}
    for name in ("data_dir", "run_dir", "file"):
        values[name] = None if values.get(name) is None else Path(str(values[name]))
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    settings: Any = values | lists
    config = TrainConfig(**settings)
    try:
        config.check()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{run.path / 'config.json'}: expected the settings of a run, found: {error}") from None
    return config


def _kernels(model: nnx.Module) -> list[tuple[str, np.ndarray]]:
    """Every layer's weights ``(in, out)`` by its dotted path."""
    state = nnx.as_pure(nnx.state(model, nnx.Param))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = [(".".join(str(entry.key) for entry in path), np.asarray(leaf)) for path, leaf in leaves]
    return [(name.removesuffix(".kernel"), leaf) for name, leaf in named if name.endswith("kernel") and leaf.ndim == 2]


def _draw_test(run: Run, dataset: Dataset, out: Path) -> Path:
    from fcjax import plots

    predictions = run.predict(dataset.test.inputs)
    if run.task == "classification":
        file = out / "confusion.png"
        plots.confusion_matrix(dataset.test.targets, predictions.argmax(axis=1), run.classes, file)
    else:
        file = out / "predicted-against-true.png"
        plots.predicted_against_true(dataset.test.targets, predictions, file)
    return file
