"""All runs of all legs on all cases: what the checks judge."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np

from compare.cases import with_cotangents
from compare.legs.dropout import MaskMismatchError, UnseenMaskError
from compare.legs.flax_leg import FlaxLeg, LayoutError
from compare.legs.numpy_leg import NumpyLeg
from compare.legs.run import Case, Run
from compare.legs.torch_leg import TorchLeg
from compare.result import UsageError
from compare.verdict import SAMENESS_FACTOR, compare_arrays, spread

__all__ = [
    "Evidence",
    "Gathered",
    "LegError",
    "Legs",
    "gather",
    "moved_by_rounding",
    "sentence_of",
    "spreads",
    "working_precision",
]

# Perturbed runs of the reference: with three the largest of them reaches half of the true spread nine times in ten,
# which the factors of the verdict cover. Where few numbers are moved all of them may miss the sensitive direction;
# there more runs cost nothing.
PERTURBED_RUNS = 3
_PERTURBED_RUNS_IF_SMALL = 8
_SMALL = 1000

_T = TypeVar("_T")


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
        moved: in place of each array of the reference how far one rounding moves it, a number.
        flax: Flax in float64.
        numpy: the NumPy reference, or None.
        torch32: torch in the working precision; None for a case that is compared forward only.
        error32: how far that is from the reference, at most, as it is and moved by one rounding.
        flax32: Flax in the working precision, likewise.
        constants: how far Flax moves with the constants that it holds in a lower precision; None without any.
        constant_names: these, with their places.
        conceded: known differences between the frameworks that the reference was brought to.
        condensed: whether the gradients were dropped, since both sides agree and all is known of them.
        compared: leaves by check, filled in by ``once``.
    """

    case: Case
    reference: Run
    moved: Run
    flax: Run
    numpy: Run | None = None
    torch32: Run | None = None
    error32: Run | None = None
    flax32: Run | None = None
    constants: Run | None = None
    constant_names: tuple[str, ...] = ()
    conceded: tuple[str, ...] = ()
    condensed: bool = False
    compared: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: str, compute: Callable[[], _T]) -> _T:
        """What ``compute`` finds about this very evidence, which several stages ask for."""
        if name not in self.compared:
            self.compared[name] = compute()
        return self.compared[name]

    @property
    def finite(self) -> bool:
        """Whether the reference's outputs are all finite."""
        return all(np.isfinite(array).all() for array in self.reference.outputs.values())


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What all runs gave.

    Args:
        evidence: the cases that ran on every leg.
        refused: probes that say nothing, by name with the reason: torch itself refuses them, or a function of the
            user's that brings one layout to the other does.
        broken: probes that torch takes and the port does not: the case, and what happened.
    """

    evidence: tuple[Evidence, ...] = ()
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    broken: tuple[tuple[Case, str], ...] = ()


def gather(
    legs: Legs,
    cases: Iterable[Case],
    mode: str,
    seed: int,
    keep: Callable[[Evidence], Evidence] = lambda item: item,
) -> Gathered:
    """Runs every leg on every case.

    Args:
        legs: of the port.
        cases: from ``make_cases``, the user's own first.
        mode: "eval" or "train"; in training mode torch's masks are recorded and replayed.
        seed: of cotangents, masks and perturbations.
        keep: what is kept of a case.

    Raises:
        UsageError: torch does not take the user's own inputs, or draws random numbers other than dropout's masks.
        LegError: another leg does not run where torch does, on the user's own inputs.
        MaskMismatchError: Flax drops other arrays than torch.
        UnseenMaskError: masks are drawn in a way that they can't be replayed in.
    """
    evidence: list[Evidence] = []
    refused: dict[str, str] = {}
    broken: list[tuple[Case, str]] = []
    for number, case in enumerate(cases):
        case_seed = seed + 100 * number
        try:
            case, reference = _reference(legs.torch64, case, mode, case_seed)
            moved = moved_by_rounding(legs.torch64, case, reference, case_seed)
            torch32, error32 = working_precision(legs.torch32, case, reference, case_seed)
        except (UsageError, UnseenMaskError):
            raise
        except Exception as error:
            if number == 0:
                raise UsageError(f"the torch model does not take these inputs: {sentence_of(error)}") from error
            refused[case.name] = sentence_of(error)
            continue
        if number == 0:
            _expect_real(reference)
            _expect_repeatable(reference, legs.torch64.run(case), mode)
        numpy_sees_it = legs.numpy is not None and (legs.numpy.remakes or case.name.startswith("given weights"))
        try:
            item = Evidence(
                case=case,
                reference=reference,
                moved=moved,
                flax=_run("flax", legs.flax64.run, case),
                numpy=_run("numpy", legs.numpy.run, case) if legs.numpy is not None and numpy_sees_it else None,
                torch32=torch32,
                error32=error32,
                flax32=None if case.forward_only else _run("flax", legs.flax32.run, case),
                constants=_moved_constants(legs.flax64, case, case_seed),
                constant_names=legs.flax64.constants,
            )
            evidence.append(keep(item))
            del item, reference, torch32  # not kept while the next case runs
        except LayoutError as error:
            if number == 0:
                raise UsageError(str(error)) from error
            refused[case.name] = str(error)
        except LegError as error:
            if number == 0:
                raise
            broken.append((case, str(error)))
    return Gathered(tuple(evidence), refused, tuple(broken))


def moved_by_rounding(
    torch64: TorchLeg,
    case: Case,
    reference: Run,
    seed: int,
    edit: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Run:
    """How far a rounding of weights, inputs and module outputs moves each array of the reference."""
    numbers = sum(array.size for array in case.weights.values())
    runs = _PERTURBED_RUNS_IF_SMALL if numbers < _SMALL else PERTURBED_RUNS
    return spreads(reference, (torch64.run(case, perturbation=seed + k, edit=edit()) for k in range(runs)), "float64")


def working_precision(
    torch32: TorchLeg,
    case: Case,
    reference: Run,
    seed: int,
    edit: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> tuple[Run | None, Run | None]:
    """torch's own result in the working precision, and how far that is from ``reference`` in place of each array."""
    if case.forward_only:
        return None, None
    try:
        plain = torch32.run(case, edit=edit())
    except Exception:  # torch has no kernel for some operations in 16 bits; then there is no accuracy to compare with
        if torch32.low is None:
            raise
        return None, None
    moved = (torch32.run(case, perturbation=k, edit=edit()) for k in (seed, seed + 1))
    return plain, spreads(reference, itertools.chain([plain], moved), "float32")


