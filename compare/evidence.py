"""All runs of all legs on all cases: what the checks judge."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from compare.cases import with_cotangents
from compare.legs.dropout import MaskMismatchError, UnseenMaskError
from compare.legs.flax_leg import FlaxLeg, LayoutError
from compare.legs.memory import give_back
from compare.legs.numpy_leg import NumpyLeg
from compare.legs.run import Case, Run
from compare.legs.torch_leg import TorchLeg
from compare.result import Leaf, UsageError
from compare.rounding import flax_in_working_precision, moved_by_rounding, working_precision
from compare.verdict import SAMENESS_FACTOR, compare_arrays, spread

__all__ = [
    "Evidence",
    "Gathered",
    "LegError",
    "Legs",
    "Step",
    "by_torch",
    "gather",
    "restored",
    "sentence_of",
]

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
        torch32: torch's outputs in the working precision; None for a case that is compared forward only.
        error32: how far that is from the reference, at most, as it is and moved by one rounding.
        flax32: Flax's outputs in the working precision, likewise.
        gradients32: its gradients, each compared with the reference and allowed what torch's own error tells.
        constants: how far Flax moves with the constants that it holds in a lower precision; None without any.
        constant_names: these, with their places.
        conceded: known differences between the frameworks that the reference was brought to.
        condensed: whether the gradients were dropped, since all is known of them; ``restored`` computes them again.
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
    gradients32: Mapping[str, Leaf] = dataclasses.field(default_factory=dict)
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


Step = Callable[[Evidence], Evidence]


def gather(
    legs: Legs,
    cases: Iterable[Case],
    mode: str,
    seed: int,
    keep: Sequence[Step] = (),
    enough: Callable[[Evidence], bool] = lambda item: False,
) -> Gathered:
    """Runs every leg on every case.

    Args:
        legs: of the port.
        cases: from ``make_cases``, the user's own first.
        mode: "eval" or "train"; in training mode torch's masks are recorded and replayed.
        seed: of cotangents, masks and perturbations.
        keep: steps that bring a case to what is kept of it, one after the other: what one drops is gone in the next.
        enough: whether a case, as it is kept, makes further ones needless.

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
        try:
            item = _by_the_port(legs, by_torch(legs, case, mode, seed + 100 * number, first=number == 0))
        except (UsageError, UnseenMaskError, MaskMismatchError):
            raise
        except LayoutError as error:
            if number == 0:
                raise UsageError(str(error)) from error
            refused[case.name] = str(error)
        except LegError as error:
            if number == 0:
                raise
            broken.append((case, str(error)))
        except Exception as error:
            if number == 0:
                raise UsageError(f"the torch model does not take these inputs: {sentence_of(error)}") from error
            refused[case.name] = sentence_of(error)
        else:
            for step in keep:
                item = step(item)
            evidence.append(item)
            del item  # not kept while the next case runs
            give_back()
            if enough(evidence[-1]):
                break
    return Gathered(tuple(evidence), refused, tuple(broken))


def by_torch(legs: Legs, case: Case, mode: str, seed: int, first: bool = False) -> Evidence:
    """All that torch says about a case; what Flax says is not there yet."""
    case, reference = _reference(legs.torch64, case, mode, seed)
    if first:
        _expect_real(reference)
        _expect_repeatable(reference, legs.torch64.run(dataclasses.replace(case, cotangents={})), mode)
    moved = moved_by_rounding(legs.torch64, case, reference, seed)
    legs.torch64.unload()
    torch32, error32 = working_precision(legs.torch32, case, reference, seed)
    legs.torch32.unload()
    return Evidence(case, reference, moved, Run(outputs={}), torch32=torch32, error32=error32)


def _by_the_port(legs: Legs, item: Evidence) -> Evidence:
    """``item`` with what Flax and NumPy say."""
    case, numpy = item.case, legs.numpy
    if not case.forward_only:
        judged = functools.partial(flax_in_working_precision, reference=item.reference, error32=item.error32)
        flax32, gradients32 = _run("flax", functools.partial(judged, legs.flax32), case)
        item = dataclasses.replace(item, flax32=flax32, gradients32=gradients32)
        give_back()
    item = _frozen_alike(legs, dataclasses.replace(item, flax=_run("flax", legs.flax64.run, case)))
    if numpy is not None and (numpy.remakes or case.name.startswith("given weights")):
        item = dataclasses.replace(item, numpy=_run("numpy", numpy.run, case))
    return item


def _frozen_alike(legs: Legs, item: Evidence) -> Evidence:
    """``item``, parameters frozen on both sides without gradient.

    A port may leave to its optimiser what ``requires_grad=False`` says in torch, and then it has the gradients of the
    function; or it stops them, which torch does in all that follows too.
    """
    gradients = item.flax.parameter_gradients
    stopped = [name for name in legs.torch64.frozen if name in gradients and gradients[name] is None]
    if not stopped:
        return item
    for leg in (legs.torch64, legs.torch32):
        leg.freeze(stopped)
    kept = {**item.reference.parameter_gradients, **dict.fromkeys(stopped)}
    return dataclasses.replace(item, reference=dataclasses.replace(item.reference, parameter_gradients=kept))


def restored(legs: Legs, item: Evidence) -> Evidence:
    """``item`` with its gradients."""
    if not item.condensed:
        return item
    reference, flax = legs.torch64.run(item.case), legs.flax64.run(item.case)
    numpy = None if item.numpy is None or legs.numpy is None else legs.numpy.run(item.case)
    whole = dataclasses.replace(item, reference=reference, flax=flax, numpy=numpy, condensed=False)
    whole.compared.update(item.compared)
    return whole


def _reference(torch64: TorchLeg, case: Case, mode: str, seed: int) -> tuple[Case, Run]:
    """``case`` with masks and cotangents, whose shapes only a run can tell, and torch's run of it."""
    if mode == "train":
        case = dataclasses.replace(case, masks=torch64.record_masks(case, seed))
    forward = torch64.run(case)
    case = with_cotangents(case, forward.outputs, seed)
    return case, torch64.run(case) if case.cotangents else forward


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


def _run(leg: str, run: Callable[[Case], _T], case: Case) -> _T:
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
