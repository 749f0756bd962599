"""Where torch itself is the odd one out: known differences that no port can be blamed for.

Each is an edit of the torch computation that brings it to what Flax computes by nature. A port that agrees with the
edited reference to rounding, and in no other way, is right, and the report says what was conceded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from compare.checks.gradients import check_gradients
from compare.checks.outputs import check_outputs
from compare.constants import allow_for_tables
from compare.evidence import Evidence, Legs
from compare.weights import WeightMapping

__all__ = ["concede"]


def _softplus(func: Any, input: torch.Tensor, beta: float = 1.0, threshold: float = 20.0) -> torch.Tensor:
    return torch.logaddexp(beta * input, torch.zeros((), dtype=input.dtype)) / beta


def _hardsigmoid(func: Any, input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    return torch.nn.functional.relu6(input + 3) / 6


def _hardswish(func: Any, input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    return input * _hardsigmoid(func, input)


def _embedding(func: Any, input: torch.Tensor, weight: torch.Tensor, padding_idx: Any = None, **rest: Any) -> Any:
    return func(input, weight, padding_idx=None, **rest)


@dataclasses.dataclass(frozen=True)
class _Concession:
    """An edit of every call of one function.

    Args:
        function: its name.
        replace: what it computes instead.
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
    def __init__(self, concession: _Concession) -> None:
        super().__init__()
        self.concession = concession
        self.used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") != self.concession.function:
            return func(*args, **kwargs)
        self.used = True
        return self.concession.replace(func, *args, **kwargs)


def concede(
    legs: Legs, mapping: WeightMapping, model: torch.nn.Module, evidence: Sequence[Evidence]
) -> tuple[Evidence, ...]:
    """The evidence, in the cases that agree only so with its reference edited, or with room for rounded tables."""
    return tuple(item if _agrees(item) else _conceded(legs, mapping, model, item) for item in evidence)


def _conceded(legs: Legs, mapping: WeightMapping, model: torch.nn.Module, item: Evidence) -> Evidence:
    with_tables = allow_for_tables(legs, mapping, model, item)
    if _agrees(with_tables):
        return with_tables
    for concession in _CONCESSIONS:
        edit = _Conceding(concession)
        reference = legs.torch64.run(item.case, edit=edit)
        if not edit.used:
            continue
        edited = dataclasses.replace(item, reference=reference, conceded=(concession.sentence,))
        if _agrees(edited):
            return edited
    return item


def _agrees(item: Evidence) -> bool:
    return "failed" not in (check_outputs([item], True).status, check_gradients([item], True).status)
