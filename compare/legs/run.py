"""A case, and what one leg makes of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from compare.structure import Call

__all__ = ["Case", "Flow", "Run", "flow", "zeros_for_none"]

Flow = Literal["none", "zero", "non-zero"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One evaluation that all legs do alike.

    Args:
        name: for the report, "given weights, given inputs".
        weights: torch name -> float64 array, parameters and buffers.
        call: arguments, float64 where floating.
        cotangents: output path -> float64 array; empty to leave the backward pass out.
        masks: dropout keep-masks in call order (training mode), as the torch leg recorded them.
        kinks: whether the inputs sit on ties or zeros, where right ports may choose another subgradient.
    """

    name: str
    weights: Mapping[str, np.ndarray]
    call: Call
    cotangents: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    masks: tuple[np.ndarray, ...] = ()
    kinks: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """What came out.

    Args:
        outputs: by path.
        parameter_gradients: torch name -> array, or None where no gradient flows.
        input_gradients: input path -> array or None.
        statistics: buffers after the call, by torch name.
        checkpoints: edges of the submodules' calls in order, where asked for.
    """

    outputs: Mapping[str, np.ndarray]
    parameter_gradients: Mapping[str, np.ndarray | None] = dataclasses.field(default_factory=dict)
    input_gradients: Mapping[str, np.ndarray | None] = dataclasses.field(default_factory=dict)
    statistics: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    checkpoints: tuple[Any, ...] = ()


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
