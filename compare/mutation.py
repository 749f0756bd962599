"""How many small planted mistakes would a check of this model have noticed?

Each mutant is a small edit of the torch computation: of one call of a function, or of one parameter. It is noticed
if, in one of the cases of the check, it moves an output farther than the verdict allows.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from compare.case_weights import Replaced
from compare.cases import make_cases
from compare.hypotheses.call_arguments import Replacement
from compare.hypotheses.edit import Calls, Edit, Hypothesis
from compare.legs.run import Case, Run
from compare.legs.torch_leg import TorchLeg
from compare.port import Port
from compare.result import MutationScore, UsageError
from compare.rounding import moved_by_rounding
from compare.structure import is_floating
from compare.surroundings import own_surroundings
from compare.verdict import SAMENESS_FACTOR, compare_arrays

__all__ = ["mutation_score"]

Change = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Mutant:
    """An edit of a call, or a change of a parameter."""

    place: str
    edit: Edit | None = None
    parameter: str = ""
    change: Change = np.array


def mutation_score(
    torch_model: torch.nn.Module | Port,
    flax_model: Any = None,
    inputs: Any = None,
    *,
    max_mutants: int = 60,
    **fields: Any,
) -> MutationScore:
    """How many of up to ``max_mutants`` small planted mistakes ``check`` would have noticed.

    Only torch is run, forward and in float64: at most once for each mutant and case.

    Args:
        torch_model: the reference; or a ``Port``, which holds everything.
        flax_model: the port; it is not run.
        inputs: what both are called with.
        max_mutants: the most that are planted, drawn from all places if there are more.
        fields: further fields of ``Port``.

    Raises:
        UsageError: torch does not take the inputs, or ``max_mutants`` is not positive.
    """
    if max_mutants < 1:
        raise UsageError(f"max_mutants: expected at least 1, found {max_mutants}")
    port = torch_model if isinstance(torch_model, Port) else Port(torch_model, flax_model, inputs, **fields)
    with own_surroundings():
        leg = TorchLeg(port.torch_model, "float64", port.mode, port.torch_select, port.loss[0] if port.loss else None)
        cases = list(_prepared(port, leg))
        mutants = list(_mutants(leg, cases[0][0]))
        random = np.random.default_rng(port.seed)
        chosen = sorted(random.permutation(len(mutants))[:max_mutants])
        missed = [mutants[i].place for i in chosen if not _noticed(leg, mutants[i], cases)]
    return MutationScore(len(chosen), len(chosen) - len(missed), tuple(missed))


def _prepared(port: Port, leg: TorchLeg) -> Iterator[tuple[Case, Run, Run]]:
    """The cases that torch takes, each with its outputs and how far rounding moves them."""
    for number, case in enumerate(make_cases(port, leg)):
        try:
            if port.mode == "train":
                case = dataclasses.replace(case, masks=leg.record_masks(case, port.seed + number))
            reference = leg.run(case)
            yield case, reference, moved_by_rounding(leg, case, reference, port.seed + 100 * number)
        except Exception as error:
            if number == 0:
                sentence = f"{type(error).__name__}: {error}"
                raise UsageError(f"the torch model does not take these inputs: {sentence}") from error


def _noticed(leg: TorchLeg, mutant: _Mutant, cases: Sequence[tuple[Case, Run, Run]]) -> bool:
    for case, reference, moved in cases:
        if case.aside or (mutant.edit and case.forward_only):  # another size may call other functions
            continue
        weights = case.weights
        if mutant.parameter:
            weights = Replaced(weights, {mutant.parameter: mutant.change(weights[mutant.parameter])})
        hypotheses = [Hypothesis("", "", "", (mutant.edit,))] if mutant.edit else []
        try:
            found = leg.run(dataclasses.replace(case, weights=weights), edit=Calls(leg.model, hypotheses))
        except Exception:  # a model that breaks is noticed
            return True
        if any(
            not compare_arrays(path, array, found.outputs[path], SAMENESS_FACTOR * float(moved.outputs[path])).agrees
            for path, array in reference.outputs.items()
            if is_floating(array)
        ):
            return True
    return False


def _mutants(leg: TorchLeg, case: Case) -> Iterator[_Mutant]:
    calls = Calls(leg.model, recording=True)
    leg.run(case, edit=calls)
    for site in calls.sites:
        where = f"{site.function} (call {site.number})" + (f" in {site.module}" if site.module else "")
        for words, replace in _EDITS.get(site.function, ()):
            yield _Mutant(f"{where}: {words}", Edit(site, replace))
    for name, parameter in leg.model.named_parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        yield _Mutant(f"{name}: scaled by 1.001", parameter=name, change=lambda array: array * 1.001)
        if parameter.ndim == 1:
            yield _Mutant(f"{name}: left out", parameter=name, change=_left_out(name))
        elif parameter.ndim == 2 and parameter.shape[0] == parameter.shape[1] > 1:
            yield _Mutant(f"{name}: transposed", parameter=name, change=np.transpose)


def _left_out(name: str) -> Change:
    """Zeros for a bias, ones for a scale."""
    return np.ones_like if name.rpartition(".")[2] in ("weight", "scale", "gamma") else np.zeros_like


def _instead(function: Callable[[torch.Tensor], torch.Tensor]) -> Replacement:
    return lambda func, args, kwargs: function(args[0] if args else kwargs["input"])


def _another_epsilon(func: Any, args: Any, kwargs: Any) -> Any:
    """A tenth of the epsilon, which both frameworks' layers differ by."""
    if isinstance(kwargs.get("eps"), float):
        return func(*args, **{**kwargs, "eps": kwargs["eps"] / 10})
    at = next((i for i in reversed(range(len(args))) if isinstance(args[i], float) and 0 < args[i] < 1e-2), None)
    if at is None:
        return func(*args, **kwargs) * (1 + 1e-5)  # the epsilon is the layer's own default
    return func(*args[:at], args[at] / 10, *args[at + 1 :], **kwargs)


