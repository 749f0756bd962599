"""The article's network for each built-in task, or an MLP of the user's own sizes."""

import math

from fcjax.activations import get_activation
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset
from fcjax.losses import Loss, cross_entropy, negative_log_likelihood, squared_error
from fcjax.models import MLP, MNISTClassifier, Regressor
from fcjax.trainer import ModelFactory

__all__ = ["model_and_loss"]


def model_and_loss(config: TrainConfig, dataset: Dataset) -> tuple[ModelFactory, Loss]:
    """What ``fcjax train`` trains on ``dataset``.

    Returns:
        A function from ``nnx.Rngs`` to the module, and the loss that goes with its output.

    Raises:
        UsageError: an unknown activation.
    """
    features = math.prod(dataset.train.inputs.shape[1:])
    outputs = dataset.classes or dataset.train.targets.shape[1]
    if config.model == "mlp":
        try:
            get_activation(config.activation)
        except ValueError as error:
            raise UsageError(str(error)) from None
        sizes = (features, *config.hidden, outputs)
        loss = cross_entropy if dataset.task == "classification" else squared_error
        dropout = 0.2 if config.dropout is None else config.dropout
        return lambda rngs: MLP(sizes, config.activation, dropout, rngs=rngs), loss
    if dataset.task == "classification":
        dropout = 0.2 if config.dropout is None else config.dropout
        return lambda rngs: MNISTClassifier(dropout=dropout, rngs=rngs), negative_log_likelihood
    dropout = config.dropout or 0.0
    return lambda rngs: Regressor(features, dropout=dropout, rngs=rngs), squared_error
