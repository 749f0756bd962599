"""Where torch itself is the odd one out: known differences that no port can be blamed for.

Each is an edit of the torch computation that brings it to what Flax computes by nature. A port that agrees with the
edited reference to rounding, and in no other way, is right, and the report says what was conceded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from compare.checks.outputs import check_outputs
from compare.checks.sameness import same
from compare.condensing import condensed, without_gradients
from compare.constants import allow_for_tables
from compare.evidence import Evidence, Legs, restored
from compare.mapping.weight_mapping import WeightMapping
from compare.rounding import flax_in_working_precision, moved_by_rounding, working_precision

__all__ = ["concede"]


# From here on torch's softplus returns its input: off by exp(-20) / 20, 1e-10 of the value. A smaller threshold is a
# choice of the model's author, and a port that leaves it out computes something else.
_UNSEEN_THRESHOLD = 20.0


def _softplus(func: Any, input: torch.Tensor, beta: float = 1.0, threshold: float = 20.0) -> Any:
    if threshold < _UNSEEN_THRESHOLD:
        return NotImplemented
    return torch.logaddexp(beta * input, torch.zeros((), dtype=input.dtype)) / beta


def _hardsigmoid(func: Any, input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    return torch.nn.functional.relu6(input + 3) / 6


def _hardswish(func: Any, input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    return input * _hardsigmoid(func, input)


def _embedding(func: Any, input: torch.Tensor, weight: torch.Tensor, padding_idx: Any = None, **rest: Any) -> Any:
    if padding_idx in (None, -1):  # as the kernel is told that there is none
        return NotImplemented
    return func(input, weight, padding_idx=None, **rest)


@dataclasses.dataclass(frozen=True)
class _Concession:
    """An edit of every call of one function.

    Args:
        function: its name.
        replace: what it computes instead; NotImplemented for a call that it does not concern.
        sentence: what the report says.
    """

    function: str
    replace: Callable[..., Any]
    sentence: str


_CONCESSIONS = (
    _Concession(
        "softplus", _softplus, "torch's softplus is the identity beyond its threshold, to 2e-9, the port's is not"
    ),
    _Concession("hardsigmoid", _hardsigmoid, "torch's hardsigmoid holds 1/6 in float32, the port does not"),
    _Concession("hardswish", _hardswish, "torch's hardswish holds 1/6 in float32, the port does not"),
    _Concession("embedding", _embedding, "the row of padding_idx takes no gradient in torch, but does in the port"),
)


class _Conceding(TorchFunctionMode):
    def __init__(self, concessions: Sequence[_Concession]) -> None:
        super().__init__()
        self.replace = {concession.function: concession.replace for concession in concessions}
        self.used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        replace = self.replace.get(getattr(func, "__name__", ""))
        if replace is None:
            return func(*args, **kwargs)
        returned = replace(func, *args, **kwargs)
        if returned is NotImplemented:
            return func(*args, **kwargs)
        self.used = True
        return returned


def concede(
    legs: Legs, mapping: WeightMapping, model: torch.nn.Module, evidence: Sequence[Evidence]
) -> tuple[Evidence, ...]:
    """The evidence, in the cases that agree only so with its reference edited, or with room for rounded tables."""
    found = list(evidence)
    for number, item in enumerate(evidence):
        if same(item):
            continue
        hopeless = _differs_forward(legs, mapping, model, item)
        conceded = None if hopeless else _conceded(legs, mapping, model, restored(legs, item))
        if conceded is not None:
            found[number] = condensed(conceded)
        elif not item.case.aside and not same(item, strict=False):
            break  # the port fails, whatever may be said of other cases
    return tuple(found)


def _differs_forward(legs: Legs, mapping: WeightMapping, model: torch.nn.Module, item: Evidence) -> bool:
    """Whether a large model's outputs differ whatever is conceded; told without gradients, which are as large as it."""
    if not legs.torch64.large or check_outputs([item], strict=True).status != "failed":
        return False
    case = dataclasses.replace(item.case, cotangents={})
    forward = dataclasses.replace(
        item, case=case, reference=without_gradients(item.reference), flax=without_gradients(item.flax), condensed=False
    )
    return _conceded(legs, mapping, model, forward) is None


def _conceded(legs: Legs, mapping: WeightMapping, model: torch.nn.Module, item: Evidence) -> Evidence | None:
    edits = [[concession] for concession in _CONCESSIONS if _used(legs, item, concession)]
    if len(edits) > 1:
        edits.append([concession for (concession,) in edits])
    edited = [(several, _edited(legs, item, several)) for several in edits]
    for several, one in edited:
        if same(one):
            return _with_accuracy(legs, one, several)
    with_tables = allow_for_tables(legs, mapping, model, item)
    for several, one in ([], item), *edited:
        if same(wider := _with_room(one, with_tables)):
            return _with_accuracy(legs, wider, several) if several else wider
    return None


def _with_room(item: Evidence, tables: Evidence) -> Evidence:
    return dataclasses.replace(item, constants=tables.constants, constant_names=tables.constant_names)


def _used(legs: Legs, item: Evidence, concession: _Concession) -> bool:
    edit = _Conceding([concession])
    legs.torch64.run(dataclasses.replace(item.case, cotangents={}), edit=edit)
    return edit.used


def _edited(legs: Legs, item: Evidence, concessions: Sequence[_Concession]) -> Evidence:
    reference = legs.torch64.run(item.case, edit=_Conceding(concessions))
    moved = moved_by_rounding(legs.torch64, item.case, reference, 0, lambda: _Conceding(concessions))
    conceded = tuple(concession.sentence for concession in concessions)
    return dataclasses.replace(item, reference=reference, moved=moved, conceded=conceded)


def _with_accuracy(legs: Legs, item: Evidence, concessions: Sequence[_Concession]) -> Evidence:
    """``item`` with torch in the working precision under the same edits."""
    torch32, error32 = working_precision(legs.torch32, item.case, item.reference, 0, lambda: _Conceding(concessions))
    if item.flax32 is None:
        return dataclasses.replace(item, torch32=torch32, error32=error32)
    flax32, gradients32 = flax_in_working_precision(legs.flax32, item.case, item.reference, error32)
    return dataclasses.replace(item, torch32=torch32, error32=error32, flax32=flax32, gradients32=gradients32)
