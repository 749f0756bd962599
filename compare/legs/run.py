"""A case, and what one leg makes of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from compare.structure import Call

__all__ = ["TIES", "Case", "Flow", "Reduce", "Run", "flow", "reduced", "zeros_for_none"]

Flow = Literal["none", "zero", "non-zero"]

Reduce = Callable[[str, str, np.ndarray], Any]
"""What a run keeps of a gradient: from its field in ``Run``, its path and the gradient, which is not kept then."""

TIES = "at ties and exact zeros"


@dataclasses.dataclass(frozen=True)
class Case:
    """One evaluation that all legs do alike.

    Args:
        name: for the report, "given weights, given inputs".
        weights: torch name -> float64 array, parameters and buffers.
        call: arguments, float64 where floating.
        cotangents: output path -> float64 array; empty to leave the backward pass out.
        masks: dropout keep-masks in call order (training mode), as the torch leg recorded them.
        aside: words for a circumstance in which right ports may differ ("at ties and exact zeros"), and values that
            differ in such a case alone are a note; empty for an ordinary case.
        other_size: whether nobody can tell if the port has to take arrays of this size: then a wrong shape, or NaN,
            is a note too.
        cancels: whether these are not the user's inputs and vary little about a large mean. Flax's norms compute
            E[x²] - E[x]² unless told not to, and are less accurate there: a note.
        driven: whether the weights drive the layers far out, where gates saturate and float32 says little.
        forward_only: whether only the float64 outputs are compared, since the case costs programs of its own, or much
            time.
    """

    name: str
    weights: Mapping[str, np.ndarray]
    call: Call
    cotangents: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    masks: tuple[np.ndarray, ...] = ()
    aside: str = ""
    other_size: bool = False
    cancels: bool = False
    driven: bool = False
    forward_only: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """What came out.

    Args:
        outputs: by path.
        parameter_gradients: torch name -> array, or None where no gradient flows.
        input_gradients: input path -> array or None.
        statistics: buffers after the call, by torch name.
        without_gradients: why there are none, where the backward pass can't be run.
        checkpoints: edges of the submodules' calls in order, where asked for.
    """

    outputs: Mapping[str, np.ndarray]
    parameter_gradients: Mapping[str, np.ndarray | None] = dataclasses.field(default_factory=dict)
    input_gradients: Mapping[str, np.ndarray | None] = dataclasses.field(default_factory=dict)
    statistics: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    without_gradients: str = ""
    checkpoints: tuple[Any, ...] = ()


def reduced(reduce: Reduce | None, field: str, gradients: Mapping[str, np.ndarray | None]) -> dict[str, Any]:
    """What is kept of ``gradients``: all where ``reduce`` is None."""
    keep = reduce or (lambda field, path, array: array)
    return {path: None if array is None else keep(field, path, array) for path, array in gradients.items()}


def flow(gradient: np.ndarray | None, noise: float = 0.0) -> Flow:
    """How a gradient flows: not at all, as zeros (to rounding: at most ``noise``), or truly."""
    if gradient is None:
        return "none"
    return "non-zero" if gradient.size and not np.abs(gradient).max() <= noise else "zero"


def zeros_for_none(
    gradients: Mapping[str, np.ndarray | None], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The gradients named in ``shapes``, zeros where none flows: "none" and zero are equal here."""
    return {
        name: np.zeros(shape) if (gradient := gradients.get(name)) is None else gradient
        for name, shape in shapes.items()
    }
