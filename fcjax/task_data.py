"""The data that the settings ask for. Imports no jax, so that what is wrong with a file is said at once."""

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import DataError, Dataset, Preprocessing, hold_out, load, load_table

__all__ = ["load_data", "refuse_large_batch"]


def load_data(config: TrainConfig) -> tuple[Dataset, Preprocessing | None]:
    """The data of ``config.task``, with a validation part if one is asked for; a table with its preprocessing.

    Raises:
        DataError: anything about the files that can't be right.
    """
    if config.task == "table":
        if config.file is None or config.target is None:
            raise DataError("table: expected a file and a target")
        return load_table(
            config.file,
            config.target,
            task=config.kind,
            validation=0.15 if config.validation is None else config.validation,
            seed=config.seed,
            categorical=config.categorical,
            ignore=config.ignore,
            missing=config.missing,
        )
    dataset = load(config.task, config.data_dir, config.seed)
    if config.validation:
        dataset = hold_out(dataset, max(1, round(config.validation * len(dataset.train))), config.seed)
    return dataset, None


def refuse_large_batch(config: TrainConfig, dataset: Dataset) -> None:
    """Raises a ``UsageError`` if a batch is larger than the training set."""
    if config.batch_size > len(dataset.train):
        raise UsageError(
            f"batch_size: expected at most {len(dataset.train)}, the size of the training set of "
            f"{dataset.name}; found {config.batch_size}"
        )
