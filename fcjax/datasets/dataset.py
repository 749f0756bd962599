"""What every loader returns: plain, checked NumPy arrays, and how to bring them to a common scale."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from fcjax.datasets.features import Encoding

__all__ = ["DataError", "Dataset", "Scaling", "Split", "Task"]

Task = Literal["classification", "regression"]


class DataError(ValueError):
    """A file or table that can't be used; one sentence says where, what was expected and what was found."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """The change of scale ``z = (x - mean) / std``, whose inverse is ``x = z std + mean``.

    Both directions are plain arithmetic, so NumPy and JAX arrays both go through; the trainer applies them inside the
    compiled step, on data that stays on the device as it is stored.

    Args:
        mean, std: float32, one number for all features (shape ``()``) or one for each (shape ``(features,)``).

    Raises:
        DataError: they differ in shape, are not finite, or ``std`` is not positive.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", np.asarray(self.mean, np.float32))
        object.__setattr__(self, "std", np.asarray(self.std, np.float32))
        if self.mean.shape != self.std.shape or self.mean.ndim > 1:
            raise DataError(
                f"scaling: expected mean and std of one shape, () or (features,); found {self.mean.shape} and "
                f"{self.std.shape}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise DataError("scaling: expected a finite mean and a positive, finite std")

    @classmethod
    def fit(cls, x: ArrayLike) -> Self:
        """The scaling that brings each column of ``x``, shape ``(n, features)``, to mean 0 and standard deviation 1.

        A column that never changes keeps its unit (``std`` 1). The deviation is the population's, divided by ``n``.
        """
        rows = np.asarray(x, np.float64)
        # Judged by the values: the computed deviation of equal numbers need not come out as zero.
        changes = rows.max(axis=0) > rows.min(axis=0)
        std = np.where(changes, rows.std(axis=0), 1.0)
        return cls(np.asarray(rows.mean(axis=0), np.float32), np.asarray(std, np.float32))

    @classmethod
    def fit_pixels(cls, images: NDArray[np.uint8]) -> Self:
        """One mean and deviation for all pixels of ``images``, from exact counts of the 256 possible values."""
        # Image by image: counting all at once would first copy every pixel to eight bytes.
        counts = np.zeros(256, np.int64)
        for block in np.array_split(images, max(1, len(images) // 1024)):
            counts += np.bincount(block.ravel(), minlength=256)
        values = np.arange(256)
        mean = (counts @ values) / counts.sum()
        variance = (counts @ (values - mean) ** 2) / counts.sum()
        std = np.sqrt(variance) if variance > 0 else 1.0
        return cls(np.asarray(mean, np.float32), np.asarray(std, np.float32))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, of which ``Scaling(**values)`` makes an equal object."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def apply(self, x: Any) -> Any:
        """``(x - mean) / std`` over the last axis; uint8 becomes float32."""
        return (x - self.mean) / self.std

    def inverse(self, z: Any) -> Any:
        """``z std + mean`` over the last axis."""
        return z * self.std + self.mean


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs with the targets that belong to them, row by row.

    Args:
        inputs: uint8 images ``(n, height, width)`` as they are stored, or float32 features ``(n, features)``.
        targets: int32 labels ``(n,)`` in classification, float32 values ``(n, outputs)`` in regression.
        soft_targets: what a teacher says of each row, float32 ``(n, classes)``, logarithms of probabilities, or
            ``(n, outputs)``, values in the targets' unit; None without a teacher.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    soft_targets: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, index: NDArray[np.intp]) -> "Split":
        """The rows named by ``index``, in that order."""
        soft = None if self.soft_targets is None else self.soft_targets[index]
        return Split(self.inputs[index], self.targets[index], soft)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name; each has a row for every sample."""
        named = {"inputs": self.inputs, "targets": self.targets, "soft_targets": self.soft_targets}
        return {name: array for name, array in named.items() if array is not None}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A learning task: its parts, and the scales on which a net should see it.

    Args:
        name: what messages call it.
        task: ``"classification"`` or ``"regression"``.
        train, test, validation: its parts; ``validation`` may be None.
        classes: number of classes, None in regression.
        input_scaling, target_scaling: fitted on the training part alone; None where the data is to be used as it is.
        noise_floor: the root mean squared error of a perfect predictor, in the target's unit, where it is known.
        encoding: of the inputs, by rank or in pieces, in place of ``input_scaling``.

    Raises:
        DataError: an array has another shape or dtype than ``Split`` says, is empty or holds NaN, inf or a label that
            is not in ``0 .. classes - 1``. The message names part and row.
    """

    name: str
    task: Task
    train: Split
    test: Split
    validation: Split | None = None
    classes: int | None = None
    input_scaling: Scaling | None = None
    target_scaling: Scaling | None = None
    noise_floor: float | None = None
    encoding: "Encoding | None" = None

    def __post_init__(self) -> None:
        if self.task not in ("classification", "regression"):
            raise DataError(f"{self.name}: expected task classification or regression, found {self.task!r}")
        if (self.task == "classification") != (self.classes is not None):
            raise DataError(f"{self.name}: expected a number of classes in classification only, found {self.classes}")
        for part, split in self.parts().items():
            _check_inputs(f"{self.name}, {part} inputs", split.inputs)
            _check_targets(f"{self.name}, {part} targets", split.targets, self.classes)
            if len(split.inputs) != len(split.targets):
                raise DataError(f"{self.name}, {part}: found {len(split.inputs)} inputs, {len(split.targets)} targets")
            for what, found, expected in (
                ("inputs", split.inputs, self.train.inputs),
                ("targets", split.targets, self.train.targets),
            ):
                if found.shape[1:] != expected.shape[1:] or found.dtype != expected.dtype:
                    raise DataError(
                        f"{self.name}, {part} {what}: expected rows of shape {expected.shape[1:]} and {expected.dtype} "
                        f"as in the training part, found {found.shape[1:]} and {found.dtype}"
                    )

    def parts(self) -> dict[str, Split]:
        """The parts by name, in the order train, validation (if there is one), test."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in parts.items() if split is not None}


def _check_inputs(place: str, inputs: NDArray[Any]) -> None:
    if inputs.dtype not in (np.uint8, np.float32) or inputs.ndim < 2:
        raise DataError(f"{place}: expected uint8 or float32 of shape (n, ...), found {inputs.dtype} {inputs.shape}")
    if inputs.size == 0:
        raise DataError(f"{place}: expected at least one row and one feature, found shape {inputs.shape}")
    if inputs.dtype == np.float32:
        _check_finite(place, inputs)


def _check_targets(place: str, targets: NDArray[Any], classes: int | None) -> None:
    if classes is None:
        if targets.dtype != np.float32 or targets.ndim != 2:
            raise DataError(f"{place}: expected float32 of shape (n, outputs), found {targets.dtype} {targets.shape}")
        _check_finite(place, targets)
        return
    if targets.dtype != np.int32 or targets.ndim != 1:
        raise DataError(f"{place}: expected int32 labels of shape (n,), found {targets.dtype} {targets.shape}")
    outside = np.flatnonzero((targets < 0) | (targets >= classes))
    if outside.size:
        row = outside[0]
        raise DataError(f"{place}: expected labels 0 to {classes - 1}, found {targets[row]} in row {row}")


def _check_finite(place: str, values: NDArray[Any]) -> None:
    rows = max(1, len(values) * 2**24 // max(1, values.nbytes))
    for first in range(0, len(values), rows):  # 16 MiB at a time: the file behind it may be larger than memory
        bad = ~np.isfinite(values[first : first + rows])
        if bad.any():
            row, *rest = (int(i) for i in np.argwhere(bad)[0])
            index = (first + row, *rest)
            raise DataError(f"{place}: expected finite numbers, found {values[index]} at index {index}")
