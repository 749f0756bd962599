"""How columns of numbers are seen, where a change of scale is not enough: by rank or in pieces."""

import dataclasses
from typing import Any

from fcjax.datasets.dataset import DataError, Dataset, Scaling, Split
from fcjax.datasets.pieces import Pieces
from fcjax.datasets.quantiles import Quantiles

__all__ = ["Encoding", "from_json", "with_computed_features", "with_features"]

Encoding = Quantiles | Pieces


def from_json(values: dict[str, Any]) -> Scaling | Encoding:
    """The inverse of ``to_json``: a change of scale or an encoding, told apart by the names of its fields.

    Raises:
        DataError: other names.
    """
    kinds: tuple[type[Scaling | Encoding], ...] = (Scaling, Quantiles, Pieces)
    for kind in kinds:
        if {field.name for field in dataclasses.fields(kind)} == set(values):
            return kind(**values)
    raise DataError(f"features: expected a scaling, quantiles or pieces, found the fields {sorted(values)}")


def with_features(dataset: Dataset, kind: str, bins: int) -> Dataset:
    """``dataset`` with features that are seen as ``kind`` says, fitted on the training part.

    Args:
        dataset: with columns of numbers.
        kind: ``"standard"`` (as the dataset has it), ``"quantile"`` or ``"pieces"``.
        bins: pieces of each number.

    Raises:
        DataError: its inputs are no columns of numbers.
    """
    if kind == "standard":
        return dataset
    inputs = dataset.train.inputs
    if inputs.ndim != 2:
        raise DataError(f"features: expected columns of numbers with {kind}, found {dataset.name} {inputs.shape}")
    encoding = Quantiles.fit(inputs) if kind == "quantile" else Pieces.fit(inputs, bins)
    return dataclasses.replace(dataset, input_scaling=None, encoding=encoding)


def with_computed_features(dataset: Dataset) -> Dataset:
    """``dataset`` with its encoding carried out, once for the whole run; one without as it is."""
    encoding = dataset.encoding
    if encoding is None:
        return dataset

    def computed(split: Split) -> Split:
        return dataclasses.replace(split, inputs=encoding.apply(split.inputs))

    return dataclasses.replace(
        dataset,
        train=computed(dataset.train),
        test=computed(dataset.test),
        validation=None if dataset.validation is None else computed(dataset.validation),
        encoding=None,
    )
