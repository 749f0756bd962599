"""What is trained on a task: its network (the article's, or an MLP of the user's own sizes) and its loss."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from flax import nnx

from fcjax.activations import get_activation
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Pieces
from fcjax.losses import Loss, cross_entropy, negative_log_likelihood, squared_error
from fcjax.models import MLP, MNISTClassifier, Regressor
from fcjax.tabular import TabularNet

__all__ = ["ModelSpec", "model_and_loss", "model_spec"]

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "MLP": MLP,
    "MNISTClassifier": MNISTClassifier,
    "Regressor": Regressor,
    "TabularNet": TabularNet,
}


@dataclass(frozen=True)
class ModelSpec:
    """A built-in model as data: ``spec(rngs)`` makes it.

    Args:
        name: a key of ``MODELS``.
        arguments: of its constructor, as JSON values.
    """

    name: str
    arguments: dict[str, Any]

    def __call__(self, rngs: nnx.Rngs) -> nnx.Module:
        return self._drawn(rngs)

    @cached_property
    def _drawn(self) -> Callable[[nnx.Rngs], nnx.Module]:
        """One compiled program draws all weights: number by number, a start would wait for thirty small ones."""
        return nnx.jit(lambda rngs: MODELS[self.name](**self.arguments, rngs=rngs))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, of which ``ModelSpec(**values)`` makes an equal object."""
        return asdict(self)


def model_spec(config: TrainConfig, dataset: Dataset) -> ModelSpec:
    """The network for ``dataset``.

    Raises:
        UsageError: an unknown activation, or a model for tables where there are images.
    """
    if config.model == "tabular":
        return _tabular(config, dataset)
    encoding, shape = dataset.encoding, dataset.train.inputs.shape[1:]
    features = math.prod(encoding.apply(dataset.train.inputs[:1]).shape if encoding else shape)
    outputs = dataset.classes or dataset.train.targets.shape[1]
    images = dataset.task == "classification" and config.task != "table"
    mlp = config.model == "mlp" or config.task == "table"
    dropout = (0.2 if images or mlp else 0.0) if config.dropout is None else config.dropout
    if mlp:
        try:
            get_activation(config.activation)
        except ValueError as error:
            raise UsageError(str(error)) from None
        sizes = [features, *config.hidden, outputs]
        return ModelSpec("MLP", {"sizes": sizes, "activation": config.activation, "dropout": dropout})
    if images:
        return ModelSpec("MNISTClassifier", {"dropout": dropout})
    return ModelSpec("Regressor", {"input_size": features, "dropout": dropout})


def _tabular(config: TrainConfig, dataset: Dataset) -> ModelSpec:
    """The network for columns of numbers, with the bins of the training part."""
    inputs = dataset.train.inputs
    if inputs.ndim != 2:
        raise UsageError(
            f"model: expected columns of numbers with tabular, found {dataset.name} with inputs of shape "
            f"{inputs.shape[1:]}"
        )
    scaling = dataset.encoding or dataset.input_scaling
    seen = inputs if scaling is None else scaling.apply(inputs)
    arguments = {
        "edges": Pieces.fit(seen, config.bins).edges,
        "outputs": dataset.classes or dataset.train.targets.shape[1],
        "hidden": config.hidden,
        "members": config.members,
        "embedding": config.embedding,
        "dropout": 0.1 if config.dropout is None else config.dropout,
        "classes": dataset.classes is not None,
    }
    return ModelSpec("TabularNet", arguments)


def model_and_loss(config: TrainConfig, dataset: Dataset) -> tuple[ModelSpec, Loss]:
    """What ``fcjax train`` trains on ``dataset``: a function from ``nnx.Rngs`` to the module, and the loss.

    Raises:
        UsageError: an unknown activation.
    """
    spec = model_spec(config, dataset)
    if dataset.task == "regression":
        return spec, squared_error
    return spec, negative_log_likelihood if spec.name == "MNISTClassifier" else cross_entropy
