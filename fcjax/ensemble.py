"""Several replicas that answer together: for the price of one run, usually better than any of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fcjax.datasets import Dataset, Split

__all__ = ["ensemble_figures"]

ROWS = 1000  # at once


def ensemble_figures(models: list[nnx.Module], dataset: Dataset, split: Split) -> dict[str, float]:
    """How well the mean of the replicas does: ``accuracy`` of averaged probabilities, or ``rmse`` of averaged values.

    Args:
        models: in evaluation mode.
        dataset: says what is learned and on which scales.
        split: what they are measured on.
    """
    total: Any = 0.0
    for model in models:
        total = total + np.concatenate(
            [_answers(model, dataset, split.inputs[first : first + ROWS]) for first in range(0, len(split), ROWS)]
        )
    mean = total / len(models)
    if dataset.task == "classification":
        return {"accuracy": float((mean.argmax(axis=1) == split.targets).mean())}
    return {"rmse": float(np.sqrt(np.square(mean - split.targets.astype(np.float64)).mean()))}


def _answers(model: Any, dataset: Dataset, inputs: np.ndarray) -> np.ndarray:
    """Probabilities ``(rows, classes)``, or values in the target's unit ``(rows, outputs)``."""
    x = inputs.astype(np.float32)
    outputs = model(jnp.asarray(x if dataset.input_scaling is None else dataset.input_scaling.apply(x)))
    if dataset.task == "classification":
        return np.asarray(jax.nn.softmax(outputs), np.float64)  # of log-probabilities: the probabilities
    values = np.asarray(outputs, np.float64)
    return values if dataset.target_scaling is None else dataset.target_scaling.inverse(values)
