"""All runs of all legs on all cases: what the checks judge."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from compare.cases import with_cotangents
from compare.legs.flax_leg import FlaxLeg
from compare.legs.numpy_leg import NumpyLeg
from compare.legs.run import Case, Run
from compare.legs.torch_leg import TorchLeg

__all__ = ["Evidence", "Legs", "gather"]

# Perturbed runs of the reference: with three the largest of them reaches half of the true spread nine times in ten,
# which the factors of the verdict cover.
PERTURBED_RUNS = 3


@dataclasses.dataclass(frozen=True)
class Legs:
    """The legs of one port: torch and Flax in both precisions, NumPy where there is a reference."""

    torch64: TorchLeg
    torch32: TorchLeg
    flax64: FlaxLeg
    flax32: FlaxLeg
    numpy: NumpyLeg | None = None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One case on every leg.

    Args:
        case: weights, inputs, cotangents and masks.
        reference: torch in float64.
        perturbed: the same, moved by one rounding.
        flax: Flax in float64.
        numpy: the NumPy reference, or None.
        torch32: torch in float32, first as it is, then moved by one rounding.
        flax32: Flax in float32.
    """

    case: Case
    reference: Run
    perturbed: tuple[Run, ...]
    flax: Run
    numpy: Run | None
    torch32: tuple[Run, ...]
    flax32: Run

    @property
    def finite(self) -> bool:
        """Whether the reference's outputs are all finite."""
        return all(np.isfinite(array).all() for array in self.reference.outputs.values())


def gather(legs: Legs, cases: Iterator[Case], mode: str, seed: int) -> tuple[Evidence, ...]:
    """Runs every leg on every case.

    Args:
        legs: of the port.
        cases: from ``make_cases``.
        mode: "eval" or "train"; in training mode torch's masks are recorded and replayed.
        seed: of cotangents, masks and perturbations.
    """
    return tuple(_evidence(legs, case, mode, seed + 100 * number) for number, case in enumerate(cases))


def _evidence(legs: Legs, case: Case, mode: str, seed: int) -> Evidence:
    if mode == "train":
        case = dataclasses.replace(case, masks=legs.torch64.record_masks(case, seed))
    case = with_cotangents(case, legs.torch64.run(case).outputs, seed)  # their shapes are known only now
    numpy_sees_it = legs.numpy is not None and (legs.numpy.remakes or case.name.startswith("given weights"))
    return Evidence(
        case=case,
        reference=legs.torch64.run(case),
        perturbed=tuple(legs.torch64.run(case, perturbation=seed + k) for k in range(PERTURBED_RUNS)),
        flax=legs.flax64.run(case),
        numpy=legs.numpy.run(case) if legs.numpy is not None and numpy_sees_it else None,
        torch32=tuple(legs.torch32.run(case, perturbation=k) for k in (None, seed, seed + 1)),
        flax32=legs.flax32.run(case),
    )
