"""Which rows are trained on, chosen by, and tested on: seeded, and in proportion for every class."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fcjax.datasets.dataset import DataError, Dataset

__all__ = ["Rows", "hold_out", "split_rows"]


class Rows(NamedTuple):
    """Row numbers of the three parts, each in ascending order; together they hold every row once."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


def split_rows(rows: int, *, validation: int, test: int, seed: int = 0, labels: ArrayLike | None = None) -> Rows:
    """Draws ``validation`` and ``test`` of ``rows`` rows at random, without replacement; the others are trained on.

    With ``labels`` the draw is stratified: rows are put in order of their class, at random within it, and taken at
    even distances, so that a class's share of a part is right to about one row. One row of each class is set aside for
    training first: no class is tested that was never seen.

    Args:
        rows: number of rows.
        validation, test: sizes of these parts.
        seed: of the draw; the same on every platform.
        labels: classes of the rows, shape ``(rows,)``, or None.

    Raises:
        DataError: too few rows for the parts.
    """
    # Ranks of uniform numbers, the plainest of draws, stay the same from one NumPy version to the next.
    rng = np.random.Generator(np.random.PCG64(seed))
    order = np.argsort(rng.random(rows), kind="stable")
    classes = np.zeros(rows, np.intp) if labels is None else np.unique(np.asarray(labels), return_inverse=True)[1]
    order = order[np.argsort(classes[order], kind="stable")]
    firsts = np.unique(classes[order], return_index=True)[1]
    free = np.delete(order, firsts)
    if min(validation, test) < 0 or validation + test > len(free):
        raise DataError(
            f"split: expected at most {len(free)} rows outside the training part (it keeps one of each class), found "
            f"validation {validation} and test {test} of {rows} rows"
        )
    tested = _evenly(free, test, rng)
    free = free[~np.isin(free, tested)]
    chosen_by = _evenly(free, validation, rng)
    trained = np.setdiff1d(np.arange(rows), np.concatenate([tested, chosen_by]))
    return Rows(trained, np.sort(chosen_by), np.sort(tested))


def _evenly(order: NDArray[np.intp], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """``count`` entries of ``order`` at even distances from a random start."""
    if count == 0:
        return order[:0]
    places = ((np.arange(count) + rng.random()) * len(order) / count).astype(np.intp)
    return order[np.minimum(places, len(order) - 1)]  # rounding may reach the end


def hold_out(dataset: Dataset, rows: int, seed: int = 0) -> Dataset:
    """``dataset`` with ``rows`` of its training rows as validation part, for choices that must not see the test set.

    The scalings stay as they are. Classes are held out in proportion.

    Raises:
        DataError: there is a validation part already, or the training part has too few rows.
    """
    if dataset.validation is not None:
        raise DataError(f"{dataset.name}: it has a validation part of {len(dataset.validation)} rows already")
    labels = dataset.train.targets if dataset.task == "classification" else None
    parts = split_rows(len(dataset.train), validation=rows, test=0, seed=seed, labels=labels)
    train, validation = dataset.train.rows(parts.train), dataset.train.rows(parts.validation)
    return dataclasses.replace(dataset, train=train, validation=validation)
