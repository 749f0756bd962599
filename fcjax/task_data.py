"""The data that the settings ask for. Imports no jax, so that what is wrong with a file is said at once."""

import math
from collections.abc import Set
from dataclasses import replace
from typing import Any

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import DataError, Dataset, Preprocessing, hold_out, load, load_table, with_features

__all__ = ["load_data", "refuse_for_data", "sized_for"]


def load_data(config: TrainConfig) -> tuple[Dataset, Preprocessing | None]:
    """The data of ``config.task``, with a validation part if one is asked for; a table with its preprocessing.

    Raises:
        DataError: anything about the files that can't be right.
    """
    if config.task == "table":
        if config.file is None or config.target is None:
            raise DataError("table: expected a file and a target")
        dataset, preprocessing = load_table(
            config.file,
            config.target,
            task=config.kind,
            validation=0.15 if config.validation is None else config.validation,
            seed=config.seed,
            categorical=config.categorical,
            ignore=config.ignore,
            missing=config.missing,
        )
    else:
        dataset, preprocessing = load(config.task, config.data_dir, config.seed), None
        if config.validation:
            dataset = hold_out(dataset, max(1, round(config.validation * len(dataset.train))), config.seed)
    return with_features(dataset, config.features, config.bins), preprocessing


def refuse_for_data(config: TrainConfig, dataset: Dataset) -> None:
    """Raises a ``UsageError`` if a batch is larger than the training set, or early stopping has nothing to go by."""
    if config.batch_size > len(dataset.train):
        raise UsageError(
            f"batch_size: expected at most {len(dataset.train)}, the size of the training set of "
            f"{dataset.name}; found {config.batch_size}"
        )
    if config.patience and dataset.validation is None:
        raise UsageError(f"patience: expected with --validation SHARE, found no validation part of {dataset.name}")


def sized_for(config: TrainConfig, dataset: Dataset, given: Set[str]) -> TrainConfig:
    """``config`` with what was not given chosen by the number of rows: for a table of any size, not for one of ours.

    About 20 steps to an epoch, of 8 to 256 rows, and epochs for some 3,000 steps (20 to 200). The validation part
    chooses the best epoch. A preset's own values stay, but for a batch that is larger than the set.

    Args:
        config: the settings.
        dataset: the table.
        given: names of the settings that were asked for.
    """
    rows = len(dataset.train)
    size = min(256, rows, max(8, 2 ** round(math.log2(max(rows / 20, 1)))))
    chosen: dict[str, int] = {}
    if config.preset is None:
        epochs = min(200, max(20, round(3000 / math.ceil(rows / size))))
        chosen = {"batch_size": size, "epochs": epochs}
    elif config.batch_size > rows:
        chosen = {"batch_size": size}
    if dataset.validation is not None:
        chosen["patience"] = max(20, chosen.get("epochs", config.epochs) // 4)
    settings: Any = {name: value for name, value in chosen.items() if name not in given}
    return replace(config, **settings)
