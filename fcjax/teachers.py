"""What the nets of a finished run say of each training sample, for another net to learn."""

import math
from dataclasses import replace

import numpy as np

from fcjax.config import UsageError
from fcjax.datasets import Dataset, Preprocessing
from fcjax.prediction import Run

__all__ = ["with_soft_targets"]


def with_soft_targets(dataset: Dataset, teacher: Run, preprocessing: Preprocessing | None = None) -> Dataset:
    """``dataset`` with the answers of ``teacher``, the mean of all its nets, beside the targets of its training part.

    Args:
        dataset: what is to be learned.
        teacher: a finished run; see ``load_run``.
        preprocessing: of the user's own table, else None.

    Raises:
        UsageError: the run has learned something else: another task, other inputs, or to tell other classes.
    """
    own = teacher.preprocessing
    width = dataset.classes or dataset.train.targets.shape[1]
    for what, expected, found in (
        ("the task", dataset.task, teacher.task),
        ("inputs of shape", dataset.train.inputs.shape[1:], teacher.input_shape),
        ("the columns", preprocessing and preprocessing.features, own and own.features),
        ("the classes", preprocessing and preprocessing.target.classes, own and own.target.classes),
        ("classes", dataset.classes, len(teacher.classes) or None),
    ):
        if expected != found:
            raise UsageError(
                f"teacher: expected a run that learned {what} {expected} of {dataset.name}, found {found} in "
                f"{teacher.path}"
            )
    answers = teacher.predict(dataset.train.inputs)
    if answers.shape[1] != width or not np.isfinite(answers).all():
        raise UsageError(f"teacher: expected {width} finite answers to each sample, found others in {teacher.path}")
    if dataset.task == "classification":
        answers = np.log(np.maximum(answers, math.exp(-80.0)))  # float32 holds no smaller probabilities
    return replace(dataset, train=replace(dataset.train, soft_targets=answers.astype(np.float32)))
