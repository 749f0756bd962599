"""All runs of all legs on all cases: what the checks judge."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from compare.cases import with_cotangents
from compare.legs.dropout import MaskMismatchError
from compare.legs.flax_leg import FlaxLeg
from compare.legs.numpy_leg import NumpyLeg
from compare.legs.run import Case, Run
from compare.legs.torch_leg import TorchLeg
from compare.result import UsageError
from compare.verdict import SAMENESS_FACTOR, compare_arrays, spread

__all__ = ["Evidence", "LegError", "Legs", "gather", "largest_output", "sentence_of"]

# Perturbed runs of the reference: with three the largest of them reaches half of the true spread nine times in ten,
# which the factors of the verdict cover. Where few numbers are moved all of them may miss the sensitive direction;
# there more runs cost nothing.
PERTURBED_RUNS = 3
_PERTURBED_RUNS_IF_SMALL = 8
_SMALL = 1000


class LegError(Exception):
    """A leg does not run on inputs that torch takes.

    Args:
        leg: "flax" or "numpy".
        sentence: what happened, and in which case.
    """

    def __init__(self, leg: str, sentence: str) -> None:
        super().__init__(sentence)
        self.leg = leg


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
        constants: Flax in float64 with the constants moved that it holds in a lower precision; empty without any.
        constant_names: these, with their places.
    """

    case: Case
    reference: Run
    perturbed: tuple[Run, ...]
    flax: Run
    numpy: Run | None
    torch32: tuple[Run, ...]
    flax32: Run
    constants: tuple[Run, ...] = ()
    constant_names: tuple[str, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether the reference's outputs are all finite."""
        return all(np.isfinite(array).all() for array in self.reference.outputs.values())


def gather(legs: Legs, cases: Iterable[Case], mode: str, seed: int) -> tuple[tuple[Evidence, ...], dict[str, str]]:
    """Runs every leg on every case.

    Args:
        legs: of the port.
        cases: from ``make_cases``, the user's own first.
        mode: "eval" or "train"; in training mode torch's masks are recorded and replayed.
        seed: of cotangents, masks and perturbations.

    Returns:
        The evidence, and the probes that torch itself refuses, by name with the reason.

    Raises:
        UsageError: torch does not take the user's own inputs, or draws random numbers other than dropout's masks.
        LegError: another leg does not run where torch does.
        MaskMismatchError: Flax drops other arrays than torch.
    """
    evidence: list[Evidence] = []
    refused: dict[str, str] = {}
    for number, case in enumerate(cases):
        case_seed = seed + 100 * number
        try:
            case, reference = _reference(legs.torch64, case, mode, case_seed)
            perturbed = tuple(legs.torch64.run(case, perturbation=case_seed + k) for k in range(_runs(case)))
            torch32 = tuple(legs.torch32.run(case, perturbation=k) for k in (None, case_seed, case_seed + 1))
        except UsageError:
            raise
        except Exception as error:
            if number == 0:
                raise UsageError(f"the torch model does not take these inputs: {sentence_of(error)}") from error
            refused[case.name] = sentence_of(error)
            continue
        if number == 0:
            _expect_real(reference)
            _expect_repeatable(reference, legs.torch64.run(case))
        numpy_sees_it = legs.numpy is not None and (legs.numpy.remakes or case.name.startswith("given weights"))
        flax = _run("flax", legs.flax64.run, case)
        seeds = range(case_seed, case_seed + PERTURBED_RUNS) if legs.flax64.constants else ()
        evidence.append(
            Evidence(
                case=case,
                reference=reference,
                perturbed=perturbed,
                flax=flax,
                numpy=_run("numpy", legs.numpy.run, case) if legs.numpy is not None and numpy_sees_it else None,
                torch32=torch32,
                flax32=_run("flax", legs.flax32.run, case),
                constants=tuple(legs.flax64.run(case, constants_seed=k) for k in seeds),
                constant_names=legs.flax64.constants,
            )
        )
    return tuple(evidence), refused


def _runs(case: Case) -> int:
    numbers = sum(array.size for array in case.weights.values())
    return _PERTURBED_RUNS_IF_SMALL if numbers < _SMALL else PERTURBED_RUNS


def largest_output(torch64: TorchLeg, mode: str, seed: int) -> Callable[[Case], float]:
    """The largest absolute value that the reference returns for a case, as a function of the case."""

    def largest(case: Case) -> float:
        masks = torch64.record_masks(case, seed) if mode == "train" else ()
        outputs = torch64.run(dataclasses.replace(case, masks=masks)).outputs
        return max((float(np.abs(array).max()) for array in outputs.values() if array.size), default=0.0)

    return largest


def _reference(torch64: TorchLeg, case: Case, mode: str, seed: int) -> tuple[Case, Run]:
    """``case`` with masks and cotangents, whose shapes only a run can tell, and torch's run of it."""
    if mode == "train":
        case = dataclasses.replace(case, masks=torch64.record_masks(case, seed))
    case = with_cotangents(case, torch64.run(case).outputs, seed)
    return case, torch64.run(case)


def _expect_real(reference: Run) -> None:
    for path, array in reference.outputs.items():
        if np.iscomplexobj(array):
            raise UsageError(
                f"{path or 'output'}: expected real numbers, found {array.dtype}; pass outputs=(torch_select, "
                "flax_to_torch), functions that return real and imaginary parts"
            )


def _expect_repeatable(first: Run, second: Run) -> None:
    for path, array in first.outputs.items():
        # Two runs of one program on one machine: only sums in another order, by threads, may tell them apart.
        leaf = compare_arrays(
            path or "output", array, second.outputs[path], SAMENESS_FACTOR * spread(array, [], "float64")
        )
        if not leaf.agrees:
            found = leaf.detail or f"a difference of {leaf.error:.3g} at {list(leaf.index or ())}"
            raise UsageError(
                "the torch model draws random numbers of its own (other than dropout's masks): expected the same from "
                f"two calls with the same inputs, found {found} in {leaf.path}; nothing can be compared with that"
            )


def _run(leg: str, run: Callable[[Case], Run], case: Case) -> Run:
    try:
        return run(case)
    except (UsageError, MaskMismatchError):
        raise
    except Exception as error:
        model = {"flax": "Flax model", "numpy": "NumPy reference"}[leg]
        sentence = f"the {model} does not run on inputs that torch takes ({case.name}): {sentence_of(error)}"
        raise LegError(leg, sentence) from error


def sentence_of(error: Exception) -> str:
    """An exception on one line, cut where it grows long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
