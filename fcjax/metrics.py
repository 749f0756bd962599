"""Metrics in two halves: sums over samples on the device, and the figures made of them on the host."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from fcjax.datasets import Dataset

__all__ = ["Sums", "describe", "figures", "mean", "measure"]

Sums = dict[str, jax.Array]


def measure(task: str, outputs: jax.Array, targets: jax.Array, losses: jax.Array, mask: jax.Array) -> Sums:
    """Sums over the real rows of a batch. Adding them up over batches and devices loses and repeats no sample.

    Args:
        task: ``"classification"`` or ``"regression"``.
        outputs: shape ``(batch, classes)`` or ``(batch, outputs)``.
        targets: labels of shape ``(batch,)``, or values of shape ``(batch, outputs)``.
        losses: shape ``(batch,)``.
        mask: True for real rows, False for padding; shape ``(batch,)``.

    Returns:
        Scalars ``count`` and ``loss``, and ``correct``, or ``squared`` and ``absolute`` of shape ``(outputs,)``.
    """
    sums = {"count": mask.sum(dtype=jnp.int32), "loss": jnp.where(mask, losses, 0).sum()}
    if task == "classification":
        correct = mask & (outputs.argmax(axis=-1) == targets)
        return sums | {"correct": correct.sum(dtype=jnp.int32)}
    error = jnp.where(mask[:, None], outputs - targets, 0)  # (batch, outputs)
    return sums | {"squared": jnp.square(error).sum(axis=0), "absolute": jnp.abs(error).sum(axis=0)}


def figures(sums: dict[str, Any], dataset: "Dataset", targets: np.ndarray) -> dict[str, float]:
    """Figures from the sums of one replica.

    Args:
        sums: what ``measure`` gave, added up over a whole split.
        dataset: says what is learned and how its target is scaled.
        targets: the split's targets as stored.

    Returns:
        ``loss`` (mean per sample, of the scaled target) and ``accuracy``, or ``rmse``, ``mae`` and ``r2`` in the
        target's own unit; no ``r2`` of targets that are all the same, which have none.
    """
    # No sample counts where every step was skipped, by an overflow in float16.
    count = int(sums["count"]) or math.nan
    result = {"loss": float(sums["loss"]) / count}
    if dataset.task == "classification":
        return result | {"accuracy": int(sums["correct"]) / count}
    unit = 1.0 if dataset.target_scaling is None else dataset.target_scaling.std.astype(np.float64)
    squared = np.asarray(sums["squared"], np.float64) * unit**2  # (outputs,)
    absolute = np.asarray(sums["absolute"], np.float64) * unit
    exact = targets.astype(np.float64)
    spread = np.square(exact - exact.mean(axis=0)).sum(axis=0)
    result |= {"rmse": float(np.sqrt(squared.mean() / count)), "mae": float(absolute.mean() / count)}
    if not (exact.max(axis=0) > exact.min(axis=0)).all():
        return result
    return result | {"r2": float((1.0 - squared / spread).mean()) if sums["count"] else math.nan}


def mean(values: Sequence[float | None]) -> float:
    """The mean over replicas; one that has stopped early and then left all numbers behind counts no more.

    >>> mean([0.25, None, 0.75])
    0.5
    """
    return statistics.fmean(value for value in values if value is not None)


def describe(values: dict[str, float]) -> str:
    """The leading figure in words: ``"accuracy 98.31 %"`` or ``"RMSE 0.512"``."""
    if "accuracy" in values:
        return f"accuracy {100 * values['accuracy']:.2f} %"
    return f"RMSE {values['rmse']:.4g}"