def _scaled(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs) * 1.001


def _other_gelu(func: Any, args: Any, kwargs: Any) -> Any:
    here = kwargs.get("approximate", args[1] if len(args) > 1 else "none")
    return F.gelu(args[0] if args else kwargs["input"], approximate="none" if here == "tanh" else "tanh")


_NORM = [("a tenth of the epsilon", _another_epsilon)]
_BEYOND = ("one part in a thousand larger", _scaled)
_EDITS: dict[str, Sequence[tuple[str, Replacement]]] = {
    "layer_norm": _NORM,
    "batch_norm": _NORM,
    "group_norm": _NORM,
    "instance_norm": _NORM,
    "rms_norm": _NORM,
    "normalize": _NORM,
    "relu": [
        ("a slope of 0.01 below zero", _instead(lambda x: F.leaky_relu(x, 0.01))),
        ("clipped at 6", _instead(F.relu6)),
    ],
    "relu_": [("a slope of 0.01 below zero", _instead(lambda x: F.leaky_relu(x, 0.01)))],
    "relu6": [("not clipped", _instead(torch.relu))],
    "hardtanh": [("not clipped", _instead(lambda x: x))],
    "leaky_relu": [("a slope of 0.02 below zero", _instead(lambda x: F.leaky_relu(x, 0.02)))],
    "gelu": [("the other form", _other_gelu)],
    "silu": [("gelu", _instead(lambda x: F.gelu(x)))],
    "elu": [("selu", _instead(F.selu))],
    "tanh": [("its rational approximation x / (1 + |x|)", _instead(F.softsign))],
    "sigmoid": [("hard sigmoid", _instead(F.hardsigmoid))],
    "softplus": [("relu", _instead(torch.relu))],
    "softmax": [_BEYOND],
    "log_softmax": [("softmax", _instead(lambda x: F.softmax(x, -1)))],
    "scaled_dot_product_attention": [_BEYOND],
    "matmul": [_BEYOND],
    "bmm": [_BEYOND],
    "einsum": [_BEYOND],
    "add": [_BEYOND],
    "mul": [_BEYOND],
    "mean": [_BEYOND],
    "sum": [_BEYOND],
    "max_pool2d": [_BEYOND],
    "avg_pool2d": [_BEYOND],
    "adaptive_avg_pool2d": [_BEYOND],
    "embedding": [_BEYOND],
}