def _moved_constants(flax64: FlaxLeg, case: Case, seed: int) -> Run | None:
    if not flax64.constants:
        return None
    plain = flax64.run(case)
    runs = (flax64.run(case, constants_seed=k) for k in range(seed, seed + PERTURBED_RUNS))
    return spreads(plain, runs, "float64")


def spreads(reference: Run, runs: Iterable[Run], dtype: str) -> Run:
    """In place of each array of ``reference`` its spread over ``runs``, which are looked at one by one."""
    largest: dict[tuple[str, str], float] = {}
    for run in runs:
        for field, path, array in _arrays(reference):
            other = getattr(run, field).get(path)
            if other is not None and np.issubdtype(array.dtype, np.floating):
                key = field, path
                largest[key] = max(largest.get(key, 0.0), spread(array, [other.astype(np.float64)], dtype))
    fields: dict[str, dict[str, Any]] = {}
    for field, path, _ in _arrays(reference):
        fields.setdefault(field, {})[path] = np.array(largest.get((field, path), 0.0))
    outputs = fields.pop("outputs", {})
    return Run(
        outputs, fields.get("parameter_gradients", {}), fields.get("input_gradients", {}), fields.get("statistics", {})
    )


def _arrays(run: Run) -> Iterator[tuple[str, str, np.ndarray]]:
    for field in ("outputs", "parameter_gradients", "input_gradients", "statistics"):
        for path, array in getattr(run, field).items():
            if array is not None:
                yield field, path, array


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


def _expect_repeatable(first: Run, second: Run, mode: str) -> None:
    for path, array in first.outputs.items():
        # Two runs of one program on one machine: only sums in another order, by threads, may tell them apart.
        leaf = compare_arrays(
            path or "output", array, second.outputs[path], SAMENESS_FACTOR * spread(array, [], "float64")
        )
        if not leaf.agrees:
            if mode == "train":
                raise UnseenMaskError("the torch model draws random numbers in a way that can't be recorded", "torch")
            found = leaf.detail or f"a difference of {leaf.error:.3g} at {list(leaf.index or ())}"
            raise UsageError(
                "the torch model draws random numbers of its own (other than dropout's masks): expected the same from "
                f"two calls with the same inputs, found {found} in {leaf.path}; nothing can be compared with that"
            )


def _run(leg: str, run: Callable[[Case], Run], case: Case) -> Run:
    try:
        return run(case)
    except (UsageError, LayoutError, MaskMismatchError, UnseenMaskError):
        raise
    except Exception as error:
        model = {"flax": "Flax model", "numpy": "NumPy reference"}[leg]
        sentence = f"the {model} does not run on inputs that torch takes ({case.name}): {sentence_of(error)}"
        raise LegError(leg, sentence) from error


def sentence_of(error: Exception) -> str:
    """An exception on one line, cut where it grows long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
