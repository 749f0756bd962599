"""A finished run, loaded again: its models, the inputs they expect, and what they predict."""

import json
import math
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fcjax.config import UsageError
from fcjax.datasets import DataError, Dataset, Preprocessing, Scaling
from fcjax.datasets.features import Encoding, from_json
from fcjax.digests import array_digest, text_digest
from fcjax.tasks import ModelSpec

__all__ = ["Run", "describe_run", "load_run"]

FORMAT = "fcjax model 1"
MODEL, PREPROCESSING, WEIGHTS = "model.json", "preprocessing.json", "weights.safetensors"
ROWS = 500  # at once


@dataclass(frozen=True)
class Run:
    """The outcome of a run.

    Args:
        path: its folder.
        config: its settings.
        spec: the network.
        models: one per replica, in evaluation mode.
        task: ``"classification"`` or ``"regression"``.
        input_shape: of one sample.
        input_scaling, target_scaling: how the network sees inputs (perhaps encoded) and targets; None for as they are.
        classes: names of the classes, empty in regression.
        preprocessing: of the user's own table, else None.
    """

    path: Path
    config: dict[str, Any] = field(repr=False)
    spec: ModelSpec
    models: list[nnx.Module] = field(repr=False)
    task: str
    input_shape: tuple[int, ...]
    input_scaling: Scaling | Encoding | None = field(repr=False)
    target_scaling: Scaling | None = field(repr=False)
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None = field(repr=False)

    @property
    def model(self) -> nnx.Module:
        """The network (the first of several replicas)."""
        return self.models[0]

    def network_inputs(self, inputs: NDArray[Any]) -> jax.Array:
        """``inputs`` as the network sees them: checked, and brought to scale.

        Args:
            inputs: uint8 or floating-point samples of shape ``(n, *input_shape)``, or ``(n, features)``.

        Raises:
            UsageError: another shape, or values that are not finite.
        """
        if inputs.dtype.kind not in "buif" or not inputs.size:
            raise UsageError(f"inputs: expected samples of real numbers, found {inputs.dtype} of shape {inputs.shape}")
        count = len(inputs) if inputs.ndim else 1
        expected = (count, *self.input_shape)
        if inputs.shape not in (expected, (count, math.prod(self.input_shape))):
            raise UsageError(
                f"inputs: expected shape (n, {', '.join(map(str, self.input_shape))}), found {inputs.shape}"
            )
        with np.errstate(over="ignore"):  # what float32 can't hold is infinite, and refused
            x = np.asarray(inputs.reshape(expected), np.float32)
        if not np.isfinite(x).all():
            row = int(np.argwhere(~np.isfinite(x))[0][0])
            raise UsageError(f"inputs: expected finite numbers, found others in row {row}")
        return jnp.asarray(x if self.input_scaling is None else self.input_scaling.apply(x))

    def predict_each(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """What each replica says: probabilities ``(replicas, n, classes)``, or values ``(replicas, n, outputs)``.

        The answer for a row is the same to the last bit whatever rows stand beside it.
        """
        x = self.network_inputs(inputs)
        # Blocks of one size: how a sum is rounded depends on the number of rows, and a row's answer must not.
        padded = jnp.pad(x, [(0, -len(x) % ROWS), *[(0, 0)] * (x.ndim - 1)])
        blocks = [padded[i : i + ROWS] for i in range(0, len(padded), ROWS)]
        results = []
        for model in self.models:
            outputs = np.concatenate([np.asarray(model(block)) for block in blocks])[: len(x)]
            if self.task == "classification":
                outputs = np.asarray(jax.nn.softmax(outputs))  # softmax of log-probabilities gives probabilities
            elif self.target_scaling is not None:
                outputs = self.target_scaling.inverse(outputs)
            results.append(outputs.astype(np.float32))
        return np.stack(results)

    def predict(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """The mean over the replicas of ``predict_each``: of several, an ensemble."""
        return self.predict_each(inputs).mean(axis=0)

    def labels(self, predictions: NDArray[np.float32]) -> list[str]:
        """Names of the likeliest classes, from probabilities ``(n, classes)``."""
        return [self.classes[k] for k in predictions.argmax(axis=1)]


def describe_run(spec: ModelSpec, dataset: Dataset, preprocessing: Preprocessing | None) -> dict[str, str]:
    """Files, name -> text, that ``load_run`` needs besides settings and weights."""

    seen, measured = dataset.encoding or dataset.input_scaling, dataset.target_scaling
    names = preprocessing.target.classes if preprocessing else tuple(str(k) for k in range(dataset.classes or 0))
    record = {
        "format": FORMAT,
        "task": dataset.task,
        "model": spec.to_json(),
        "input_shape": list(dataset.train.inputs.shape[1:]),
        "input_scaling": None if seen is None else seen.to_json(),
        "target_scaling": None if measured is None else measured.to_json(),
        "classes": list(names),
    }
    files = {MODEL: json.dumps(record, indent=2, allow_nan=False) + "\n"}
    return files if preprocessing is None else files | {PREPROCESSING: preprocessing.to_json() + "\n"}


def load_run(path: str | PathLike[str]) -> Run:
    """The run in the folder ``path``, as ``fcjax train`` left it.

    >>> run = load_run("runs/mnist")  # doctest: +SKIP
    >>> run.predict(images)  # doctest: +SKIP

    Raises:
        UsageError: there is no finished run, or a file is damaged.
    """
    folder = Path(path)
    try:
        run = _loaded(folder)
        _refuse_changed(folder)
    except (UsageError, DataError):
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a field is missing, or is another thing
        raise UsageError(
            f"{folder / MODEL}: expected the description of a run, found one that is damaged "
            f"({type(error).__name__}: {error})"
        ) from None
    return run


def _loaded(folder: Path) -> Run:
    config, record = (_read_json(folder / name) for name in ("config.json", MODEL))
    if record.get("format") != FORMAT:
        raise UsageError(f"{folder / MODEL}: expected the format {FORMAT!r}, found {record.get('format')!r}")
    spec = ModelSpec(**record["model"])
    preprocessing = Preprocessing.load(folder / PREPROCESSING) if config["task"] == "table" else None

    seen, measured = record["input_scaling"], record["target_scaling"]
    return Run(
        folder,
        config,
        spec,
        _read_models(folder / WEIGHTS, spec),
        record["task"],
        tuple(record["input_shape"]),
        None if seen is None else from_json(seen),
        None if measured is None else Scaling(**measured),
        tuple(record["classes"]),
        preprocessing,
    )


def _refuse_changed(folder: Path) -> None:
    """Raises a ``UsageError`` where a file that says what the weights mean is not the one they were written with."""
    with safe_open(folder / WEIGHTS, framework="numpy") as weights:
        digests = json.loads(weights.metadata()["fcjax"]).get("files", {})
    for name in (MODEL, PREPROCESSING):
        file = folder / name
        if name in digests and text_digest(file.read_text(encoding="utf-8")) != digests[name]:
            raise UsageError(f"{file}: expected it as {WEIGHTS} was written with it, found it changed since")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: expected a finished run of fcjax train, found: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{file}: can't be read as JSON ({error})") from None
    if not isinstance(record, dict):
        raise UsageError(f"{file}: expected a JSON object, found {type(record).__name__}")
    return record


def _read_models(file: Path, spec: ModelSpec) -> list[nnx.Module]:
    """One model per replica, every array of it from the file and every array of the file in it."""
    try:
        with safe_open(file, framework="numpy") as weights:
            about = json.loads(weights.metadata()["fcjax"])
            replicas = len(about["seeds"])
            arrays = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: expected the weights of a run, found: {error}") from None
    if about.get("sha256", array_digest(arrays)) != array_digest(arrays):
        raise UsageError(f"{file}: expected the weights as they were written, found them changed: is the disk damaged?")
    models = []
    for k in range(replicas):
        model = spec(nnx.Rngs(0))
        model.eval()
        state = nnx.state(model, nnx.Not(nnx.RngState))
        leaves, structure = jax.tree_util.tree_flatten_with_path(nnx.as_pure(state))
        names = [".".join(str(entry.key) for entry in path) for path, _ in leaves]
        own = {name: array[k] if replicas > 1 else array for name, array in arrays.items()}
        wrong = [
            f"{name} {own[name].shape if name in own else 'missing'}, expected {leaf.shape}"
            for name, (_, leaf) in zip(names, leaves, strict=True)
            if name not in own or own[name].shape != leaf.shape
        ]
        wrong += [f"{name} unexpected" for name in own if name not in names]
        if wrong:
            raise UsageError(f"{file}: its arrays are not those of {spec.name}: {'; '.join(wrong)}")
        nnx.update(model, jax.tree.unflatten(structure, [jnp.asarray(own[name]) for name in names]))
        models.append(model)
    return models
