"""What is to be predicted: classes or numbers, found from the column or set."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError, Scaling, Task
from fcjax.datasets.table.columns import Table, as_text
from fcjax.datasets.table.encoding import numbers_of

__all__ = ["TargetRule", "choose_task", "fit_target"]

FEW = 20
"""Whole numbers with at most this many different values are taken for classes."""


@dataclass(frozen=True)
class TargetRule:
    """The target column, and what its values mean.

    Args:
        name: of the column.
        task: ``"classification"`` or ``"regression"``.
        classes: in classification, the values in the order of their labels; otherwise empty.
        mean, std: in regression, of the training rows; otherwise 0 and 1.
    """

    name: str
    task: Task
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.task not in ("classification", "regression"):
            raise DataError(f"preprocessing, target: expected task classification or regression, found {self.task!r}")
        if (self.task == "classification") != (len(set(self.classes)) >= 2) or len(set(self.classes)) < len(
            self.classes
        ):
            raise DataError(f"preprocessing, target: expected different classes in classification only: {self.classes}")
        if not (np.isfinite([self.mean, self.std]).all() and self.std > 0):
            raise DataError("preprocessing, target: expected a finite mean and a positive, finite std")

    @property
    def scaling(self) -> Scaling | None:
        """The change of scale of a regression's target."""
        if self.task == "classification":
            return None
        return Scaling(np.asarray([self.mean], np.float32), np.asarray([self.std], np.float32))

    def encode(self, table: Table) -> NDArray[Any]:
        """Targets of a table: int32 labels ``(rows,)``, or float32 values ``(rows, 1)`` in their own unit.

        Raises:
            DataError: a target is missing, no number, or of a class that was not there when the rule was fitted.
        """
        table.require([self.name])
        absent = np.flatnonzero(table.columns[self.name].missing())
        if absent.size:
            raise DataError(f"{table.source}, {table.place(absent[0])}, {self.name}: expected a target, found none")
        if self.task == "regression":
            return self._values(table)
        label = {text: index for index, text in enumerate(self.classes)}
        texts = class_names(table, self.name)
        for row, text in enumerate(texts):
            if text not in label:
                raise DataError(
                    f"{table.source}, {table.place(row)}, {self.name}: expected one of {len(label)} classes "
                    f"({', '.join(self.classes[:8])}{', ...' if len(label) > 8 else ''}), found {text!r}"
                )
        return np.array([label[text] for text in texts], np.int32)

    def _values(self, table: Table) -> NDArray[np.float32]:
        numbers = numbers_of(table, self.name)
        large = np.flatnonzero(np.abs(numbers) > np.finfo(np.float32).max)
        if large.size:
            place = f"{table.source}, {table.place(large[0])}, {self.name}"
            raise DataError(f"{place}: expected a number that float32 can hold, found {numbers[large[0]]:g}")
        return numbers.astype(np.float32)[:, None]


def choose_task(table: Table, name: str) -> tuple[Task, str]:
    """The task that a target column calls for, and a sentence that says why.

    Text is classes. So are whole numbers, if there are at most 20 different ones with at least five rows to each
    on average, or just two. Everything else is regression.
    """
    table.require([name])
    column = table.columns[name]
    if column.numbers is None:
        return "classification", f"{name}: classification, since it is text"
    values = column.numbers[~np.isnan(column.numbers)]
    different = np.unique(values)
    if (values == np.round(values)).all() and len(different) <= min(FEW, max(2, len(values) / 5)):
        return "classification", f"{name}: classification, since it has {len(different)} different whole numbers"
    return "regression", f"{name}: regression, since it is numbers"


def fit_target(table: Table, name: str, task: Task) -> TargetRule:
    """The rule for a target column without missing entries.

    Raises:
        DataError: a constant target; text, dates or infinite numbers in regression; a class for every other row.
    """
    if task == "regression":
        values = numbers_of(table, name)
        if not values.min() < values.max():
            raise DataError(f"{table.source}, {name}: expected a target that varies, found {values[0]:g} in every row")
        return TargetRule(name, task)
    numbers = table.columns[name].numbers
    texts = class_names(table, name)
    order: dict[str, Any] = dict(zip(texts, texts if numbers is None else numbers.tolist(), strict=True))
    classes = tuple(sorted(order, key=lambda text: (order[text], text)))
    if len(classes) < 2:
        raise DataError(f"{table.source}, {name}: expected a target that varies, found {classes[0]!r} in every row")
    if len(classes) > table.rows / 2:
        raise DataError(
            f"{table.source}, {name}: expected classes, found {len(classes)} different values in {table.rows} rows "
            f"({classes[0]!r}, {classes[1]!r}, ...): is it an identifier, or numbers with other text among them?"
        )
    return TargetRule(name, task, classes)


def class_names(table: Table, name: str) -> list[str]:
    """The classes as text; numbers by their value, so that 3 and 3.0 are one class."""
    column = table.columns[name]
    if column.numbers is None:
        return [str(text) for text in column.as_texts()]
    return [as_text(value) for value in column.numbers.tolist()]
