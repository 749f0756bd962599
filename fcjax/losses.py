"""Losses, one number per example: averaging is the training step's business, which knows the padded rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fcjax.activations import log_softmax

__all__ = ["LOSSES", "Loss", "cross_entropy", "default_loss", "negative_log_likelihood", "smoothed", "squared_error"]

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def negative_log_likelihood(log_probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """``-log p[label]``, as ``torch.nn.functional.nll_loss(reduction="none")``.

    Args:
        log_probabilities: shape ``(batch, classes)``, the output of ``log_softmax``.
        labels: integers of shape ``(batch,)``.

    Returns:
        Shape ``(batch,)``.

    Raises:
        ValueError: shapes or dtypes are others.
    """
    _expect_labels("negative_log_likelihood", log_probabilities, labels)
    classes = jnp.arange(log_probabilities.shape[-1])
    # A selection, not an index: its gradient is a selection too, where an index would give a slow scatter.
    chosen = jnp.where(labels[:, None] == classes, log_probabilities, 0)  # (batch, classes)
    return -chosen.sum(axis=-1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """``-log softmax(logits)[label]``, as ``torch.nn.functional.cross_entropy(reduction="none")``.

    A model that already ends in ``log_softmax`` gets the same numbers: ``log_softmax`` twice is ``log_softmax`` once.

    Args:
        logits: shape ``(batch, classes)``.
        labels: integers of shape ``(batch,)``.

    Returns:
        Shape ``(batch,)``.
    """
    _expect_labels("cross_entropy", logits, labels)
    return negative_log_likelihood(log_softmax(logits), labels)


def smoothed(loss: Loss, rate: float) -> Loss:
    """``(1 - rate) loss + rate / K Σ_k -log p_k``: PyTorch's ``cross_entropy(label_smoothing=rate)`` over K classes.

    Args:
        loss: ``cross_entropy``, or ``negative_log_likelihood`` of a model that ends in ``log_softmax``.
        rate: share of each label that is spread over all classes, in [0, 1).

    Raises:
        ValueError: another loss, or another rate.
    """
    if loss not in (cross_entropy, negative_log_likelihood):
        raise ValueError("label_smoothing: expected a loss over classes, cross_entropy or negative_log_likelihood")
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"label_smoothing: expected a rate in [0, 1), found {rate}")

    def smoothed_loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        everything = -log_softmax(outputs).mean(axis=-1)  # (batch,); log_softmax leaves log-probabilities as they are
        return (1.0 - rate) * loss(outputs, labels) + rate * everything

    return smoothed_loss


def squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """``mean_j (prediction_j - target_j)²`` (no 1/2), whose mean over the batch is ``torch.nn.MSELoss``.

    Args:
        predictions, targets: shape ``(batch, outputs)``, both.

    Returns:
        Shape ``(batch,)``.

    Raises:
        ValueError: shapes differ; ``(n, 1)`` against ``(n,)`` would broadcast to ``(n, n)`` unnoticed.
    """
    if predictions.ndim != 2 or predictions.shape != targets.shape:
        raise ValueError(
            "squared_error: expected predictions and targets of one shape (batch, outputs), "
            f"found {predictions.shape} and {targets.shape}"
        )
    return jnp.square(predictions - targets).mean(axis=-1)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "negative_log_likelihood": negative_log_likelihood,
    "squared_error": squared_error,
}


def default_loss(task: str) -> Loss:
    """``cross_entropy`` for ``"classification"``, ``squared_error`` for ``"regression"``."""
    return {"classification": cross_entropy, "regression": squared_error}[task]


def _expect_labels(loss: str, outputs: jax.Array, labels: jax.Array) -> None:
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{loss}: expected outputs of shape (batch, classes) and integer labels of shape (batch,), "
            f"found {outputs.dtype}{list(outputs.shape)} and {labels.dtype}{list(labels.shape)}"
        )
